"""Which prediction answers which annotation, and what is wrong with the rows that do not fit."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.untrusted import iter_rows, shown

Row = dict[str, Any]

WINDOWS, SCORES = "pred_relevant_windows", "pred_saliency_scores"
EXISTENCE, FOUND = "pred_existence", "pred_found"
"""Probability that the video shows what is asked for, and whether that is enough to say so; rows of
models that judge it have both."""

_NUMBERS = {int, float}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a file of predictions; `place` is its line, None for the whole file."""

    place: int | None
    message: str


def row_fault(row: Any) -> str | None:
    """Why a row cannot be measured, None where it can.

    A row is {"qid", "pred_relevant_windows": [[start, end, score], ...], "pred_saliency_scores":
    [score, ...]} with at least one of the two lists, start and end in seconds.
    """
    if not isinstance(row, dict):
        return f"expected a JSON object, found {type(row).__name__}"
    if type(row.get("qid")) not in (int, str):
        return "'qid' is missing or not a number or string"
    windows, scores = row.get(WINDOWS), row.get(SCORES)
    if windows is None and scores is None:
        return f"holds neither {WINDOWS!r} nor {SCORES!r}"
    if windows is not None:
        if not isinstance(windows, list):
            return f"{WINDOWS!r} is not a list"
        for window in windows:
            if not isinstance(window, list | tuple):
                return f"{WINDOWS!r} holds {shown(window)}, not [start, end, score]"
            if len(window) != 3:
                missing = " (its score is missing)" if len(window) == 2 else ""
                return f"{WINDOWS!r} holds {shown(window)}, not [start, end, score]{missing}"
            if not _finite(window):
                return f"{WINDOWS!r} holds {shown(window)}: only finite numbers count"
    if scores is not None:
        if not isinstance(scores, list | tuple):
            return f"{SCORES!r} is not a list"
        if not scores:
            return f"{SCORES!r} is empty"
        if not _finite(scores):
            return f"{SCORES!r} holds something other than finite numbers"
    existence, found = row.get(EXISTENCE), row.get(FOUND)
    if existence is not None and not (_finite([existence]) and 0 <= existence <= 1):
        return f"{EXISTENCE!r} must be a probability, found {shown(existence)}"
    if found is not None and not isinstance(found, bool):
        return f"{FOUND!r} must be true or false, found {shown(found)}"
    return None


def _finite(values: Sequence[Any]) -> bool:
    if not set(map(type, values)) <= _NUMBERS and not all(map(_is_number, values)):
        return False
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # an integer beyond the largest float
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def faults(
    rows: Iterable[tuple[int, Any]], annotations: Sequence[Annotation] | None
) -> Iterator[Fault]:
    """Everything that keeps `rows` (place, row) from being measured against `annotations`.

    Without annotations only each row by itself is judged, and that no qid occurs twice.
    """
    known = None if annotations is None else {annotation.qid for annotation in annotations}
    seen: dict[int | str, int] = {}
    lacking: dict[str, list[int]] = {WINDOWS: [], SCORES: []}
    for place, row in rows:
        message = row_fault(row)
        if message is not None:
            yield Fault(place, message)
        qid = row.get("qid") if isinstance(row, dict) else None
        if type(qid) not in (int, str):
            continue
        assert qid is not None
        if qid in seen:
            yield Fault(place, f"qid {shown(qid)} occurs twice (first at {seen[qid]})")
        seen.setdefault(qid, place)
        if known is not None and qid not in known:
            yield Fault(
                place, f"qid {shown(qid)} is not in the annotations{_other_type(qid, known)}"
            )
        for key, places in lacking.items():
            if row.get(key) is None:
                places.append(place)
    for key, places in lacking.items():
        if places and len(places) < len(seen):
            yield Fault(places[0], f"{key!r} is missing here but present in other rows")
    if not seen:
        yield Fault(None, "holds no prediction rows")
    elif known is not None:
        missing = [place for place, a in enumerate(annotations or ()) if a.qid not in seen]
        if annotations and missing:
            first = f"qid {annotations[missing[0]].qid!r} (annotation {missing[0] + 1})"
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            yield Fault(None, f"has no row for {first}{more}; predict every query")


def _other_type(qid: int | str, known: set[int | str]) -> str:
    other = {str(name): name for name in known}.get(str(qid))
    return "" if other is None else f"; they have {other!r}: write the qid as they do"


def read_predictions(
    path: str | Path, annotations: Sequence[Annotation] | None = None
) -> list[Row]:
    """The rows of a predictions file, fit for `evaluate` against `annotations`.

    Raises InputError naming file and line of the first fault.
    """
    rows = list(iter_rows(path))
    for fault in faults(rows, annotations):
        place = str(path) if fault.place is None else f"{path}:{fault.place}"
        raise InputError(f"{place}: {fault.message}")
    return [row for _, row in rows]
