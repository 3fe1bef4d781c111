"""Are queries told apart that their video shows and that it does not (NA-VMR, GMR)?

Measured where annotations hold queries with an empty list of windows beside others. The score of a
query is its `pred_existence`, or, of predictions without, the best score of its windows. Which are
rejected is said by `pred_found`, or by a threshold of that score.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline.annotations import Annotation
from trainer.metrics.figures import Sheet, percent
from trainer.metrics.moments import retrieve
from trainer.metrics.ragged import Booleans, Floats, Ragged
from trainer.metrics.rows import EXISTENCE, FOUND, WINDOWS, Row

RIGHT = 0.5
"""IoU with a true window from which a window is right."""
BINS = 10
"""Of probabilities, equally wide, in which the calibration error compares them with what is so."""


def measure_existence(
    sheet: Sheet, rows: Sequence[Row], annotations: Sequence[Annotation], threshold: float | None
) -> None:
    """Add the figures to `sheet`; none where no query, or every query, is absent.

    `threshold` is the score below which a query counts as rejected, None where rows say it.
    """
    told = np.array([annotation.windows is not None for annotation in annotations])
    present = np.array([bool(annotation.windows) for annotation in annotations])
    if not (told & ~present).any() or not present.any():
        return
    scores = existence_scores(rows)
    if scores is None:
        return
    columns = {
        "AUROC": above_absent(scores, present, told),
        "existence-AP": precision_at_rank(scores, present, told),
    }
    found = None if threshold is None else scores >= threshold
    if threshold is None and all(FOUND in row for row in rows):
        found = np.array([row[FOUND] for row in rows], dtype=bool)
    if found is not None:
        right = (found == present).astype(np.float64)
        columns |= {
            "rejection-accuracy": np.where(told, right, np.nan),
            "rejected-absent": np.where(told & ~present, right, np.nan),
            "accepted-present": np.where(told & present, right, np.nan),
        }
    if all(row.get(EXISTENCE) is not None for row in rows):  # other scores are no probabilities
        columns["existence-ECE"] = calibration_error(scores, present, told)
        columns["score-ECE"] = calibration_error(*window_scores(rows, annotations), told)
    for name, values in columns.items():
        sheet.headline(name, percent(np.nanmean(values)), values)


def window_scores(
    rows: Sequence[Row], annotations: Sequence[Annotation]
) -> tuple[Floats, Booleans]:
    """(Q,) score of each query's first window, and whether that is right: it overlaps a true one by
    half or more. No window has score 0."""
    first = [(row.get(WINDOWS) or [(0.0, 0.0, 0.0)])[0] for row in rows]
    predicted = Ragged.of([[window] for window in first], 3)
    truth = Ragged.of([annotation.windows or () for annotation in annotations], 2)
    scores = np.clip([window[2] for window in first], 0.0, 1.0)
    if not len(truth.values):
        return scores, np.zeros(len(rows), dtype=bool)
    return scores, np.nan_to_num(retrieve(predicted, truth).first_iou) >= RIGHT


def existence_scores(rows: Sequence[Row]) -> Floats | None:
    """(Q,) how sure each row is that its video shows it; None where rows tell nothing."""
    if all(row.get(EXISTENCE) is not None for row in rows):
        return np.array([row[EXISTENCE] for row in rows], dtype=np.float64)
    if any(row.get(WINDOWS) is None for row in rows):
        return None
    best = [max((window[2] for window in row[WINDOWS]), default=-np.inf) for row in rows]
    return np.array(best, dtype=np.float64)


def above_absent(scores: Floats, present: Booleans, told: Booleans) -> Floats:
    """(Q,) share of the absent queries that score below each present one, equal ones half; NaN of
    others. Its mean is the area under the ROC curve."""
    absent = np.sort(scores[told & ~present])
    below = np.searchsorted(absent, scores, side="left")
    up_to = np.searchsorted(absent, scores, side="right")
    return np.where(told & present, (below + up_to) / 2 / len(absent), np.nan)


def precision_at_rank(scores: Floats, present: Booleans, told: Booleans) -> Floats:
    """(Q,) share of present queries among those that score at least as each present one; NaN of
    others. Its mean is the average precision."""
    every, shown = np.sort(scores[told]), np.sort(scores[told & present])
    at_least = len(every) - np.searchsorted(every, scores, side="left")
    of_these = len(shown) - np.searchsorted(shown, scores, side="left")
    share = np.divide(of_these, at_least, out=np.zeros(len(scores)), where=at_least > 0)
    return np.where(told & present, share, np.nan)


def calibration_error(probabilities: Floats, so: Booleans, told: Booleans) -> Floats:
    """(Q,) by how much each query's probability is off, with the sign of its bin; NaN where not
    told. Its mean is the expected calibration error over `BINS` bins (Guo et al. 2017)."""
    place = bins_of(probabilities)
    errors = np.full(len(probabilities), np.nan)
    for inside in (told & (place == number) for number in range(BINS)):
        gaps = probabilities[inside] - so[inside]
        errors[inside] = gaps * (np.sign(gaps.sum()) or 1.0)
    return errors


def reliability(probabilities: Floats, so: Booleans) -> tuple[list[tuple[float, float]], list[int]]:
    """Mean probability and share of what is so of each bin that holds any; how many it holds."""
    place = bins_of(probabilities)
    held = [place == number for number in range(BINS) if (place == number).any()]
    points = [(float(probabilities[each].mean()), float(so[each].mean())) for each in held]
    return points, [int(each.sum()) for each in held]


def bins_of(probabilities: Floats) -> np.ndarray:
    """(Q,) number of the bin of each probability."""
    return np.clip((probabilities * BINS).astype(np.int64), 0, BINS - 1)
