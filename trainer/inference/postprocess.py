"""Which of a model's overlapping windows are shown, and where exactly do they begin and end?"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.config import PostprocessConfig

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


SHORTEST = 0.002
"""Seconds that a shown window lasts at least, so that milliseconds can write it."""


PRESETS: Mapping[str, PostprocessConfig] = {
    "qvhighlights": PostprocessConfig(),
    # Rounding as coarse as the 1 s clips would cost recall at IoU 0.7.
    "charades": PostprocessConfig(suppression="linear", threshold=0.0, unit=0.1),
    "tacos": PostprocessConfig(suppression="linear", threshold=0.0, unit=0.0),
    "nlq": PostprocessConfig(suppression="linear", threshold=0.0, unit=0.0),
    "activitynet": PostprocessConfig(suppression="linear", threshold=0.0, unit=0.0),
}
"""How the field post-processes each data set."""


def postprocess(
    windows: Floats,
    durations: Sequence[float],
    config: PostprocessConfig,
    mask: Booleans | None = None,
) -> list[Floats]:
    """The windows to show of B queries, for each (at most `keep`, 3), best first.

    `windows` (B, M, 3) are start, end in seconds and a score that is not negative; `mask` (B, M) is
    True where a window is real (all, if None). Edges are rounded, then cut to [0, duration], then
    the windows are suppressed: rounding makes duplicates, which suppression removes. No window is
    empty. Equal scores keep their order.

    Raises ValueError for shapes that do not fit.
    """
    if windows.ndim != 3 or windows.shape[2] != 3 or len(durations) != len(windows):
        raise ValueError(
            f"expected windows (B, M, 3) and B durations, not {windows.shape} and {len(durations)}"
        )
    real = np.ones(windows.shape[:2], dtype=bool) if mask is None else np.asarray(mask)
    end = np.asarray(durations, dtype=np.float64)[:, None, None]
    edges = np.clip(windows[..., :2].astype(np.float64), 0.0, end)
    if config.unit:
        edges = np.clip(_rounded(edges, end, config.unit), 0.0, end)
    edges = _not_empty(edges, end)
    scores = windows[..., 2].astype(np.float64)
    order = np.argsort(np.where(real, -scores, np.inf), axis=1, kind="stable")
    edges = np.take_along_axis(edges, order[..., None], axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    real = np.take_along_axis(real, order, axis=1)
    if config.suppression == "hard":
        kept = _best_of_each_cluster(_iou(edges), real, config.threshold)
        scores = np.where(kept, scores, 0.0)
        shown = real if config.demote else kept
        order = np.argsort(np.where(kept, 0, 1), axis=1, kind="stable")
    else:
        if config.suppression != "none":
            scores = _lowered(_iou(edges), scores, real, config)
        shown = real
        order = np.argsort(np.where(real, -scores, np.inf), axis=1, kind="stable")
    result = np.concatenate([edges, scores[..., None]], axis=2)  # (B, M, 3)
    result = np.take_along_axis(result, order[..., None], axis=1)
    shown = np.take_along_axis(shown, order, axis=1)
    return [row[keep][: config.keep] for row, keep in zip(result, shown, strict=True)]


def _rounded(edges: Floats, end: Floats, unit: float) -> Floats:
    """(B, M, 2) edges at multiples of `unit`; one that would vanish gets the unit it is in."""
    # The end of a video is an edge of its own, on no grid: what reaches it stays there.
    rounded = np.where(edges < end, np.round(edges / unit) * unit, end)
    middle = np.minimum(edges.mean(axis=2, keepdims=True), np.nextafter(end, 0.0))
    cell = np.floor(middle / unit) * unit
    cell = np.concatenate([cell, cell + unit], axis=2)
    vanished = rounded[..., 1:] <= rounded[..., :1]
    # Six decimals: 3 * 0.1 is 0.30000000000000004, which would be written so.
    return np.asarray(np.round(np.where(vanished, cell, rounded), 6), dtype=np.float64)


def _not_empty(edges: Floats, end: Floats) -> Floats:
    """(B, M, 2) edges at least `SHORTEST` apart, within [0, end]: an empty window meets nothing."""
    start = np.minimum(edges[..., :1], np.maximum(end - SHORTEST, 0.0))
    return np.concatenate([start, np.maximum(edges[..., 1:], start + SHORTEST)], axis=2).clip(
        0, end
    )


def _iou(edges: Floats) -> Floats:
    """(B, M, M) of windows (B, M, 2) with each other, 0 for empty ones."""
    start, end = edges[..., 0], edges[..., 1]
    shared = np.minimum(end[:, :, None], end[:, None]) - np.maximum(
        start[:, :, None], start[:, None]
    )
    shared = np.maximum(shared, 0.0)
    length = end - start
    union = length[:, :, None] + length[:, None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _best_of_each_cluster(iou: Floats, real: Booleans, threshold: float) -> Booleans:
    """(B, M): the windows, best first, that meet no better one that is itself kept."""
    kept = real.copy()
    for window in range(kept.shape[1]):
        meets = iou[:, window, window + 1 :] >= threshold
        kept[:, window + 1 :] &= ~(kept[:, window, None] & meets)
    return kept


def _lowered(iou: Floats, scores: Floats, real: Booleans, config: PostprocessConfig) -> Floats:
    """(B, M) scores after each window, best first, has lowered those that are left."""
    if config.suppression == "linear":
        factor = np.where(iou >= config.threshold, 1.0 - iou, 1.0)
    else:
        factor = np.exp(-(iou**2) / config.sigma)
    scores, left = scores.copy(), real.copy()
    query = np.arange(len(scores))
    for _ in range(scores.shape[1]):
        best = np.where(left, scores, -np.inf).argmax(1)  # (B,)
        # Where nothing is left the choice means nothing, and lowers nothing.
        left[query, best] = False
        scores = np.where(left, scores * factor[query, best], scores)
    return scores
