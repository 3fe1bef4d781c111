"""Do the kernels for GPUs beat the plain ways they replace, and by how much?

    python -m tests.benchmarks.bench_kernels [--batch 128] [--clips 75]     (needs a GPU)

Milliseconds of one call, forward and backward together, in the shapes of the published model
(M 30, H 8, Dh 32, P 4, F 256; start, centre and end of each reference; 75 clips, 17 tokens), in
bfloat16, median of many. The first row of each group is its baseline; `memory` is
what a call allocates at most. Attention backends that are not installed say so.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jsonargparse
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.testing import do_bench

from model.layers.attention import attention
from model.layers.deformable import deformable_sample, sample_linear

M, HEADS, WIDTH, POINTS, TOKENS = 30, 8, 256, 4, 17
Ways = dict[str, Callable[[], Tensor]]


def measure(batch: int = 32, clips: int = 75) -> None:
    """Print the table.

    Args:
        batch: pairs
        clips: of each video
    """
    torch.set_default_device("cuda")
    torch.manual_seed(0)
    table = Table("what", "way", "ms", "times the baseline's speed", "memory, MiB", box=None)
    for name, leaves, ways in groups(batch, clips):
        baseline = None
        for way, call in ways.items():
            try:
                milliseconds, memory = cost(call, leaves)
            except (ImportError, ValueError) as error:
                table.add_row(name, way, "-", str(error).split(":")[0], "")
                continue
            baseline = baseline or milliseconds
            ratio = baseline / milliseconds
            table.add_row(name, way, f"{milliseconds:.3f}", f"{ratio:.2f}", f"{memory:.0f}")
    console = Console(width=120)
    console.print(table)
    console.print(
        f"B {batch}, L {clips}, {torch.cuda.get_device_name()}, torch {torch.__version__}"
    )


def groups(batch: int, clips: int) -> list[tuple[str, Sequence[Tensor], Ways]]:
    """What is compared: a name, the inputs that take a gradient, and the ways to compute it."""
    value = half(batch, clips, HEADS, WIDTH // HEADS)
    locations = torch.rand(batch, M, HEADS, POINTS, requires_grad=True)
    weights = torch.rand(batch, M, HEADS, POINTS, requires_grad=True)
    length = torch.full((batch,), clips)
    sampled = (value, locations, weights)

    memory = half(batch, clips, WIDTH)
    ends = torch.rand(batch, M, 3, requires_grad=True)
    query, key = half(batch, HEADS, clips, 32), half(batch, HEADS, TOKENS, 32)
    mask = torch.ones(batch, TOKENS, dtype=torch.bool)
    mask[::2, -5:] = False
    plain = torch.compile(deformable_sample)
    return [
        (
            "deformable sampling",
            sampled,
            {
                "torch": lambda: deformable_sample(*sampled, length),
                "torch, compiled": lambda: plain(*sampled, length),
                "triton": lambda: deformable_sample(*sampled, length, "triton"),
            },
        ),
        (
            "endpoints of references",
            (memory, ends),
            {
                "torch": lambda: sample_linear(memory, ends, length),
                "triton": lambda: sample_linear(memory, ends, length, "triton"),
            },
        ),
        (
            "attention to the tokens",
            (query, key),
            {
                backend: lambda backend=backend: attention(query, key, key, mask, backend=backend)
                for backend in ("sdpa", "xformers", "flash")
            },
        ),
        (
            "attention among the clips",
            (query,),
            {
                backend: lambda backend=backend: attention(query, query, query, backend=backend)
                for backend in ("sdpa", "xformers", "flash")
            },
        ),
    ]


def half(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def cost(call: Callable[[], Tensor], leaves: Sequence[Tensor]) -> tuple[float, float]:
    """Milliseconds and MiB of a call and its backward."""
    gradient = torch.randn_like(call())

    def both() -> Any:
        return torch.autograd.grad(call(), leaves, gradient)

    both()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    memory = (torch.cuda.max_memory_allocated() - before) / 2**20
    return do_bench(both, return_mode="median"), memory


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(measure))
