"""Moment retrieval: how well the listed windows of each query meet its true windows.

The definitions are those of QVHighlights (Lei et al., Moment-DETR, arXiv 2107.09609, section 4.3
and its published evaluation), followed to the last bit, because a figure like 12.345 rounds by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.metrics.ragged import Booleans, Floats, Ragged, reduce_kept

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The thresholds 0.50, 0.55 ... 0.95 over which mAP is averaged."""

RECALL_THRESHOLDS = tuple(round(0.3 + 0.05 * step, 2) for step in range(14))
"""The thresholds 0.30, 0.35 ... 0.95 over which mean recall is averaged."""

LENGTH_RANGES = {"short": (0.0, 10.0), "middle": (10.0, 30.0), "long": (30.0, 150.0)}
"""Seconds (above, up to and including) of the true windows that each range keeps."""

LISTED_WINDOWS = 10
"""Only this many windows count, in the order they are listed, before any sorting by score."""


@dataclass(frozen=True)
class Retrieval:
    """What each of Q queries scored; NaN where a query does not count.

    `average_precision` (Q, 10) at IOU_THRESHOLDS; `first_iou` (Q,) the best IoU of the first listed
    window; `five_iou` (Q,) the best IoU among the first five; `undefined` (Q,) whether some listed
    window has an IoU of 0 / 0.
    """

    average_precision: Floats
    first_iou: Floats
    five_iou: Floats
    undefined: Booleans


def in_range(truth: Ragged, above: float, up_to: float) -> Ragged:
    """Only the true windows (start, end) whose length lies in (above, up_to] seconds."""
    length = truth.values[:, 1] - truth.values[:, 0]
    return truth.select((above < length) & (length <= up_to))


def retrieve(predicted: Ragged, truth: Ragged, official: bool = False) -> Retrieval:
    """Score the `predicted` (start, end, score) lists against the `truth` (start, end) lists.

    A query without true windows does not count (NaN). One without predicted windows counts as 0.
    With `official` two errors of the published script are kept: a query without predicted windows
    drops out of the average precision, and a pair of windows whose lengths cancel (both empty, or
    one inverted) has IoU 0 / 0, which the script takes for a hit.
    """
    queries = len(truth.counts)
    number = np.minimum(predicted.counts, LISTED_WINDOWS)
    precision = np.full((queries, len(IOU_THRESHOLDS)), np.nan)
    first, five = np.full(queries, np.nan), np.full(queries, np.nan)
    undefined = np.zeros(queries, dtype=bool)
    for rows, true in truth.by_length():
        listed = predicted.padded(rows, LISTED_WINDOWS, 0.0)  # (n, M, 3)
        real = np.arange(LISTED_WINDOWS) < number[rows][:, None]  # (n, M)
        iou = _iou(listed, true)  # (n, M, N)
        undefined[rows] = (np.isnan(iou) & real[..., None]).any((1, 2))
        if not official:
            iou = np.nan_to_num(iou, nan=0.0)
        score = np.where(real, listed[..., 2], -np.inf)
        precision[rows] = _average_precision(iou, score, real)
        hull_iou = np.where(real[:, :5, None], _hull_iou(listed[:, :5], true), 0.0)  # (n, 5, N)
        # The true window for the first listed one is chosen by one IoU and measured by the other.
        best = iou[:, 0].argmax(1)[:, None]
        first[rows] = np.take_along_axis(hull_iou[:, 0], best, axis=1)[:, 0]
        five[rows] = hull_iou.max((1, 2))
    if official:
        precision[number == 0] = np.nan
    return Retrieval(precision, first, five, undefined)


def recall_of_first(predicted: Ragged, truth: Ragged, count: int) -> Floats:
    """(Q,) how many of the first `count` listed windows find a true one of their own, in parts of
    `count`, mean over RECALL_THRESHOLDS; NaN for queries with fewer true windows.

    mR@k of QV-M2 (Cao et al., arXiv 2510.17218, section 3.3). A window that is not listed misses.
    """
    recall = np.full(len(truth.counts), np.nan)
    for rows, true in truth.by_length():
        if true.shape[1] < count:
            continue
        listed = predicted.padded(rows, count, 0.0)  # (n, count, 3)
        real = np.arange(count) < predicted.counts[rows][:, None]  # (n, count)
        iou = np.nan_to_num(_iou(listed, true), nan=0.0)
        hits = _match(iou, RECALL_THRESHOLDS) & real[..., None]  # (n, count, 14)
        recall[rows] = hits.sum(1).mean(1) / count
    return recall


def _iou(listed: Floats, true: Floats) -> Floats:
    """(n, M, N) of windows (n, M, 2 or more) and (n, N, 2); NaN for 0 / 0."""
    start, end = listed[:, :, None, 0], listed[:, :, None, 1]
    true_start, true_end = true[:, None, :, 0], true[:, None, :, 1]
    shared = np.maximum(np.minimum(end, true_end) - np.maximum(start, true_start), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(shared / ((end - start) + (true_end - true_start) - shared))


def _hull_iou(listed: Floats, true: Floats) -> Floats:
    """`_iou` over the convex hull of each pair, 0 where that is empty.

    Equal to `_iou` for windows that meet, but rounded differently; at IoU 0.5 or 0.7 sharp that
    decides between hit and miss, and the published recall is measured this way.
    """
    start, end = listed[:, :, None, 0], listed[:, :, None, 1]
    true_start, true_end = true[:, None, :, 0], true[:, None, :, 1]
    shared = np.maximum(np.minimum(end, true_end) - np.maximum(start, true_start), 0.0)
    hull = np.maximum(end, true_end) - np.minimum(start, true_start)
    return np.asarray(np.divide(shared, hull, out=np.zeros_like(shared), where=hull != 0))


def _average_precision(iou: Floats, score: Floats, real: Booleans) -> Floats:
    """(n, 10): area under the precision envelope at each threshold.

    `iou` (n, M, N), `score` (n, M) and `real` (n, M) are in listed order; entries that are not real
    stand last and have score -inf.
    """
    order = np.argsort(-score, axis=1, kind="stable")
    ranked = np.take_along_axis(iou, order[..., None], axis=1)
    hits = _match(ranked, IOU_THRESHOLDS) & real[..., None]  # (n, M, 10)
    found = np.cumsum(hits, axis=1).swapaxes(1, 2).astype(np.float64)  # (n, 10, M)
    precision = np.where(real[:, None], found / np.arange(1, real.shape[1] + 1), 0.0)
    edge = np.zeros((*found.shape[:2], 1))
    recall = np.concatenate([edge, found / iou.shape[2], edge + 1.0], axis=2)  # (n, 10, M + 2)
    precision = np.concatenate([precision, edge], axis=2)  # (n, 10, M + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    gain = np.diff(recall, axis=2)
    return reduce_kept(gain * envelope, recall[..., 1:] != recall[..., :-1], np.sum)


def _match(iou: Floats, thresholds: Sequence[float]) -> Booleans:
    """(n, M, T): whether each window, in the order given, takes a true window at each threshold.

    Each takes the true window of highest IoU that is still free; what is taken stays taken, so a
    duplicate misses.
    """
    # Between equal IoUs the published script takes what numpy's default sort puts last. That sort
    # is not stable and depends on the row's length, hence rows of one length and the same call.
    place = 1 + np.argsort(np.argsort(iou, axis=2), axis=2)[..., None]  # (n, M, N, 1), best last
    # "Not below" instead of "at least": NaN counts as reached, see `retrieve`.
    reached = ~(iou[..., None] < np.array(thresholds))  # (n, M, N, T)
    truth = np.arange(iou.shape[2])[:, None]  # (N, 1)
    free = np.ones_like(reached[:, 0])  # (n, N, T)
    hits = np.zeros_like(reached[:, :, 0])  # (n, M, T)
    for window in range(iou.shape[1]):
        candidates = reached[:, window] & free  # (n, N, T)
        hits[:, window] = candidates.any(1)
        best = (place[:, window] * candidates).argmax(1)  # (n, T)
        free &= ~(candidates & (truth == best[:, None]))
    return hits
