"""On which queries is a run good? A metric by what the query asks for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.untrusted import shown
from trainer.comparison.compare import Group
from trainer.metrics.moments import LENGTH_RANGES
from trainer.metrics.ragged import Floats


@dataclass(frozen=True)
class Row:
    """One kind of query: how many there are, and each group's figure on them in percent."""

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


def breakdown(
    groups: Sequence[Group], annotations: Sequence[Annotation], metric: str
) -> dict[str, list[Row]]:
    """Tables of `metric` by kind of query, of groups that answered the queries of `annotations`.

    A kind that all queries share is left out, as are queries without a true window.
    """
    columns = [per_query(group, metric) for group in groups]  # each (Q,)
    answered = next(run.evaluation for run in groups[0].runs if run.evaluation)
    by_id = {annotation.qid: annotation for annotation in annotations}
    missing = [qid for qid in answered.qids if qid not in by_id]
    if missing:
        raise InputError(
            f"{groups[0].name}: its annotations.jsonl lacks query {shown(missing[0])} of its "
            "per_query.json; evaluate the run again"
        )
    ordered = [by_id[qid] for qid in answered.qids]
    counted = np.array([bool(annotation.windows) for annotation in ordered])
    tables = {}
    for kind, (measure, bins) in KINDS.items():
        values = np.array([measure(a) if a.windows else np.nan for a in ordered])
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


def per_query(group: Group, metric: str) -> Floats:
    """(Q,) what each query scored, in [0, 1], mean over the group's seeds."""
    kept = [run.evaluation.per_query[metric] for run in group.runs if run.evaluation]
    return np.asarray(np.mean(kept, axis=0))
