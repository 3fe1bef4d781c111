"""How fast does each kind of model train, and what part of the machine's matrix rate is reached?

    python -m tests.benchmarks.bench_training                               (two threads of a CPU)
    python -m tests.benchmarks.bench_training --device cuda [--batch 256]

Whole training steps (forward, losses, backward, clipping, AdamW) at the published QVHighlights
shape: B 32, L 75, T 17, F 256; SDST with K 4, inputs 768 / 1024 and M 30, the other kinds as
published, on as many inputs as SDST's four layers have. Beside them a stock torch.nn.Transformer of
Moment-DETR's shape on the same 3842-wide inputs, with a loss that costs nothing. Every case has a
process of its own; a large matrix product in the case's arithmetic is timed before every step, so
that other load meets both alike, and rates are the best of all repeats. FLOPs are counted by torch
from the products of the case's own step.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jsonargparse
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from launch.parameters import parameter_table
from model.config import Kernel
from model.kinds import KINDS, build, build_objective

L, T, K, N = 75, 17, 4, 3
COUNTED = 32  # pairs whose FLOPs are counted
THREADS = 2
GEMM = {"cpu": 1536, "cuda": 8192}  # rows of the square product that measures the machine's rate

Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    name: str
    batch: int = COUNTED
    device: str = "cpu"
    bf16: bool = False
    compiled: bool = False
    sampling: Kernel = "torch"
    baseline: bool = False
    kind: str = "sdst"


def cases(device: str, batch: int) -> list[Case]:
    """The columns of the table."""
    here = partial(Case, batch=batch, device=device)
    if device == "cpu":
        return [
            here("SDST eager"),
            here("SDST compiled", compiled=True),
            here("SDST bf16", bf16=True),
            *(here(kind, kind=kind) for kind in KINDS if kind != "sdst"),
            here("baseline eager", baseline=True),
            here("baseline bf16", baseline=True, bf16=True),
        ]
    half = partial(here, bf16=True)
    return [
        here("fp32"),
        half("bf16"),
        half("bf16, triton", sampling="triton"),
        half("compiled", compiled=True),
        half("compiled, triton", compiled=True, sampling="triton"),
        half("baseline", baseline=True),
        half("baseline compiled", baseline=True, compiled=True),
    ]


def measure(repeats: int = 8, device: Literal["cpu", "cuda"] = "cpu", batch: int = COUNTED) -> None:
    """Print the table.

    Args:
        repeats: timed steps of each case; the best counts
        device: cpu or cuda
        batch: pairs of a step
    """
    console, results = Console(width=130), {}
    for case in cases(device, batch):
        results[case.name] = in_own_process(case, repeats)
        console.print(f"{case.name}: {results[case.name]['pairs']:.1f} pairs/s", highlight=False)
    table = Table("", *results, box=None)
    columns = list(results.values())
    table.add_row("pairs/s", *(f"{r['pairs']:.1f}" for r in columns))
    table.add_row("GFLOP a pair", *(f"{r['flops'] / 1e9:.2f}" for r in columns))
    table.add_row("GFLOP/s", *(f"{r['rate'] / 1e9:.0f}" for r in columns))
    table.add_row("GEMM, GFLOP/s", *(f"{r['gemm'] / 1e9:.0f}" for r in columns))
    table.add_row("share of GEMM", *(f"{r['rate'] / r['gemm']:.1%}" for r in columns))
    if device == "cpu":
        table.add_row("by processor time", *(f"{r['share']:.0%}" for r in columns))
    table.add_row("memory of the step, MiB", *(f"{r['memory']:.0f}" for r in columns))
    table.add_row("trainable, M", *(f"{r['parameters'] / 1e6:.2f}" for r in columns))
    console.print(table)
    if device == "cpu":
        parts(console, [case for case in cases(device, batch) if not case.compiled])
    where = f"{THREADS} threads" if device == "cpu" else torch.cuda.get_device_name()
    console.print(
        f"B {batch}, L {L}, T {T}, K {K}, {where}, best of {repeats}; load average "
        f"{os.getloadavg()[0]:.1f}; torch {torch.__version__}",
        highlight=False,
    )
    if device == "cpu":
        growth(console)


def in_own_process(case: Case, repeats: int) -> dict[str, float]:
    """The numbers of one case, measured in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(time_case, case, repeats).result()


def time_case(case: Case, repeats: int) -> dict[str, float]:
    """Rates in FLOP/s and pairs/s, FLOPs of a pair, MiB that the steps added to the process."""
    if case.device == "cpu":
        torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    gemm = square_product(case)
    gemm()
    before = peak_memory(case.device)
    model, step = prepare(case)
    for _ in range(2 if case.device == "cpu" else 8):
        step()
    memory = peak_memory(case.device) - before  # on a CPU what compiling needs counts too
    gemm_times, step_times = [], []
    for _ in range(repeats):
        gemm_times.append(timed(gemm, case.device))
        step_times.append(timed(step, case.device))
    (gemm_wall, gemm_busy), (step_wall, step_busy) = (
        map(min, zip(*times, strict=True)) for times in (gemm_times, step_times)
    )
    flops = float(count(case))
    product = 2.0 * GEMM[case.device] ** 3
    return {
        "pairs": case.batch / step_wall,
        "flops": flops,
        "rate": flops * case.batch / step_wall,
        "gemm": product / gemm_wall,
        "share": (flops * case.batch / step_busy) / (product / gemm_busy),
        "memory": memory,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def count(case: Case) -> float:
    """FLOPs of a pair in a training step: its matrix products and convolutions, both ways."""
    _, step = prepare(Case("counted", baseline=case.baseline, kind=case.kind))
    return flops_of(step) / COUNTED


def count_shape(clips: int, queries: int) -> int:
    """FLOPs of one training step of SDST with other numbers of clips and queries."""
    _, step = of_kind(Case("counted"), clips, queries)
    return flops_of(step)


def flops_of(step: Step) -> int:
    """What torch counts while a step runs."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def square_product(case: Case) -> Step:
    size, dtype = GEMM[case.device], torch.bfloat16 if case.bf16 else torch.float32
    a, b = torch.randn(2, size, size, device=case.device, dtype=dtype)
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    return product


def timed(work: Step, device: str) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - processor


def peak_memory(device: str) -> float:
    """MiB that this process has held at most, on the device."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def prepare(case: Case) -> tuple[nn.Module, Step]:
    """What a case trains, and one training step of it."""
    return baseline(case) if case.baseline else of_kind(case)


def of_kind(case: Case, clips: int = L, queries: int = 30) -> tuple[nn.Module, Step]:
    """A model of the case's kind and one training step of it.

    SDST reads K layers of 768; the others one of as many numbers as the baseline.
    """
    with torch.device(case.device):
        kind, shape = KINDS[case.kind], (K, 768)
        own: dict[str, Any] = {"queries": queries, "deformable_kernel": case.sampling}
        if case.kind != "sdst":
            shape, own = (1, 3840), {"video_width": 3840, "text_width": 1024}
        model = build(kind.config(**own))
        network: Any = torch.compile(model) if case.compiled else model
        criterion = build_objective(model.config, kind.loss())
        video = torch.randn(case.batch, clips, *shape)
        text = torch.randn(case.batch, T, shape[0], 1024)
        clip_mask = torch.ones(case.batch, clips).bool()
        token_mask = torch.ones(case.batch, T).bool()
        windows, real = torch.rand(case.batch, N, 2) * 0.4 + 0.1, torch.ones(case.batch, N).bool()
        saliency = (torch.rand(case.batch, clips) > 0.7).float()

    def loss() -> Tensor:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.bf16):
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


def baseline(case: Case) -> tuple[nn.Module, Step]:
    """The stock transformer and one training step of it, with a loss that costs nothing."""
    with torch.device(case.device):
        model = MomentDETR()
        network: Any = torch.compile(model) if case.compiled else model
        video, text = torch.randn(case.batch, L, 3842), torch.randn(case.batch, T, 1024)

    def loss() -> Tensor:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.bf16):
            spans, logits = network(video, text)
        total: Tensor = spans.float().mean() + logits.float().log_softmax(-1)[..., 0].mean()
        return total

    return model, training_step(model, loss)


def training_step(model: nn.Module, loss: Callable[[], Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=torch.cuda.is_available())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
        optimizer.step()

    return step


def parts(console: Console, cases: list[Case]) -> None:
    """Print how many trainable parameters each part of each model has."""
    table = Table("trainable parameters", box=None)
    table.add_column(width=110)
    for case in cases:
        rows = parameter_table(prepare(case)[0], depth=1)
        table.add_row(case.name, ", ".join(f"{part} {count:,}" for part, count in rows if part))
    console.print(table)


def growth(console: Console) -> None:
    """Print how the FLOPs grow with clips and queries, the squares of self-attention left out.

    Lengths stay where attention is made of plain products (`model.layers.attention.SHORT`): torch
    counts its fused kernel differently.
    """
    table = Table("L", "M", "GFLOP a pair", "without L x L and M x M", "each added", box=None)
    for shapes in ([(40, 30), (80, 30), (120, 30)], [(75, 30), (75, 60), (75, 120)]):
        previous: tuple[int, float] | None = None
        for clips, queries in shapes:
            total = count_shape(clips, queries) / COUNTED / 1e9
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
