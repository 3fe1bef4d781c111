"""How much memory takes what is done to all shards of a set, as the set grows?

    python -m tests.benchmarks.bench_shards [--videos 1000 10000 100000] [--per_shard 500]

Makes sets of small videos with two sentences each, and does to each, in processes of their own,
what looks at every shard: the end of an extraction whose shards are there, `annotate` with 20 rows,
`index`, `ls`, `stats` and `verify`. Memory is what is the process's own or made for it, mapped
files not counted, at its highest, beyond what it was when the work began; beside it stands what the
indexes of the shards and the columns are.
"""

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.config import JobConfig
from data_pipeline.extraction.annotating import annotate
from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.extraction.job import make_shards
from data_pipeline.extraction.plan import PlannedShard
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.writing import ShardWriter
from launch import shards
from tests.benchmarks.bench_index import Watch
from tests.conftest import PROVENANCE

WAYS = ("end", "index", "annotate", "ls", "stats", "verify")
JOINED = 20


class Tars:
    """The plan of an archive of tars, which says nothing of the videos in them."""

    def __init__(self, folder: Path) -> None:
        self.identity: dict[str, Any] = {}
        self._names = sorted(path.stem for path in folder.glob("*.tar"))

    def shards(self) -> list[PlannedShard]:
        return [PlannedShard(name, (), {}, f"{name}.tar", name) for name in self._names]

    def rows(self, videos: int, queries: int) -> dict[str, Any]:
        return {"name": "tars", "sha256": "", "videos": videos, "queries": queries}

    def noted(self) -> dict[str, list[str]]:
        return {}


class Encoder:
    """Sentences become the same few numbers."""

    provenance = PROVENANCE
    text_shape = (1, 8)

    def encode_sentences(self, sentences: list[str]) -> list[SentenceFeatures]:
        return [SentenceFeatures(np.ones((3, 1, 8), np.float16), None) for _ in sentences]


def generate(folder: Path, videos: int, per_shard: int) -> None:
    """The shards, without a manifest, and rows to be joined."""
    folder.mkdir(parents=True)
    values = np.ones((10, 1, 8), np.float16)
    for first in range(0, videos, per_shard):
        with ShardWriter(folder, f"{first // per_shard:05d}") as writer:
            for number in range(first, min(first + per_shard, videos)):
                vid = f"v{number:08d}"
                rows = [Annotation(f"{vid}-{n}", "a dog", vid, 8.0, ((2, 4),)) for n in range(2)]
                queries = tuple(StoredQuery(r, (5 * n, 5 * n + 5)) for n, r in enumerate(rows))
                writer.add(Sample(vid, 8.0, 2.0, values[:4], values, queries))
            writer.commit()
    step = max(1, videos // JOINED)
    rows = [Annotation(f"new{n}", "a cat", f"v{n * step:08d}", 8.0) for n in range(JOINED)]
    text = "".join(json.dumps(row.to_row()) + "\n" for row in rows)
    (folder / "rows").write_text(text)


def work(way: str, folder: Path) -> None:
    """Do it."""
    if way == "end":
        config = JobConfig(annotations=None, output=folder, split="train")
        make_shards(config, PROVENANCE, folder, unasked, lambda _: None, plan=Tars(folder))
    elif way == "annotate":
        joined = annotate(folder, folder / "rows", lambda _: Encoder())  # type: ignore[arg-type,return-value]
        assert joined.joined == JOINED
    else:
        assert shards.main([way, str(folder)]) == 0


def unasked() -> Any:
    """Nothing is to be made."""
    raise AssertionError


def measured(way: str, folder: Path) -> dict[str, float]:
    """What a process of its own found."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_shards", "--way", way]
    said = subprocess.run(
        [*command, "--folder", str(folder)], stdout=subprocess.PIPE, check=True
    ).stdout
    return dict(json.loads(said.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--per_shard", type=int, default=500)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    values = parser.parse_args()
    if values.way:
        logging.disable()
        watch, heard = Watch(), io.StringIO()
        before, began = watch.look(), time.process_time()
        watch.highest = before
        with contextlib.redirect_stdout(heard if values.way != "ls" else open("/dev/null", "w")):
            work(values.way, values.folder)
        watch.look()
        seconds = time.process_time() - began
        print(json.dumps({"MB": round(watch.highest - before, 1), "seconds": round(seconds, 1)}))
        return
    with tempfile.TemporaryDirectory() as top:
        for videos in values.videos:
            folder = Path(top) / str(videos)
            generate(folder, videos, values.per_shard)
            found = {way: measured(way, folder) for way in WAYS}
            columns = (folder / "index.safetensors").stat().st_size / 1e6
            indexes = sum(path.stat().st_size for path in folder.glob("0*.json")) / 1e6
            print(f"{videos:,} videos, indexes of {indexes:.1f} MB, columns {columns:.1f} MB")
            for way, each in found.items():
                print(f"    {way}: {each['MB']} MB, {each['seconds']} s of the processor")


if __name__ == "__main__":
    main()
