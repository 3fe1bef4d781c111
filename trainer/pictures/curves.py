"""How good is a run at every threshold, and are its probabilities what comes true?"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.untrusted import iter_rows
from trainer.metrics.existence import reliability, window_scores
from trainer.metrics.rows import EXISTENCE
from trainer.pictures.charts import Chart, Series, line_chart
from trainer.pictures.examples import Pair
from trainer.pictures.timeline import Timeline, iou

OVERLAPS = np.round(np.arange(0.05, 1.0, 0.05), 2)
FOUND_AT = (0.5, 0.7)  # overlaps from which a window counts as right


def recall_chart(pairs: Sequence[Pair]) -> Chart | None:
    """Share of queries of which the first window, or one of the first five, overlaps so much."""
    if not pairs:
        return None
    best = {first: np.array([_best(p.timeline, first) for p in pairs]) for first in (1, 5)}
    series = [
        Series(
            name, [(100 * float(at), 100 * float((best[first] >= at).mean())) for at in OVERLAPS]
        )
        for name, first in (("first window", 1), ("best of five", 5))
    ]
    title = "Recall over IoU"
    return line_chart(title, "IoU, %", "percent of queries", series, y_range=(0.0, 100.0))


def precision_chart(pairs: Sequence[Pair]) -> Chart | None:
    """Precision over recall of all windows of all queries, by score: pooled, not averaged."""
    series = [Series(f"IoU {at}", _precision(pairs, at)) for at in FOUND_AT]
    title = "Precision over recall"
    return line_chart(title, "recall, %", "precision, %", series, y_range=(0.0, 100.0))


def reliability_chart(path: Path, annotations: Sequence[Annotation]) -> Chart | None:
    """How often comes true what a probability says (Guo et al. 2017), by bins of probability.

    None unless every row of the predictions in `path` judges existence.
    """
    stored = iter_rows(path, nan=True) if path.is_file() else ()
    rows = {str(row["qid"]): row for _, row in stored}
    told = [a for a in annotations if a.windows is not None and str(a.qid) in rows]
    given = [rows[str(annotation.qid)] for annotation in told]
    if not told or not all(_is_number(row.get(EXISTENCE)) for row in given):
        return None
    shown = np.array([bool(annotation.windows) for annotation in told])
    judged = {
        "the video shows it": (np.array([float(row[EXISTENCE]) for row in given]), shown),
        "the first window is right": window_scores(given, told),
    }
    series = [Series("as sure as right", [(0.0, 0.0), (100.0, 100.0)])]
    for name, (probabilities, so) in judged.items():
        points, _ = reliability(probabilities, so)
        series.append(Series(name, [(100 * said, 100 * true) for said, true in points]))
    title = "Reliability"
    return line_chart(title, "probability, %", "came true, %", series, y_range=(0.0, 100.0))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _best(line: Timeline, first: int) -> float:
    overlaps = [
        iou(start, end, *window)
        for start, end, _ in line.windows[:first]
        for window in line.truth or ()
    ]
    return max(overlaps, default=0.0)


def _precision(pairs: Sequence[Pair], at: float) -> list[tuple[float, float]]:
    """(recall, precision) in percent, at each right window down the ranking of all."""
    ranked: list[tuple[float, bool]] = []
    for pair in pairs:
        free = list(pair.timeline.truth or ())
        for start, end, score in pair.timeline.windows:  # each true window is found once
            overlaps = [iou(start, end, *window) for window in free]
            hit = bool(overlaps) and max(overlaps) >= at
            if hit:
                free.pop(int(np.argmax(overlaps)))
            ranked.append((score, hit))
    true = sum(len(pair.timeline.truth or ()) for pair in pairs)
    if not ranked or not true:
        return []
    ranked.sort(key=lambda window: -window[0])
    places = 1 + np.flatnonzero([hit for _, hit in ranked])
    hits = 1 + np.arange(len(places))
    return list(zip((100 * hits / true).tolist(), (100 * hits / places).tolist(), strict=True))
