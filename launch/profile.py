"""Where does the time of a training step go?

    python -m launch.profile --config configs/qvhighlights/sdst.yaml

Runs the trainer's own loop on the experiment's features, or, where they are not there, on random
batches of `clips` and `tokens`. Prints the share of each phase and the dearest operators, and
writes a trace for chrome://tracing or ui.perfetto.dev. On a GPU, kernels run behind the process
that asks for them; the GPU column counts each to the phase that asked.
"""

import math
import sys
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from data_pipeline.annotations import Annotation
from data_pipeline.features.shards import FeatureSet
from data_pipeline.output import check_file, writing
from data_pipeline.storage import Location
from trainer.cli import command, parse_config, terminal
from trainer.config import Config

if TYPE_CHECKING:
    import torch
    from torch.profiler import ProfilerActivity

    from data_pipeline.stream.batches import PairBatch
    from data_pipeline.stream.stream import PairStream

PHASES = ("data wait", "copy to device", "forward", "losses", "matching", "backward", "optimizer")
INSIDE = {"matching": "losses"}
CONSOLE = terminal()


@dataclass(frozen=True)
class ProfileConfig(Config):
    """An experiment's configuration, and how to profile it.

    Attributes:
        steps: how many steps are profiled, after as many without the profiler
        clips: length of the videos in random batches
        tokens: length of the sentences in random batches
        trace: file to write, in Chrome's trace format
        operators: how many operators to list
    """

    steps: int = 5
    clips: int = 75
    tokens: int = 20
    trace: Path = Path("trace.json")
    operators: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.steps, self.clips, self.tokens, self.operators) < 1:
            raise ValueError("steps, clips, tokens and operators must be at least 1")


@command
def main(args: list[str] | None = None) -> None:
    """Train for some steps under the profiler and print where they went."""
    config = parse_config(ProfileConfig, args, __doc__)
    check_file(config.trace)
    import torch
    from accelerate.utils import set_seed
    from torch.profiler import profile, schedule

    from model.kinds import build, build_objective
    from trainer.training.checkpoints import State
    from trainer.training.divergence import Faults
    from trainer.training.loop import train_epoch
    from trainer.training.meter import Meter
    from trainer.training.optimization import make_optimizer
    from trainer.training.preemption import StopSignals
    from trainer.training.processes import join
    from trainer.training.sharding import Learner
    from trainer.training.work import flops_per_pair, measure_peak

    accelerator = join(config)
    set_seed(config.seed)
    batches, source, clips, tokens = open_batches(config, accelerator.device)
    CONSOLE.print(
        f"{config.data.batch_size} pairs a step, {source}, {accelerator.device}, "
        f"{torch.get_num_threads()} thread(s), {config.precision}"
    )
    model = build(config.model)
    learner = Learner(accelerator, model, make_optimizer(model, config.optim))
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    peak = measure_peak(accelerator.device, dtype)
    work = flops_per_pair(config.model, clips, tokens)
    state, ends = State(), [time.perf_counter()]
    steps = config.steps
    with profile(
        activities=activities(accelerator.device),
        # One step begins with lazy initialisation, one more starts the profiler.
        schedule=schedule(wait=steps + 1, warmup=1, active=steps, repeat=1),
    ) as profiler:

        def on_step() -> None:
            ends.append(time.perf_counter())
            profiler.step()

        train_epoch(
            learner,
            build_objective(config.model, config.loss),
            islice(batches, 2 * steps + 2),
            accelerator,
            StopSignals(accelerator, config.grace, workers=False),  # not entered: Ctrl-C interrupts
            config,
            state,
            2 * steps + 2,
            Meter(work, peak),
            Faults(accelerator, state, config.optim.skip_not_finite),
            on_step,
        )
    undisturbed = (ends[steps + 1] - ends[1]) / steps
    pairs = config.data.batch_size / undisturbed
    CONSOLE.print(
        f"a step without the profiler: {undisturbed:.3f} s, {pairs:.0f} pairs/s, "
        f"{work / 1e9:.2f} GFLOP a pair, {pairs * work / peak:.0%} of {peak / 1e12:.2f} TFLOP/s"
    )
    CONSOLE.print(phase_table(list(profiler.events() or ()), steps))
    CONSOLE.print(operator_table(list(profiler.key_averages()), steps, config.operators))
    with writing(config.trace):
        config.trace.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(config.trace))
    CONSOLE.print(f"trace: {config.trace}")


def open_batches(
    config: ProfileConfig, device: "torch.device"
) -> "tuple[Iterable[PairBatch], str, int, int]":
    """Endless training batches, what they are, and the mean clips and tokens of a pair."""
    if not (Location(config.data.train) / "manifest.json").is_file():
        source = f"random features ({config.data.train} is not there)"
        return random_batches(config), source, config.clips, config.tokens
    from data_pipeline.stream.stream import PairStream

    stream = PairStream(FeatureSet(config.data.train), config.data, config.seed, device=device)
    clips, tokens = stream.pairs.means()
    return epochs_of(stream), f"features {config.data.train}", round(clips), round(tokens)


def epochs_of(stream: "PairStream") -> "Iterator[PairBatch]":
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from stream.train(epoch)
        epoch += 1


def random_batches(config: ProfileConfig) -> "Iterator[PairBatch]":
    """One batch of noise, served again and again, so that nothing is waited for."""
    B, L, T = config.data.batch_size, config.clips, config.tokens
    K = max(layer + 1 if layer >= 0 else -layer for layer in config.model.layers)
    import torch

    from data_pipeline.stream.batches import PairBatch

    batch = PairBatch(
        video=torch.randn(B, L, K, config.model.video_width).half(),
        video_mask=torch.ones(B, L, dtype=torch.bool),
        text=torch.randn(B, T, K, config.model.text_width).half(),
        text_mask=torch.ones(B, T, dtype=torch.bool),
        windows=torch.tensor([0.5, 0.2]).repeat(B, 1, 1),
        window_mask=torch.ones(B, 1, dtype=torch.bool),
        saliency=((torch.arange(L) + 0.5) / L - 0.5).abs().lt(0.1).float().repeat(B, 1),
        span=torch.full((B,), 2.0 * L),
        present=torch.ones(B, dtype=torch.int8),
        sentence=torch.arange(1, B + 1),
        sentences=torch.arange(1, B + 1)[:, None],
        repeated=torch.zeros(B, dtype=torch.bool),
        annotations=[Annotation(row, "", "random", 2.0 * L, None) for row in range(B)],
    )
    while True:
        yield batch


def activities(device: "torch.device") -> "list[ProfilerActivity]":
    """What to record on `device`."""
    from torch.profiler import ProfilerActivity

    cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return [ProfilerActivity.CPU, *cuda]


def phase_table(events: list[Any], steps: int) -> Table:
    """Milliseconds of each phase in a step: of the process, and of the kernels it asked for."""
    from torch._C._autograd import DeviceType

    host = [event for event in events if event.device_type == DeviceType.CPU]
    spans = {name: sorted(spans_of(host, name)) for name in PHASES}
    whole = sum(end - start for start, end in spans_of(host, "ProfilerStep"))
    kernels, all_kernels = kernels_of(host, spans)
    table = Table("phase", title=f"a step, mean of {steps} under the profiler", box=None)
    for column in ("ms", "share", *(["GPU ms"] if all_kernels else [])):
        table.add_column(column, justify="right")

    def row(label: str, own: float, device: float) -> None:
        cells = [f"{own / steps / 1e3:.2f}", f"{own / whole:.1%}"]
        table.add_row(label, *cells, *([f"{device / steps / 1e3:.2f}"] if all_kernels else []))

    times = {name: sum(end - start for start, end in found) for name, found in spans.items()}
    for name, time_spent in times.items():
        if spans[name]:
            row(f"  of which {name}" if name in INSIDE else name, time_spent, kernels[name])
    outer = [name for name in PHASES if name not in INSIDE]
    known = sum(times[name] for name in outer), sum(kernels[name] for name in outer)
    row("everything else", whole - known[0], all_kernels - known[1])
    row("whole step", whole, all_kernels)
    return table


def spans_of(events: list[Any], name: str) -> list[tuple[float, float]]:
    """When the annotations whose name begins so started and ended, in microseconds."""
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.is_user_annotation and event.name.startswith(name)
    ]


def kernels_of(
    events: list[Any], spans: dict[str, list[tuple[float, float]]]
) -> tuple[Counter[str], float]:
    """GPU microseconds that operators asked for within the spans of each phase, and in all.

    By the time of asking and not by the annotation: the operators of the backward pass run in a
    thread of their own, where the phases' annotations do not reach.
    """
    within: Counter[str] = Counter()
    total = 0.0
    for event in events:
        if duration := sum(kernel.duration for kernel in event.kernels):
            asked = event.time_range.start
            total += duration
            for name, found in spans.items():
                before = bisect_right(found, (asked, math.inf))
                if before and asked <= found[before - 1][1]:
                    within[name] += duration
    return within, total


def operator_table(events: list[Any], steps: int, count: int) -> Table:
    """The dearest operators, by the time spent in themselves."""
    from torch._C._autograd import DeviceType

    operators = [
        # A kernel's time is that of the operator which asked for it.
        event
        for event in events
        if event.device_type == DeviceType.CPU and not is_annotation(event)
    ]
    gpu = any(event.self_device_time_total for event in operators)

    def cost(event: Any) -> float:
        return float(event.self_device_time_total if gpu else event.self_cpu_time_total)

    whole = sum(map(cost, operators))
    table = Table("operator", title=f"operators, {'GPU' if gpu else 'CPU'} time", box=None)
    for column in ("ms a step", "share", "calls a step"):
        table.add_column(column, justify="right")
    for event in sorted(operators, key=cost, reverse=True)[:count]:
        own = cost(event)
        cells = (f"{own / steps / 1e3:.2f}", f"{own / whole:.1%}", f"{event.count / steps:.0f}")
        table.add_row(event.key, *cells)
    return table


def is_annotation(event: Any) -> bool:
    """Whether an event is a phase or a step instead of an operator."""
    return event.key in PHASES or bool(event.is_user_annotation)


if __name__ == "__main__":
    sys.exit(main())
