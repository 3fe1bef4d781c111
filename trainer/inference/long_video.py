"""How does a model that was trained on short videos see a long one?

In stretches of the length it was trained on, each overlapping the next by half. Then what two
neighbours saw in their common part decides whether they speak of one moment, and a moment that
crosses a border is put together from both. Work and memory grow linearly with the video.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.inference.calibration import surest

Floats = NDArray[np.float64]

AGREES = 0.5  # least IoU, in what both saw, of two windows that are one moment
DOUBTS = 0.25  # a window this much less sure than its neighbour's says nothing about it


@dataclass(frozen=True)
class Stretch:
    """What was found between `start` and `end` seconds of the video.

    windows (n, 3): start, end in seconds of the whole video, score. saliency (clips,). existence:
    probability that the stretch shows it, None where the model does not judge that.
    """

    start: float
    end: float
    windows: Floats
    saliency: Floats
    existence: float | None = None


def stretch_starts(clips: int, at_most: int) -> list[int]:
    """First clips of stretches of `at_most` clips that cover `clips`, half overlapping.

    The last one ends with the video and so may overlap more.
    """
    if clips <= at_most:
        return [0]
    last = clips - at_most
    return [*range(0, last, max(1, at_most // 2)), last]


def merge_windows(stretches: Sequence[Stretch]) -> Floats:
    """(n, 3) windows of all stretches, given in order of time; each moment once, best first."""
    settled: list[Floats] = []
    found = stretches[0].windows
    for before, after in itertools.pairwise(stretches):
        out_of_reach = found[:, 1] <= after.start
        settled.append(found[out_of_reach])
        found = _join(found[~out_of_reach], after.windows, (after.start, before.end))
    windows = np.concatenate([*settled, found])
    return windows[np.argsort(-windows[:, 2], kind="stable")]


def merge_existence(stretches: Sequence[Stretch]) -> float | None:
    """Probability that a video shows it, what its surest stretch says."""
    judged = [each.existence for each in stretches if each.existence is not None]
    return float(surest(np.array(judged))) if judged else None


def merge_saliency(stretches: Sequence[Stretch], starts: Sequence[int], clips: int) -> Floats:
    """(clips,) mean of the stretches' scores, each weighing most in the middle of its stretch."""
    total, weights = np.zeros(clips), np.zeros(clips)
    for stretch, start in zip(stretches, starts, strict=True):
        size = len(stretch.saliency)
        place = np.arange(size)
        weight = np.minimum(place, size - 1 - place) + 1.0
        total[start : start + size] += weight * stretch.saliency
        weights[start : start + size] += weight
    return total / weights


def _join(left: Floats, right: Floats, seam: tuple[float, float]) -> Floats:
    """Windows of two neighbours whose common part is `seam`, those that agree in it put together.

    The surest window chooses first. Its partner is the surest of the neighbour's windows that
    agrees with it within the seam; what looks the same as either on its own side goes with them.
    """
    if not len(left) or not len(right):
        return np.concatenate((left, right))
    sides = (left, right)
    fits = _iou(np.clip(left[:, :2], *seam), np.clip(right[:, :2], *seam)) >= AGREES
    agrees = (fits, fits.T)
    twins = tuple(_iou(side[:, :2], side[:, :2]) >= AGREES for side in sides)
    free = (np.ones(len(left), bool), np.ones(len(right), bool))
    order = sorted(
        ((side, index) for side in (0, 1) for index in range(len(sides[side]))),
        key=lambda place: -sides[place[0]][place[1], 2],
    )
    joined = []
    for side, index in order:
        if not free[side][index]:
            continue
        other = 1 - side
        window = sides[side][index]
        heard = agrees[side][index] & free[other] & (sides[other][:, 2] >= DOUBTS * window[2])
        free[side][index] = False
        if heard.any():
            partner = int(np.where(heard, sides[other][:, 2], -np.inf).argmax())
            free[side][twins[side][index] & agrees[other][partner]] = False
            free[other][twins[other][partner] & agrees[side][index]] = False
            pair = (window, sides[other][partner])
            window = _together(window, pair[side], pair[other], seam)
        joined.append(window)
    return np.stack(joined)


def _together(surer: Floats, left: Floats, right: Floats, seam: tuple[float, float]) -> Floats:
    """One window of two views: an edge that only one side could see is that side's word."""
    start = left[0] if left[0] < seam[0] else surer[0]
    end = right[1] if right[1] > seam[1] else surer[1]
    return np.array([start, end, surer[2]])


def _iou(a: Floats, b: Floats) -> Floats:
    """(n, 2) and (m, 2) edges -> (n, m); 0 where either is empty."""
    a, b = a[:, None], b[None]
    overlap = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou
