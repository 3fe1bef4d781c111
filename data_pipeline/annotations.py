"""Which sentence describes which part of which video: rows in the format of QVHighlights."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.output import whole
from data_pipeline.untrusted import iter_rows, plain_name, reading, shown

HIGHLIGHT_CLIP = 2.0  # seconds: the grid of QVHighlights' saliency annotations
MEND = "mend or remove this row"


@dataclass(frozen=True)
class Annotation:
    """One sentence about one video, a row of an annotation file.

    `windows` are (start, end) in seconds, None where the ground truth is withheld. `saliency` holds
    the annotators' scores 0..4 of each relevant clip, {clip index: (score, ...)}, None where the
    data set has none; clip i covers [2 i, 2 i + 2) seconds as in QVHighlights.
    """

    qid: int | str
    query: str
    vid: str
    duration: float
    windows: tuple[tuple[float, float], ...] | None = None
    saliency: dict[int, tuple[float, ...]] | None = None

    def to_row(self) -> dict[str, Any]:
        """The JSON object of this row, keys as in QVHighlights' files."""
        row: dict[str, Any] = {
            "qid": self.qid,
            "query": self.query,
            "duration": self.duration,
            "vid": self.vid,
        }
        if self.windows is not None:
            row["relevant_windows"] = [list(window) for window in self.windows]
        if self.saliency is not None:
            row["relevant_clip_ids"] = list(self.saliency)
            row["saliency_scores"] = [list(scores) for scores in self.saliency.values()]
        return row


def parse_row(row: Any) -> Annotation:
    """One annotation from its JSON object.

    Raises ValueError that says what is wrong with the row. Windows are taken as they are written:
    degenerate ones (end <= start; Ego4D-NLQ has 963) are for the reader's policy, not an error.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    for key, kinds in (
        ("qid", (int, str)),
        ("query", str),
        ("vid", str),
        ("duration", (int, float)),
    ):
        if key not in row:
            raise ValueError(f"key {key!r} is missing")
        if not isinstance(row[key], kinds) or isinstance(row[key], bool):
            raise ValueError(f"{key!r} has the wrong type: {shown(row[key])}")
    if not (_finite(row["duration"]) and row["duration"] > 0):
        raise ValueError(
            f"'duration' must be a positive number of seconds, found {shown(row['duration'])}"
        )
    if not row["vid"] or not row["query"].strip():
        raise ValueError("'vid' and 'query' must not be empty")
    return Annotation(
        qid=row["qid"],
        query=row["query"],
        vid=row["vid"],
        duration=float(row["duration"]),
        windows=_windows(row.get("relevant_windows")),
        saliency=_saliency(row.get("relevant_clip_ids"), row.get("saliency_scores")),
    )


def _finite(value: float) -> bool:
    return abs(value) < math.inf if isinstance(value, float) else value.bit_length() < 1000


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and _finite(v) for v in values
    )


def _windows(value: Any) -> tuple[tuple[float, float], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or any(not _numbers(w) or len(w) != 2 for w in value):
        raise ValueError(f"'relevant_windows' must be a list of [start, end]: {shown(value)}")
    return tuple((float(start), float(end)) for start, end in value)


def _saliency(clip_ids: Any, scores: Any) -> dict[int, tuple[float, ...]] | None:
    if clip_ids is None or scores is None:
        return None
    if not isinstance(scores, list) or not _numbers(clip_ids) or len(clip_ids) != len(scores):
        raise ValueError("'relevant_clip_ids' and 'saliency_scores' must be lists of one length")
    if any(not _numbers(s) or not s for s in scores):
        raise ValueError("'saliency_scores' must hold a list of annotators' scores for each clip")
    return {int(clip): tuple(s) for clip, s in zip(clip_ids, scores, strict=True)}


def read_annotations(path: str | Path) -> list[Annotation]:
    """All rows of an annotation file, in file order.

    Raises InputError with file and line number for a malformed row, a qid that occurs twice, two
    durations for one video, or a file without rows.
    """
    annotations: list[Annotation] = []
    qids: dict[int | str, int] = {}
    durations: dict[str, float] = {}
    for number, row in iter_rows(path):
        with reading(f"{path}:{number}", MEND):
            try:
                annotation = parse_row(row)
            except ValueError as error:
                raise InputError(f"{path}:{number}: {error}; {MEND}") from error
        plain_name(annotation.vid, "'vid'", f"{path}:{number}", folders=True)
        if annotation.qid in qids:
            raise InputError(
                f"{path}:{number}: qid {shown(annotation.qid)} occurs twice "
                f"(first on line {qids[annotation.qid]}); qids must be unique"
            )
        known = durations.setdefault(annotation.vid, annotation.duration)
        if known != annotation.duration:
            raise InputError(
                f"{path}:{number}: video {shown(annotation.vid)} lasts {annotation.duration} s "
                f"here and {known} s on an earlier line; make them agree"
            )
        qids[annotation.qid] = number
        annotations.append(annotation)
    if not annotations:
        raise InputError(f"{path}: holds no annotation rows")
    return annotations


def write_annotations(path: str | Path, annotations: Iterable[Annotation]) -> None:
    """Write rows as JSONL; the file appears complete or not at all."""
    with whole(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for annotation in annotations:
            file.write(json.dumps(annotation.to_row(), ensure_ascii=False) + "\n")


PAST = 0.5
"""Seconds that a window may end after its video: durations are rounded."""


def doubts(annotations: Iterable[Annotation]) -> list[str]:
    """What rows say that nobody means: a line for each kind, with its count and the first row."""
    rows = [row for row in annotations if row.windows]
    kinds: dict[str, Callable[[Annotation, float, float], bool]] = {
        "a window that ends before it begins": lambda _, start, end: end <= start,
        "a window that ends after its video": lambda row, _, end: end > row.duration + PAST,
        "a window that begins before its video": lambda _, start, __: start < 0,
    }
    lines = []
    for what, is_odd in kinds.items():
        odd = [row for row in rows if any(is_odd(row, *window) for window in row.windows or ())]
        if odd:
            have = "has" if len(odd) == 1 else "have"
            first = f"qid {shown(odd[0].qid)}: {shown(odd[0].windows)} of {odd[0].duration:g} s"
            lines.append(f"{len(odd)} of {len(rows)} rows {have} {what} (first {first})")
    return lines


def misnamed_windows(path: str | Path) -> list[str]:
    """A line where rows hold what looks like windows, under another name than the one read."""
    names: Counter[str] = Counter()
    count = 0
    for _, row in iter_rows(path):
        count += 1
        if isinstance(row, dict) and row.get("relevant_windows") is None:
            names.update(key for key, value in row.items() if _look_like_windows(value))
    return [
        f"{times} of {count} rows of {path} have {shown(name)} and no 'relevant_windows', which is "
        "what is read: they count as without a window"
        for name, times in names.items()
    ]


def _look_like_windows(value: Any) -> bool:
    pairs = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    return all(_numbers(pair) and len(pair) == 2 for pair in pairs)
