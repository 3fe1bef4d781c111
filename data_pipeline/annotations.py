"""Which sentence describes which part of which video: rows in the format of QVHighlights."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.output import whole
from data_pipeline.rows import HIGHLIGHT_CLIP, clip_length_of, numbers, row_faults, saliency_of
from data_pipeline.untrusted import iter_rows, plain_name, reading, shown

MEND = "mend or remove this row"


@dataclass(frozen=True)
class Annotation:
    """One sentence about one video, a row of an annotation file.

    `windows` are (start, end) in seconds, None where the ground truth is withheld. `saliency` holds
    the annotators' scores 0..4 of each relevant clip, {clip index: (score, ...)}, None where the
    data set has none; clip i covers [c i, c i + c) seconds, where c is `clip_length`, 2 s in
    QVHighlights. `domain` is the kind of video that TVSum and YouTube Highlights are judged by.
    """

    qid: int | str
    query: str
    vid: str
    duration: float
    windows: tuple[tuple[float, float], ...] | None = None
    saliency: dict[int, tuple[float, ...]] | None = None
    clip_length: float = HIGHLIGHT_CLIP
    domain: str | None = None

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
        return row | self.extras()

    def extras(self) -> dict[str, Any]:
        """What a row says only where it is not as in QVHighlights."""
        extras: dict[str, Any] = {}
        if self.clip_length != HIGHLIGHT_CLIP:
            extras["clip_length"] = self.clip_length
        if self.domain is not None:
            extras["domain"] = self.domain
        return extras


def rated_clips(annotation: Annotation) -> int:
    """How many clips of its `clip_length` a video is judged by.

    Where videos have a domain all clips are rated; else those that fit the duration, in
    QVHighlights int(duration / 2).
    """
    if annotation.domain is not None and annotation.saliency:
        return max(annotation.saliency) + 1
    # Clips of an odd length may fit by a rounding error too few.
    slack = 0.0 if annotation.clip_length == HIGHLIGHT_CLIP else 1e-6
    return int(annotation.duration / annotation.clip_length + slack)


def parse_row(row: Any) -> Annotation:
    """One annotation from its JSON object.

    Raises ValueError that says what is wrong with the row. Windows are taken as they are written:
    degenerate ones (end <= start; Ego4D-NLQ has 963) are for the reader's policy, not an error.
    """
    for fault in row_faults(row):
        raise ValueError(fault)
    windows, (clips, scores) = row.get("relevant_windows"), saliency_of(row)
    return Annotation(
        qid=row["qid"],
        query=row["query"],
        vid=row["vid"],
        duration=float(row["duration"]),
        windows=None if windows is None else tuple((float(s), float(e)) for s, e in windows),
        saliency=(
            {int(clip): tuple(given) for clip, given in zip(clips, scores, strict=True)}
            if clips is not None and scores is not None
            else None
        ),
        clip_length=clip_length_of(row),
        domain=row.get("domain"),
    )


def read_annotations(path: str | Path) -> list[Annotation]:
    """All rows of an annotation file, in file order.

    Raises InputError with file and line number for a malformed row, a qid that occurs twice, two
    durations for one video, or a file without rows.
    """
    annotations: list[Annotation] = []
    known = Known()
    for number, row in iter_rows(path):
        place = f"{path}:{number}"
        with reading(place, MEND):
            try:
                annotation = parse_row(row)
            except ValueError as error:
                raise InputError(f"{place}: {error}; {MEND}") from error
        plain_name(annotation.vid, "'vid'", place, folders=True)
        for fault in known.faults(annotation, number):
            raise InputError(f"{place}: {fault}")
        annotations.append(annotation)
    if not annotations:
        raise InputError(f"{path}: holds no annotation rows")
    return annotations


class Known:
    """What the rows of a file have said so far, with which later ones must agree."""

    def __init__(self) -> None:
        self._qids: dict[int | str, int] = {}
        self._durations: dict[str, float] = {}

    def faults(self, annotation: Annotation, number: int) -> Iterator[str]:
        """How the row of line `number` disagrees with those before it."""
        first = self._qids.setdefault(annotation.qid, number)
        if first != number:
            yield (
                f"qid {shown(annotation.qid)} occurs twice (first on line {first}); qids must be "
                "unique"
            )
        lasts = self._durations.setdefault(annotation.vid, annotation.duration)
        if lasts != annotation.duration:
            yield (
                f"video {shown(annotation.vid)} lasts {annotation.duration} s here and {lasts} s "
                "on an earlier line; make them agree"
            )


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
        names.update(names_of_windows(row) if isinstance(row, dict) else ())
    return [
        f"{times} of {count} rows of {path} have {shown(name)} and no 'relevant_windows', which is "
        "what is read: they count as without a window"
        for name, times in names.items()
    ]


def names_of_windows(row: dict[str, Any]) -> list[str]:
    """Keys, in a row without 'relevant_windows', of what looks like them."""
    if row.get("relevant_windows") is not None:
        return []
    return [key for key, value in row.items() if _look_like_windows(value)]


def _look_like_windows(value: Any) -> bool:
    pairs = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    return all(numbers(pair) and len(pair) == 2 for pair in pairs)
