"""How much would the numbers change with another sample of videos? 95% bootstrap intervals.

Videos are drawn with replacement, each with all its queries: the queries of one video succeed and
fail together, and drawing them one by one would give intervals that are too narrow (TACoS has 130
queries a video). Intervals are percentiles of the resampled means (Efron 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import InputError
from trainer.metrics.evaluation import Evaluation
from trainer.metrics.ragged import Floats

RESAMPLES = 2000
LEVEL = 0.95

FEW = 30
"""Videos below which percentile intervals are known to be too narrow."""

_BLOCK = 1 << 21
"""Draws made at once: bounds the memory, whatever the number of videos."""


class Interval(NamedTuple):
    """Ends of a confidence interval, in percent, rounded to two decimals."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First minus second, in percentage points, with its interval."""

    value: float
    interval: Interval

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval.low > 0 or self.interval.high < 0


def few_videos(evaluation: Evaluation) -> str:
    """That there are too few videos to trust the intervals; empty where there are enough."""
    videos = len(set(evaluation.vids))
    return f"only {videos} videos: intervals are too narrow below {FEW}" if videos < FEW else ""


def intervals(evaluation: Evaluation, seed: int = 0) -> dict[str, Interval]:
    """The interval of every figure of the summary."""
    names = list(evaluation.per_query)
    draws = _resampled_means([evaluation.per_query[name] for name in names], evaluation, seed)
    return {name: interval(column) for name, column in zip(names, draws.T, strict=True)}


def differences(first: Evaluation, second: Evaluation, seed: int = 0) -> dict[str, Difference]:
    """For each figure that both have, first minus second on the same resampled videos.

    Raises InputError when the two do not measure the same queries.
    """
    if first.qids != second.qids or first.dataset != second.dataset:
        raise InputError("the two sets of predictions do not answer the same queries")
    names = [name for name in first.per_query if name in second.per_query]
    columns = [e.per_query[name] for e in (first, second) for name in names]
    draws = _resampled_means(columns, first, seed)
    exact = _means(*_totals(columns, first), np.ones((1, len(set(first.vids)))))[0]
    gaps = draws[:, : len(names)] - draws[:, len(names) :]
    values = exact[: len(names)] - exact[len(names) :]
    return {
        name: Difference(round(float(100 * value), 2), interval(gap))
        for name, value, gap in zip(names, values, gaps.T, strict=True)
    }


def resample(evaluations: Sequence[Evaluation], names: Sequence[str], seed: int = 0) -> Floats:
    """(RESAMPLES, E, N): the figures `names` of E evaluations, all on the same resampled videos.

    Any number of runs costs one pass, and whatever is computed from a row of the result (a mean
    over runs, a difference) is paired. The evaluations must be of the same queries, in one order.
    """
    columns = [each.per_query[name] for each in evaluations for name in names]
    draws = _resampled_means(columns, evaluations[0], seed)
    return draws.reshape(RESAMPLES, len(evaluations), len(names))


def interval(draws: Floats) -> Interval:
    """The central LEVEL of resampled figures (RESAMPLES,), which are fractions."""
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(round(float(100 * low), 2), round(float(100 * high), 2))


def _resampled_means(columns: Sequence[Floats], of: Evaluation, seed: int) -> Floats:
    """(RESAMPLES, columns): the mean of each column (Q,) on each resample of the videos."""
    totals, numbers = _totals(columns, of)
    videos = len(totals)
    generator = np.random.default_rng(seed)
    step = max(1, min(RESAMPLES, _BLOCK // videos))
    parts = []
    for start in range(0, RESAMPLES, step):
        resamples = min(step, RESAMPLES - start)
        drawn = generator.integers(videos, size=(resamples, videos))
        drawn += np.arange(resamples)[:, None] * videos
        weights = np.bincount(drawn.ravel(), minlength=resamples * videos)
        parts.append(_means(totals, numbers, weights.reshape(resamples, videos).astype(np.float64)))
    return np.concatenate(parts)


def _totals(columns: Sequence[Floats], of: Evaluation) -> tuple[Floats, Floats]:
    """(videos, domains, columns): sums of the queries that count, and how many they are."""
    values = np.stack(columns, axis=1)  # (Q, columns)
    _, video = np.unique(np.array(of.vids), return_inverse=True)
    labels = np.array(of.domains if of.domains is not None else [""] * len(video))
    names, domain = np.unique(labels, return_inverse=True)
    shape = (int(video.max()) + 1, len(names), len(columns))
    totals, numbers = np.zeros(shape), np.zeros(shape)
    np.add.at(totals, (video, domain), np.nan_to_num(values))
    np.add.at(numbers, (video, domain), ~np.isnan(values))
    return totals, numbers


def _means(totals: Floats, numbers: Floats, weights: Floats) -> Floats:
    """(R, columns): means over queries, then over domains, under `weights` (R, videos)."""
    videos, domains, columns = totals.shape
    shape = (len(weights), domains, columns)
    total = (weights @ totals.reshape(videos, -1)).reshape(shape)
    number = (weights @ numbers.reshape(videos, -1)).reshape(shape)
    # A domain, or a length range, of which a resample holds nothing is left out of it.
    mean = np.divide(total, number, out=np.zeros(shape), where=number > 0)
    present = (number > 0).sum(1)
    with np.errstate(invalid="ignore"):  # 0 / 0, NaN, where nothing is left
        return np.asarray(mean.sum(1) / present)
