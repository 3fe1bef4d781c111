"""Highlight detection on QVHighlights: how well clip scores rank the clips that annotators like.

The definitions are those of Lei et al. (Moment-DETR, arXiv 2107.09609, section 4.3) and its
published evaluation: average precision per query and annotator, and the hit of the best clip.
"""

from dataclasses import dataclass

import numpy as np

from trainer.metrics.ragged import Booleans, Floats, Integers, Ragged, reduce_kept, similar_lengths

RATINGS = {"Fair": 2.0, "Good": 3.0, "VeryGood": 4.0}
"""The lowest rating 0..4 that makes a clip positive; papers quote VeryGood."""


@dataclass(frozen=True)
class Highlights:
    """What each of Q queries scored at one rating.

    `average_precision` (Q, A) for each of A annotators; `hit` (Q,) 1 where the clip of highest
    score is positive for any annotator, else 0.
    """

    average_precision: Floats
    hit: Floats


def detect(scores: Ragged, ratings: Ragged) -> dict[str, Highlights]:
    """Score the clip `scores` () of each query against the annotators' `ratings` (A,) per clip.

    A list of scores longer than the video is cut, except that a best clip beyond its end is a miss;
    a shorter one is filled with zeros. An annotator who likes no clip gives 0 and counts.
    """
    queries, annotators = len(ratings.counts), ratings.values.shape[1]
    precision = {name: np.zeros((queries, annotators)) for name in RATINGS}
    hit = {name: np.zeros(queries) for name in RATINGS}
    for rows, width in similar_lengths(np.maximum(scores.counts, ratings.counts)):
        clip = np.arange(width)
        given = clip < scores.counts[rows][:, None]  # (n, L)
        real = clip < ratings.counts[rows][:, None]  # (n, L)
        score = scores.padded(rows, width, 0.0)  # (n, L)
        rated = ratings.padded(rows, width, -1.0)  # (n, L, A)
        best = np.where(given, score, -np.inf).argmax(1)  # (n,)
        best_rated = rated[np.arange(len(rows)), best].max(1)  # (n,)
        # Clips that are not real come last and are never positive: they change nothing.
        ranked = _Ranking.of(np.where(real, score, -np.inf))
        rated = np.take_along_axis(rated, ranked.order[..., None], axis=1).swapaxes(1, 2)
        for name, lowest in RATINGS.items():
            precision[name][rows] = _average_precision(rated >= lowest, ranked.ends[:, None])
            hit[name][rows] = best_rated >= lowest
    return {name: Highlights(precision[name], hit[name]) for name in RATINGS}


@dataclass(frozen=True)
class _Ranking:
    """`order` (n, L) of clips by falling score; `ends` (n, L) where a run of equal scores ends."""

    order: Integers
    ends: Booleans

    @classmethod
    def of(cls, score: Floats) -> "_Ranking":
        order = np.argsort(-score, axis=1, kind="stable")
        score = np.take_along_axis(score, order, axis=1)
        ends = np.ones(score.shape, dtype=bool)
        ends[:, :-1] = score[:, 1:] != score[:, :-1]
        return cls(order, ends)


def _average_precision(positive: Booleans, ends: Booleans) -> Floats:
    """(n, A): mean over the recall steps of the precision envelope.

    `positive` (n, A, L) are the labels by falling score. Equal scores enter together, so only the
    last clip of a run, `ends` (n, 1, L), is a point of the precision-recall curve.
    """
    found = np.cumsum(positive, axis=2, dtype=np.int32)  # (n, A, L)
    precision = np.where(ends, found / np.arange(1, found.shape[2] + 1), 0.0)
    at_end = np.where(ends, found, 0)
    before = np.zeros_like(at_end)
    before[..., 1:] = np.maximum.accumulate(at_end, axis=2)[..., :-1]
    steps = ends & (found > before)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)
    # From the lowest score up, as the published script adds them.
    return reduce_kept(envelope, steps[..., ::-1], np.mean)
