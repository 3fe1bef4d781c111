"""What does padding cost where videos differ in length, and what does bucketing save?

    python -m tests.benchmarks.bench_lengths FOLDER/tacos/tacos_train.jsonl

Batches of the lengths that an epoch of the real rows has, in the order of configs/tacos/sdst.yaml
and in the default order, taken in turns at even distances from the epoch and trained on by the
trainer's own loop (features are noise, of which no time depends). Seconds are processor time.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.config import OrderConfig
from data_pipeline.stream.batches import BatchBuffer, PairBatch
from data_pipeline.stream.order import Pairs, epoch_order
from data_pipeline.video.video import clip_count
from model.kinds import build, build_objective
from trainer.cli import parse_config
from trainer.config import Config
from trainer.training.checkpoints import State
from trainer.training.divergence import Faults
from trainer.training.loop import train_epoch
from trainer.training.meter import Meter
from trainer.training.optimization import make_optimizer
from trainer.training.preemption import StopSignals
from trainer.training.sharding import Learner

TOKENS, LAYERS = 17, 4


def measure(annotations: Path, batches: int = 12, threads: int = 1, epoch: int = 0) -> None:
    """Print the table.

    Args:
        annotations: rows of the training split
        batches: of the epoch that are trained on, in each order
        threads: of torch
        epoch: whose order it is
    """
    torch.set_num_threads(threads)
    config = parse_config(Config, ["--config", "configs/tacos/sdst.yaml"], "")
    rows = sorted(read_annotations(annotations), key=lambda row: row.vid)
    pairs = list_rows(rows)
    size = config.data.batch_size
    orders = {"default": OrderConfig(), "bucketed": config.data.order}
    served = {
        name: epoch_order(pairs, order, config.seed, epoch).pairs[: len(rows) // size * size]
        for name, order in orders.items()
    }
    seconds: dict[str, float] = dict.fromkeys(orders, 0.0)
    chosen = {
        name: ids.reshape(-1, size)[np.linspace(0, len(ids) // size - 1, batches).astype(int)]
        for name, ids in served.items()
    }
    turns = [(name, chosen[name][turn]) for turn in range(batches) for name in orders]
    for name, spent in zip(
        [name for name, _ in turns], train(config, rows, pairs, turns), strict=True
    ):
        seconds[name] += spent
    table = Table("order", "padded / real clips", "videos of a batch", "pairs/s", box=None)
    for name, ids in served.items():
        clips, samples = (x[ids].reshape(-1, size) for x in (pairs.clips, pairs.sample))
        ratio = clips.max(1).mean() / clips.mean()
        videos = np.mean([len(np.unique(of_batch)) for of_batch in samples])
        rate = batches * size / seconds[name]
        table.add_row(name, f"{ratio:.2f}", f"{videos:.1f}", f"{rate:.2f}")
    console = Console(width=100)
    console.print(table)
    gain = seconds["default"] / seconds["bucketed"]
    console.print(f"{gain:.2f} x, {batches} batches each, processor time of {threads} thread(s)")


def list_rows(rows: list[Annotation]) -> Pairs:
    """The pairs of rows that are sorted by their video, eight videos a shard."""
    vids, sample = np.unique([row.vid for row in rows], return_inverse=True)
    first = np.searchsorted(sample, np.arange(len(vids)))
    clips = np.array([clip_count(row.duration, 2.0) for row in rows])
    query = np.arange(len(rows)) - first[sample]
    return Pairs(sample, query, sample // 8, clips, np.full(len(rows), TOKENS))


def train(
    config: Config, rows: list[Annotation], pairs: Pairs, turns: list[tuple[str, np.ndarray]]
) -> list[float]:
    """Processor seconds of a training step for each of the batches."""
    accelerator, state = Accelerator(cpu=True), State()
    model = build(config.model)
    ends = [0.0]
    noise = torch.randn(int(pairs.clips.max()), LAYERS, config.model.video_width).half().numpy()
    words = torch.randn(TOKENS, LAYERS, config.model.text_width).half().numpy()

    def batches() -> Iterator[PairBatch]:
        for _, ids in turns:
            longest = int(pairs.clips[ids].max())
            buffer = BatchBuffer(len(ids), longest, TOKENS, noise.shape[1:], words.shape[1:])
            for pair in ids:
                length = int(pairs.clips[pair])
                video, text = buffer.row(length, TOKENS)
                video[:], text[:] = noise[:length], words
                buffer.add(length, TOKENS, rows[pair], 2.0, repeated=False)
            batch = buffer.finish([])
            ends[-1] = time.process_time()  # the step begins now
            yield batch

    def on_step() -> None:
        ends[-1] = time.process_time() - ends[-1]
        ends.append(0.0)

    train_epoch(
        Learner(accelerator, model, make_optimizer(model, config.optim)),
        build_objective(config.model, config.loss),
        batches(),
        accelerator,
        StopSignals(accelerator, config.grace, workers=False),
        config,
        state,
        len(turns),
        Meter(1.0, 1.0),
        Faults(accelerator, state, 0),
        on_step,
    )
    return ends[:-1]


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(measure))
