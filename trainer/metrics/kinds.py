"""On which kinds of query is a figure good? By what a query asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.untrusted import shown
from trainer.metrics.moments import LENGTH_RANGES
from trainer.metrics.ragged import Floats


@dataclass(frozen=True)
class Row:
    """One kind of query: how many there are, and each column's figure on them in percent."""

    label: str
    queries: int
    values: tuple[float, ...]


def _window_length(annotation: Annotation) -> float:
    windows = annotation.windows or ()
    return sum(end - start for start, end in windows) / len(windows)


def _place(annotation: Annotation) -> float:
    start, end = (annotation.windows or ())[0]
    return (start + end) / 2 / annotation.duration


def _windows(annotation: Annotation) -> int:
    return len(annotation.windows or ())


def _words(annotation: Annotation) -> int:
    return len(annotation.query.split())


_LENGTHS = [(f"{name}, up to {high:g} s", high) for name, (_, high) in LENGTH_RANGES.items()]

KINDS: dict[str, tuple[Callable[[Annotation], float], list[tuple[str, float]]]] = {
    "length of the moment": (_window_length, [*_LENGTHS[:-1], ("long, more", np.inf)]),
    "moments asked for": (_windows, [("one", 1), ("two or three", 3), ("more", np.inf)]),
    "place of the first moment": (
        _place,
        [("first third", 1 / 3), ("middle third", 2 / 3), ("last third", np.inf)],
    ),
    "length of the sentence": (
        _words,
        [("up to 5 words", 5), ("6 to 10 words", 10), ("more", np.inf)],
    ),
    "length of the video": (
        lambda annotation: annotation.duration,
        [("up to 30 s", 30), ("up to 2 min", 120), ("up to 10 min", 600), ("more", np.inf)],
    ),
}
"""Kind of query -> what is measured of an annotation, and (label, up to and including)."""


def by_kind(annotations: Sequence[Annotation], columns: Sequence[Floats]) -> dict[str, list[Row]]:
    """Tables by kind of query, of columns (Q,) of what each of the queries scored, in [0, 1].

    A kind that all queries share is left out, as are queries without a true window.
    """
    counted = np.array([bool(annotation.windows) for annotation in annotations])
    tables = {}
    for kind, (measure, bins) in KINDS.items():
        values = np.array([measure(a) if a.windows else np.nan for a in annotations])
        place = np.searchsorted([high for _, high in bins], values, side="left")
        rows = []
        for index, (label, _) in enumerate(bins):
            inside = counted & (place == index)
            if inside.any():
                figures = tuple(float(100 * np.nanmean(column[inside])) for column in columns)
                rows.append(Row(label, int(inside.sum()), figures))
        if len(rows) > 1:
            tables[kind] = rows
    return tables


def in_order(
    qids: Sequence[int | str], annotations: Sequence[Annotation], name: str
) -> list[Annotation]:
    """The annotations of these queries; InputError, for the run `name`, where one is missing."""
    by_id = {annotation.qid: annotation for annotation in annotations}
    missing = [qid for qid in qids if qid not in by_id]
    if missing:
        raise InputError(
            f"{name}: its annotations.jsonl lacks query {shown(missing[0])} of its "
            "per_query.json; evaluate the run again"
        )
    return [by_id[qid] for qid in qids]
