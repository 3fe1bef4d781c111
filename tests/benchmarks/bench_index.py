"""How long does a set of a million videos take to open, and how much memory, beside the old way?

    python -m tests.benchmarks.bench_index [FOLDER] [--videos 20000 200000 1000000 10000000]

Makes sets of videos with two sentences each: their columns are whole, of their tars that is written
which the first batches read, and the rest has its size alone. Each is opened in a process of its
own, which then takes the first batch of an epoch, and starts a loader worker. Sets of up to
`REAL` videos have the indexes of their shards too, and are opened the old way beside: an object for
every sample. Seconds are of the clock and of the processor, memory is what is the process's own or
made for it, mapped files not counted, at its highest.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_pipeline.annotations import Annotation
from data_pipeline.config import DataConfig
from data_pipeline.features.columns import Columns, Samples, of_entries
from data_pipeline.features.index import Seals, write_columns
from data_pipeline.features.samples import Sample, SampleEntry, StoredQuery
from data_pipeline.features.shards import FORMAT, FeatureSet, read_json
from data_pipeline.features.writing import ShardWriter, to_json, write_json
from data_pipeline.mapped import Mapped
from data_pipeline.storage import Location
from data_pipeline.stream.order import EpochOrder, Pairs
from data_pipeline.stream.stream import PairStream
from tests.conftest import PROVENANCE

PER_SHARD = 1000
REAL = 200_000
"""Videos up to which the shards have indexes of their own."""
BATCHES = 40
"""Batches that can be read."""
CONFIG = DataConfig(batch_size=32, eval_batch_size=32, prefetch=1)
VID = b"v00000000"


def template(folder: Path) -> tuple[SampleEntry, bytes]:
    """A sample with two sentences: its entry and its bytes."""
    random = np.random.default_rng(0)
    vid = VID.decode()
    queries = tuple(
        StoredQuery(Annotation(f"{vid}-{n}", "a dog", vid, 8.0, ((2.0, 4.0),)), (5 * n, 5 * n + 5))
        for n in range(2)
    )
    video = random.normal(size=(4, 1, 8)).astype(np.float16)
    text = random.normal(size=(10, 1, 8)).astype(np.float16)
    with ShardWriter(folder, "template") as writer:
        writer.add(Sample(vid, 8.0, 2.0, video, text, queries))
        index = writer.commit()
    entry = SampleEntry.from_json(index["samples"][0], 0, folder, index["checksum"])
    data = (folder / "template.tar").read_bytes()[: entry.size]
    for name in ("template.tar", "template.json"):
        (folder / name).unlink()
    return entry, data


def words(videos: int, endings: tuple[bytes, ...]) -> np.ndarray[Any, Any]:
    """Words of the texts v00000000 and on, each with all the endings."""
    texts = np.zeros((videos, len(endings), 16), np.uint8)
    texts[:, :, 0] = ord("v")
    for place in range(8):
        digit = np.arange(videos) // 10 ** (7 - place) % 10
        texts[:, :, 1 + place] = (ord("0") + digit)[:, None]
    for number, ending in enumerate(endings):
        texts[:, number, 9 : 9 + len(ending)] = np.frombuffer(ending, np.uint8)
    return texts.reshape(-1).view("<u8")


def generate(folder: Path, videos: int) -> None:
    """A set of so many videos, as far as anything is read of it here."""
    folder.mkdir(parents=True)
    entry, data = template(folder)
    one = of_entries([entry])
    number = np.arange(videos)
    arrays = {name: np.repeat(array, videos) for name, array in one.items() if len(array) == 1}
    arrays |= {
        name: np.tile(one[name], videos) for name in ("tokens", "text sum", "qid", "qid kind")
    }
    arrays["shard"], at = number // PER_SHARD, number % PER_SHARD * entry.size
    for name in arrays:
        if name == "offset" or name.endswith(" offset"):
            arrays[name] = arrays[name] + at
    arrays["first"] = np.arange(0, 2 * videos + 1, 2)
    arrays["vids words"], arrays["vids ends"] = words(videos, (b"",)), 2 * np.arange(1, videos + 1)
    arrays["qids words"] = words(videos, (b"-0", b"-1"))
    arrays["qids ends"] = 2 * np.arange(1, 2 * videos + 1)
    arrays["json sum"] = np.random.default_rng(0).integers(0, 1 << 63, videos).astype(np.uint64)
    shards, end = -(-videos // PER_SHARD), (1 - -PER_SHARD * entry.size // 10240) * 10240
    for shard in range(shards):
        with (folder / f"{shard:05d}.tar").open("wb") as tar:
            tar.truncate(end)
    pairs = Pairs(arrays["first"], arrays["shard"], arrays["clips"], arrays["tokens"])
    order = EpochOrder(pairs, CONFIG.order, 0, 0)
    for sample in set(pairs.sample_of(order.at(np.arange(BATCHES * CONFIG.batch_size))).tolist()):
        mine = data.replace(VID, b"v%08d" % sample)
        place, size = entry.members["json"]
        arrays["json sum"][sample] = xxhash.xxh3_64_intdigest(mine[place : place + size])
        with (folder / f"{sample // PER_SHARD:05d}.tar").open("r+b") as tar:
            tar.seek(sample % PER_SHARD * entry.size)
            tar.write(mine)
    held = Mapped.empty(**{name: (array.dtype, len(array)) for name, array in arrays.items()})
    del pairs
    for name in list(arrays):  # ten million videos are held once and not twice
        held[name][:] = arrays.pop(name)
    columns = Columns(held)
    counts = columns.counts(shards)
    listed = [
        {"name": f"{n:05d}", "sha256": "", "bytes": end, "failures": 0}
        | {name: int(found[n]) for name, found in counts.items()}
        for n in range(shards)
    ]
    shapes = {"video": [1, 8], "text": [1, 8]}
    manifest = {
        "format": FORMAT,
        "split": "train",
        "provenance": vars(PROVENANCE),
        "annotations": {"name": "generated"},
        "rows_checked": 1,
        "shapes": shapes,
        "shards": listed,
        "totals": {
            name: sum(each[name] for each in listed)
            for name in ("videos", "queries", "clips", "bytes", "failures")
        },
    }
    write_json(folder / "manifest.json", manifest)
    seals = Seals(shards)
    for shard in range(shards):
        if videos > REAL:
            index = b"{}"  # of which the size is looked at
        else:
            samples = Samples(columns)[shard * PER_SHARD : (shard + 1) * PER_SHARD]
            index = to_json(
                {"format": FORMAT, "name": f"{shard:05d}", "sha256": "", "bytes": end}
                | {"shapes": shapes, "checksum": "xxh3-64", "failures": []}
                | {"samples": [each.to_json() for each in samples]}
            ).encode()
        (folder / f"{shard:05d}.json").write_bytes(index)
        seals.take(shard, index)
    time.sleep(0.05)  # files are no newer than the index
    digest = Location(folder / "manifest.json").sha256()
    write_columns(Location(folder), digest, columns, seals)


class Watch:
    """The highest memory of this process so far, without mapped files, in MB."""

    def __init__(self) -> None:
        self.highest = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def look(self) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        held = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
        now = (int(held["RssAnon"]) + int(held["RssShmem"])) / 1024
        self.highest = max(self.highest, now)
        return now

    def _run(self) -> None:
        while True:
            self.look()
            time.sleep(0.005)


@contextlib.contextmanager
def timed(found: dict[str, float], name: str) -> Iterator[None]:
    wall, processor = time.perf_counter(), time.process_time()
    yield
    found[name] = round(time.perf_counter() - wall, 3)
    found[f"{name}, processor"] = round(time.process_time() - processor, 3)


def open_new(folder: Path, small: Path) -> dict[str, float]:
    """Open a set by its index, take a batch of an epoch, and one from a worker."""
    watch, found = Watch(), dict[str, float]()
    parallel = DataConfig(batch_size=32, eval_batch_size=32, prefetch=1, workers=1)
    with timed(found, "a worker of a small set, forkserver started"):
        next(PairStream(FeatureSet(small), parallel, 0).train(0))
    with timed(found, "a worker of a small set"):
        next(PairStream(FeatureSet(small), parallel, 0).train(0))
    before = watch.look()
    with timed(found, "open"):
        features = FeatureSet(folder)
    watch.look()
    assert str(features.columns.arrays.source).endswith(".safetensors")
    found["MB of opening"] = round(watch.highest - before)
    with timed(found, "first batch"):
        next(PairStream(features, CONFIG, 0).train(0))
    watch.look()
    found["MB of all"] = round(watch.highest - before)
    with timed(found, "a worker"):
        next(PairStream(features, parallel, 0).train(0))
    return found


def open_old(folder: Path, _: Path) -> dict[str, float]:
    """As it was done: an object for every sample, and arrays from these."""
    watch, found = Watch(), dict[str, float]()
    before = watch.look()
    with timed(found, "open"):
        entries: list[SampleEntry] = []
        for number, shard in enumerate(read_json(folder / "manifest.json")["shards"]):
            index = read_json(folder / f"{shard['name']}.json")
            entries += [
                SampleEntry.from_json(each, number, folder, index["checksum"])
                for each in index["samples"]
            ]
    watch.look()
    found["MB of opening"] = round(watch.highest - before)
    return found


def measured(way: str, folder: Path, small: Path) -> dict[str, float]:
    """What a process of its own found."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_index", str(folder)]
    said = subprocess.run(
        [*command, "--way", way, "--small", str(small)], stdout=subprocess.PIPE, check=True
    )
    return dict(json.loads(said.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    sizes = [20_000, 200_000, 1_000_000, 10_000_000]
    parser.add_argument("--videos", nargs="+", type=int, default=sizes)
    parser.add_argument("--way", choices=("new", "old"))
    parser.add_argument("--small", type=Path)
    values = parser.parse_args()
    if values.way:
        found = (open_new if values.way == "new" else open_old)(values.folder, values.small)
        print(json.dumps(found))
        return
    top = Path(tempfile.mkdtemp(dir=values.folder))
    try:
        small = top / "small"
        generate(small, 1000)
        for videos in values.videos:
            folder = top / str(videos)
            generate(folder, videos)
            size = (folder / "index.safetensors").stat().st_size / 1e6
            ways = ("new", "old") if videos <= REAL else ("new",)
            for way in ways:
                print(f"{videos:,} videos, {way} way, {size:.0f} MB mapped:", flush=True)
                for name, value in measured(way, folder, small).items():
                    print(f"    {name}: {value}", flush=True)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
