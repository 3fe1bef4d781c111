"""How fast do stored features become batches, next to the bytes alone and to npz files?

    python -m tests.benchmarks.bench_stream                 (about two minutes)

Writes generated features of QVHighlights' shapes (75 clips and 17 tokens a query, 5 layers: 0.75 MB
a pair) as shards and as npz files as SDST released them, and reads both from the page cache, in one
process with one thread: the ways take turns, each turn goes over the whole set several times, the
median of the turns is printed, and how far they lie apart. Rates are pairs a second of processor
time (user and system), so that others on the machine disturb them little; wall-clock rates stand
beside them:

- bytes: the tars' bytes alone, into one buffer of 1 MB that never leaves the processor's cache
- bytes kept: the same into two buffers of a batch's size in turn: what putting a batch into memory
  costs by itself, without a look at any byte
- npz: a map-style torch loader over the npz files, padded batches in half precision
- stream: training batches of PairStream, checksums included
- resident: the same batches where `data.resident` keeps the features in memory, which are read once
  before the ways take turns: rows are gathered and nothing is read

Then, with two loader workers, how long a trainer that computes for 32 / 30 s a batch of 32 waits;
and the peak memory of a process that streams 369 MB of long videos, ten queries each, with buffers
of 0, 64 and 1024 MB: the first shows what batches need, the last what a buffer without limit would
hold.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_pipeline.annotations import Annotation
from data_pipeline.config import DataConfig, ReadingConfig
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.shards import FeatureSet, Provenance
from data_pipeline.features.writing import ShardWriter, write_manifest
from data_pipeline.stream.stream import PairStream

LAYERS, VIDEO_WIDTH, TEXT_WIDTH = 5, 768, 1024
BATCH = 32
RATE = 30.0  # pairs a second of CPU training
ROUNDS, PASSES = 7, 3


def generated(vid: str, clips: int, tokens: int, queries: int, random: Any) -> Sample:
    windows = ((0.0, 20.0),)
    return Sample(
        vid=vid,
        duration=2.0 * clips,
        clip_length=2.0,
        video=random.standard_normal((clips, LAYERS, VIDEO_WIDTH), np.float32).astype(np.float16),
        text=random.standard_normal((queries * tokens, LAYERS, TEXT_WIDTH), np.float32).astype(
            np.float16
        ),
        queries=tuple(
            StoredQuery(
                Annotation(f"{vid}/{n}", "a query", vid, 2.0 * clips, windows),
                (n * tokens, (n + 1) * tokens),
            )
            for n in range(queries)
        ),
    )


def write(
    folder: Path, videos: int, clips: int, queries: int, shards: int, npz: bool
) -> FeatureSet:
    folder.mkdir()
    random = np.random.default_rng(0)
    indexes = []
    for number in range(shards):
        with ShardWriter(folder, f"{number:05d}") as writer:
            for video in range(number, videos, shards):
                sample = generated(f"v{video}", clips, 17, queries, random)
                writer.add(sample)
                if npz:
                    np.savez(folder / f"v{video}.npz", visual_feats_interm_pooled=sample.video)
                    text = np.ascontiguousarray(sample.text.transpose(1, 0, 2))
                    np.savez(folder / f"q{video}.npz", text_feats=text)
            indexes.append(writer.commit())
    made = Provenance(
        "generated", None, (0,), "generated", None, (0,), None, 2.0, 1, "none", "float16", {}, ""
    )
    write_manifest(folder, "train", made, {"name": "generated"}, indexes)
    return FeatureSet(folder)


class NpzFiles(Dataset[tuple[Tensor, Tensor]]):
    """The usual way: one item, two files."""

    def __init__(self, folder: Path, videos: int) -> None:
        self._folder, self._videos = folder, videos

    def __len__(self) -> int:
        return self._videos

    def __getitem__(self, video: int) -> tuple[Tensor, Tensor]:
        with np.load(self._folder / f"v{video}.npz") as file:
            clips = torch.from_numpy(file["visual_feats_interm_pooled"])
        with np.load(self._folder / f"q{video}.npz") as file:
            text = torch.from_numpy(file["text_feats"]).transpose(0, 1)
        return clips, text


def pad(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    clips, text = zip(*items, strict=True)
    padded = torch.nn.utils.rnn.pad_sequence
    return padded(clips, batch_first=True), padded(text, batch_first=True)


def read_bytes(features: FeatureSet, buffers: list[memoryview]) -> None:
    turn = itertools.cycle(buffers)
    for number in range(len(features.shards)):
        with open(str(features.path(number)), "rb", buffering=0) as file:
            while file.readinto(next(turn)):
                pass


def pairs_per_second(pairs: int, work: Callable[[], object]) -> tuple[float, float]:
    """By processor time and by the clock."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(PASSES):
        work()
    processor, wall = time.process_time() - processor, time.perf_counter() - wall
    return PASSES * pairs / processor, PASSES * pairs / wall


def compare(features: FeatureSet, folder: Path) -> dict[str, Any]:
    """Rates of the ways, and their ratios."""
    config = DataConfig(batch_size=BATCH)
    npz = NpzFiles(folder, len(features.samples))
    count = features.pairs // BATCH * BATCH
    pair = sum(os.path.getsize(str(features.path(n))) for n in range(8)) // features.pairs
    batches = [memoryview(bytearray(BATCH * pair)) for _ in range(2)]
    pieces = [batch[at : at + 2**20] for batch in batches for at in range(0, len(batch), 2**20)]

    def drain(batches: Any) -> None:
        for _ in batches:
            pass

    def through_npz() -> None:
        drain(DataLoader(npz, BATCH, shuffle=True, drop_last=True, collate_fn=pad))

    held = PairStream(features, DataConfig(batch_size=BATCH, resident=True), 0)
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "bytes": (features.pairs, lambda: read_bytes(features, pieces[:1])),
        "bytes kept": (features.pairs, lambda: read_bytes(features, pieces)),
        "npz": (count, through_npz),
        "stream": (count, lambda: drain(PairStream(features, config, 0).train(0))),
        "resident": (count, lambda: drain(held.train(0))),
    }
    for _, work in ways.values():  # fills the page cache, and all that is made once
        work()
    turns = [
        {name: pairs_per_second(pairs, work) for name, (pairs, work) in ways.items()}
        for _ in range(ROUNDS)
    ]
    result: dict[str, Any] = {}
    for number, clock in enumerate(("processor", "wall")):
        columns = {name: [turn[name][number] for turn in turns] for name in ways}
        result[f"pairs a second, {clock}"] = {
            name: spread(column, ".0f") for name, column in columns.items()
        }
        beside = [("stream", other) for other in ("npz", "bytes", "bytes kept")]
        for way, other in [*beside, ("resident", "stream")]:
            ratios = [a / b for a, b in zip(columns[way], columns[other], strict=True)]
            result[f"{way} / {other}, {clock}"] = spread(ratios, ".2f")
    return result


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def waiting_share(features: FeatureSet) -> float:
    """Part of the time that a trainer waits for data, its workers' start left out."""
    batches = PairStream(features, DataConfig(batch_size=BATCH, workers=2), 0).train(0)
    next(batches)
    began, waited = time.perf_counter(), 0.0
    while True:
        computed = time.perf_counter() + BATCH / RATE
        a = torch.rand(256, 256)
        while time.perf_counter() < computed:
            a = (a @ a).clamp(0, 1)
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited / (time.perf_counter() - began)


def peak_memory(folder: str, buffer_mb: int, answer: Any) -> None:
    """In a process of its own: MB before streaming, and at the peak."""
    torch.set_num_threads(1)
    features = FeatureSet(folder)
    config = DataConfig(batch_size=BATCH, reading=ReadingConfig(buffer_mb=buffer_mb))
    stream = PairStream(features, config, 0)
    before = high_water_mb()
    largest = 0
    for batch in stream.train(0):
        largest = max(largest, sum(t.nbytes for t in batch.tensors().values()))
    peak = high_water_mb()
    answer.put(
        {"before_mb": before, "growth_mb": peak - before, "largest_batch_mb": largest / 2**20}
    )


def high_water_mb() -> float:
    """The most memory that this program has held; getrusage would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def measure_memory(folder: Path, buffer_mb: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=peak_memory, args=(str(folder), buffer_mb, answer))
    process.start()
    result: dict[str, float] = answer.get(timeout=300)
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1024)
    parser.add_argument("--only", choices=["compare", "wait", "memory"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "memory":
            features = write(folder / "short", args.videos, 75, 1, shards=8, npz=True)
        if args.only in (None, "compare"):
            result |= compare(features, folder / "short")
        if args.only in (None, "wait"):
            result["waiting share at 30 pairs/s, 2 workers"] = waiting_share(features)
        if args.only in (None, "memory"):
            write(folder / "long", 160, 300, 10, shards=4, npz=False)
            for buffer_mb in (0, 64, 1024):
                result[f"memory, buffer {buffer_mb} MB"] = measure_memory(
                    folder / "long", buffer_mb
                )
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
