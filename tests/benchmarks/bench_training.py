"""How fast does SDST train on a CPU, and what part of the machine's matrix rate does it reach?

python -m tests.benchmarks.bench_training [--repeats 8]

Whole training steps (forward, losses, backward, clipping, AdamW) at the published QVHighlights
shape: B 32, L 75, T 17, K 4, inputs 768 / 1024, M 30, F 256, two threads. Beside it a stock
torch.nn.Transformer of Moment-DETR's shape on its 3842-wide inputs. Every case has a process of its
own; a large matrix product is timed before every step, so that other load meets both alike, and
rates are the best of all repeats. FLOPs are counted by torch from the products of the step itself.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jsonargparse
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model.losses import Criterion, LossConfig
from model.sdst import SDST, SDSTConfig

B, L, T, K, N = 32, 75, 17, 4, 3
THREADS = 2
GEMM = 1536  # rows of the square float32 product that measures the machine's rate

Step = Callable[[], None]


def measure(repeats: int = 8) -> None:
    """Print the table.

    Args:
        repeats: timed steps of each case; the best counts
    """
    cases = ("SDST eager", "SDST compiled", "baseline eager")
    results = {case: in_own_process(case, repeats) for case in cases}
    table = Table("", *cases, box=None)
    table.add_row("pairs/s", *(f"{r['pairs']:.1f}" for r in results.values()))
    table.add_row("GFLOP a pair", *(f"{r['flops'] / B / 1e9:.2f}" for r in results.values()))
    table.add_row("GFLOP/s", *(f"{r['rate'] / 1e9:.0f}" for r in results.values()))
    table.add_row("GEMM, GFLOP/s", *(f"{r['gemm'] / 1e9:.0f}" for r in results.values()))
    table.add_row("share of GEMM", *(f"{r['rate'] / r['gemm']:.0%}" for r in results.values()))
    table.add_row("by processor time", *(f"{r['share']:.0%}" for r in results.values()))
    table.add_row("memory of the step, MiB", *(f"{r['memory']:.0f}" for r in results.values()))
    table.add_row("trainable, M", *(f"{r['parameters'] / 1e6:.2f}" for r in results.values()))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"B {B}, L {L}, T {T}, K {K}, {THREADS} threads, best of {repeats}; load average "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}",
        highlight=False,
    )
    growth(console)


def in_own_process(case: str, repeats: int) -> dict[str, float]:
    """The numbers of one case, measured in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(time_case, (case, repeats))


def time_case(case: str, repeats: int) -> dict[str, float]:
    """Rates in FLOP/s and pairs/s, FLOPs of a step, MiB that the steps added to the process."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    gemm = square_product()
    gemm()
    before = peak_memory()
    model, step = (baseline if case.startswith("baseline") else sdst)(case.endswith("compiled"))
    step()
    step()
    memory = peak_memory() - before  # compiling itself needs memory too: it counts
    gemm_times, step_times = [], []
    for _ in range(repeats):
        gemm_times.append(timed(gemm))
        step_times.append(timed(step))
    (gemm_wall, gemm_busy), (step_wall, step_busy) = (
        map(min, zip(*times, strict=True)) for times in (gemm_times, step_times)
    )
    flops = float(count(case.replace("compiled", "eager")))
    product = 2.0 * GEMM**3
    return {
        "pairs": B / step_wall,
        "flops": flops,
        "rate": flops / step_wall,
        "gemm": product / gemm_wall,
        "share": (flops / step_busy) / (product / gemm_busy),
        "memory": memory,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def count(case: str) -> int:
    """FLOPs of one training step: its matrix products and convolutions, forward and backward."""
    _, step = (baseline if case.startswith("baseline") else sdst)(False)
    return flops_of(step)


def count_shape(clips: int, queries: int) -> int:
    """FLOPs of one training step of SDST with other numbers of clips and queries."""
    _, step = sdst(False, clips, queries)
    return flops_of(step)


def flops_of(step: Step) -> int:
    """What torch counts while a step runs."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def square_product() -> Step:
    a, b = torch.randn(2, GEMM, GEMM)
    out = torch.empty(GEMM, GEMM)

    def product() -> None:
        torch.mm(a, b, out=out)

    return product


def timed(work: Step) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def peak_memory() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def sdst(compiled: bool, clips: int = L, queries: int = 30) -> tuple[nn.Module, Step]:
    """SDST and one training step of it."""
    model = SDST(SDSTConfig(queries=queries))
    network: Any = torch.compile(model) if compiled else model
    criterion = Criterion(LossConfig())
    video, text = torch.randn(B, clips, K, 768), torch.randn(B, T, K, 1024)
    clip_mask, token_mask = torch.ones(B, clips).bool(), torch.ones(B, T).bool()
    windows, real = torch.rand(B, N, 2) * 0.4 + 0.1, torch.ones(B, N).bool()
    saliency = (torch.rand(B, clips) > 0.7).float()

    def loss() -> Tensor:
        prediction = network(video, clip_mask, text, token_mask)
        total: Tensor = criterion(prediction, windows, real, saliency, clip_mask)[0]
        return total

    return model, training_step(model, loss)


class MomentDETR(nn.Module):
    """Moment-DETR's shape in stock modules: two projections, nn.Transformer, two heads."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()

        def projection(inputs: int) -> nn.Sequential:
            first = (nn.LayerNorm(inputs), nn.Dropout(0.5), nn.Linear(inputs, width), nn.ReLU())
            return nn.Sequential(
                *first, nn.LayerNorm(width), nn.Dropout(0.5), nn.Linear(width, width)
            )

        self.video, self.text = projection(3842), projection(1024)
        self.transformer = nn.Transformer(width, 8, 2, 2, 1024, batch_first=True)
        self.queries = nn.Embedding(10, width)
        self.span = nn.Sequential(
            *(nn.Linear(width, width), nn.ReLU()) * 2,
            nn.Linear(width, 2),
        )
        self.classify = nn.Linear(width, 2)

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """video (B, L, 3842), text (B, T, 1024) -> spans (B, 10, 2), logits (B, 10, 2)."""
        source = torch.cat((self.video(video), self.text(text)), 1)  # (B, L + T, F)
        hidden = self.transformer(source, self.queries.weight.expand(len(video), -1, -1))
        return self.span(hidden).sigmoid(), self.classify(hidden)


def baseline(compiled: bool) -> tuple[nn.Module, Step]:
    """The stock transformer and one training step of it, with a loss that costs nothing."""
    model = MomentDETR()
    network: Any = torch.compile(model) if compiled else model
    video, text = torch.randn(B, L, 3842), torch.randn(B, T, 1024)

    def loss() -> Tensor:
        spans, logits = network(video, text)
        total: Tensor = spans.mean() + logits.log_softmax(-1)[..., 0].mean()
        return total

    return model, training_step(model, loss)


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
        optimizer.step()

    return step


def growth(console: Console) -> None:
    """Print how the FLOPs grow with clips and queries, the squares of self-attention left out.

    Lengths stay where attention is made of plain products (`model.attention.SHORT`): torch counts
    its fused kernel differently.
    """
    table = Table("L", "M", "GFLOP a pair", "without L x L and M x M", "each added", box=None)
    for shapes in ([(40, 30), (80, 30), (120, 30)], [(75, 30), (75, 60), (75, 120)]):
        previous: tuple[int, float] | None = None
        for clips, queries in shapes:
            total = count_shape(clips, queries) / B / 1e9
            # Scores and mixtures, 2 F each way per pair of tokens, once forward, twice backward.
            rest = total - K * 3 * 4 * 256 * (clips**2 + queries**2) / 1e9
            size = clips + queries
            slope = ""
            if previous:
                slope = f"{1e3 * (rest - previous[1]) / (size - previous[0]):.2f} MFLOP"
            table.add_row(str(clips), str(queries), f"{total:.3f}", f"{rest:.3f}", slope)
            previous = size, rest
    console.print(table)


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(measure))
