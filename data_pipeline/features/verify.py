"""Is a set of feature shards whole: as its manifest says, and with all that was asked for?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
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
    stored: dict[int | str, Annotation] = {}
    for index, entry in enumerate(features.samples):
        where = f"{features.path(entry.shard)}: sample {entry.vid!r}"
        try:
            sample = features.read(index)
        except InputError as error:
            yield Fault(str(features.path(entry.shard)), str(error).partition(": ")[2])
            continue
        yield from (Fault(where, what) for what in _faults(sample, features))
        for query in sample.queries:
            qid = query.annotation.qid
            if qid in stored:
                yield Fault(where, f"qid {qid!r} is stored twice")
            stored[qid] = query.annotation
    if annotations is not None:
        yield from _coverage(folder, annotations, stored)


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


def _coverage(
    folder: Source, annotations: str | Path, stored: dict[int | str, Annotation]
) -> Iterator[Fault]:
    rows = read_failures(folder)
    failed = {row["vid"] for row in rows if "qid" not in row}
    left_out = {row["qid"] for row in rows if "qid" in row}
    ids = known_as([*(a.vid for a in stored.values()), *failed])
    wanted = [replace(a, vid=ids.get(a.vid, a.vid)) for a in read_annotations(annotations)]
    for annotation in wanted:
        where = f"{annotations}: qid {annotation.qid!r}"
        if annotation.qid in stored:
            if stored[annotation.qid] != annotation:
                yield Fault(where, "is stored with other contents")
        elif annotation.vid not in failed and annotation.qid not in left_out:
            yield Fault(where, f"video {annotation.vid!r} is neither stored nor in failures.jsonl")
    for qid in stored.keys() - {annotation.qid for annotation in wanted}:
        yield Fault(str(folder), f"qid {qid!r} is stored and not in {annotations}")


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
