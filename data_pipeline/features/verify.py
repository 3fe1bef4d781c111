"""Is a set of feature shards whole: as its manifest says, and with all that was asked for?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.annotations import read_annotations
from data_pipeline.errors import InputError
from data_pipeline.features.columns import NO_QID
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import FeatureSet, known_as
from data_pipeline.storage import Location, Source
from data_pipeline.untrusted import parse_json
from data_pipeline.video.video import clip_count


@dataclass(frozen=True)
class Fault:
    """A fault in one line that names shard and sample."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify(folder: Source, annotations: str | Path | None = None) -> Iterator[Fault]:
    """Read everything and yield what is wrong: hashes, shapes, values, clip counts, coverage.

    With `annotations`, every row must be stored as it is, or its video or its query recorded in
    failures.jsonl.
    Raises InputError for a folder that is no feature set.
    """
    features = FeatureSet(folder, skip_damaged=True, indexed=False)
    for fault in features.faults:
        where, _, what = fault.partition(": ")
        yield Fault(where, what)
    for number, shard in enumerate(features.shards):
        path = features.path(number)
        try:
            digest, size = path.sha256(), path.size()
        except InputError as error:
            yield Fault(str(path), str(error).partition(": ")[2])
            continue
        if digest != shard["sha256"]:
            yield Fault(str(path), f"SHA-256 is {digest}, the manifest has {shard['sha256']}")
        if size != shard["bytes"]:
            yield Fault(str(path), f"holds {size} bytes, the manifest lists {shard['bytes']}")
    try:
        features.compare_columns()
    except InputError as error:
        where, _, what = str(error).partition(": ")
        yield Fault(where, what)
    failures: list[dict[str, Any]] = []
    try:
        failures = read_failures(features.folder)
    except InputError as error:
        where, _, what = str(error).partition(": ")
        yield Fault(where, what)
    coverage = _Coverage(features, annotations, failures) if annotations is not None else None
    # Indexes of an earlier version have no qids, by which opening tells what is there twice.
    unnamed = bool((features.columns.arrays["qid kind"] == NO_QID).any())
    known: set[int | str] = set()
    for index, entry in enumerate(features.samples):
        where = f"{features.path(entry.shard)}: sample {entry.vid!r}"
        try:
            sample = features.read(index)
        except InputError as error:
            yield Fault(str(features.path(entry.shard)), str(error).partition(": ")[2])
            continue
        yield from (Fault(where, what) for what in _faults(sample, features))
        if unnamed:
            for query in sample.queries:
                if query.annotation.qid in known:
                    yield Fault(where, f"qid {query.annotation.qid!r} is stored twice")
                known.add(query.annotation.qid)
        if coverage is not None:
            coverage.take(sample)
    if coverage is not None:
        yield from coverage.faults()


def _faults(sample: Sample, features: FeatureSet) -> Iterator[str]:
    if sample.video.shape[1:] != features.video_shape:
        yield f"video features are {sample.video.shape}, expected (L, *{features.video_shape})"
    if sample.text.shape[1:] != features.text_shape:
        yield f"text features are {sample.text.shape}, expected (T, *{features.text_shape})"
    arrays = {"video": sample.video, "text": sample.text, "joint": sample.joint}
    for name, array in arrays.items():
        if array is not None and not np.isfinite(array).all():
            yield f"{name} features hold values that are not finite"
    expected = clip_count(sample.duration, sample.clip_length)
    if len(sample.video) != expected:
        yield f"{len(sample.video)} clips, its {sample.duration:.2f} s make {expected}"


class _Coverage:
    """Whether every row of an annotation file is stored as it is, or recorded as failed."""

    def __init__(
        self, features: FeatureSet, annotations: str | Path, failures: list[dict[str, Any]]
    ) -> None:
        self._folder, self._source = features.folder, annotations
        self._failed: set[str] = set()
        self._left_out: set[int | str] = set()
        for row in failures:
            if "qid" in row:
                self._left_out.add(row["qid"])
            else:
                self._failed.add(row["vid"])
        rows = read_annotations(annotations)
        vids = chain(features.columns.vids, self._failed)
        ids = known_as(vids, {row.vid for row in rows})
        self._wanted = {row.qid: replace(row, vid=ids.get(row.vid, row.vid)) for row in rows}
        self._as_it_is: dict[int | str, bool] = {}  # of the rows that are stored
        self._unasked: list[int | str] = []

    def take(self, sample: Sample) -> None:
        """A sample of the set."""
        for query in sample.queries:
            qid = query.annotation.qid
            if qid in self._wanted:
                self._as_it_is[qid] = query.annotation == self._wanted[qid]
            else:
                self._unasked.append(qid)

    def faults(self) -> Iterator[Fault]:
        """What is wrong, when all samples were taken."""
        for row in self._wanted.values():
            where = f"{self._source}: qid {row.qid!r}"
            if row.qid in self._as_it_is:
                if not self._as_it_is[row.qid]:
                    yield Fault(where, "is stored with other contents")
            elif row.vid not in self._failed and row.qid not in self._left_out:
                yield Fault(where, f"video {row.vid!r} is neither stored nor in failures.jsonl")
        for qid in self._unasked:
            yield Fault(str(self._folder), f"qid {qid!r} is stored and not in {self._source}")


def read_failures(folder: Source) -> list[dict[str, Any]]:
    """Rows of failures.jsonl, videos and, with a "qid", queries; none where there is no file."""
    path = Location(folder) / "failures.jsonl"
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        row = parse_json(line, f"{path}:{number}")
        named = isinstance(row, dict) and isinstance(row.get("vid"), str)
        asked = isinstance(row, dict) and row.get("qid", 0)
        if not named or not isinstance(row.get("kind"), str) or not isinstance(asked, int | str):
            raise InputError(f"{path}:{number}: not a failure; remove this line")
        rows.append(row)
    return rows
