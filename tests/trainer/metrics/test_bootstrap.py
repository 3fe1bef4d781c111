import numpy as np
import pytest

from data_pipeline.errors import InputError
from trainer.metrics import Evaluation
from trainer.metrics.bootstrap import RESAMPLES, differences, intervals


def evaluation(values, vids=None, domains=None):
    count = len(next(iter(values.values())))
    return Evaluation(
        dataset="qvhighlights",
        summary={},
        per_query={name: np.asarray(v, dtype=float) for name, v in values.items()},
        qids=tuple(range(count)),
        vids=tuple(vids) if vids is not None else tuple(map(str, range(count))),
        domains=domains,
    )


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).random(500)
    low, high = intervals(evaluation({"R1@0.5": values}))["R1@0.5"]
    error = 100 * values.std() / np.sqrt(500)
    assert low == pytest.approx(100 * values.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(100 * values.mean() + 1.96 * error, abs=0.3 * error)


def test_the_interval_holds_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(150):
        low, high = intervals(evaluation({"x": generator.random(60) < 0.4}))["x"]
        held += low <= 40 <= high
    assert 0.88 <= held / 150 <= 0.99


def test_intervals_are_the_same_every_time():
    of = evaluation({"x": np.random.default_rng(3).random(50)})
    assert intervals(of) == intervals(of)
    assert intervals(of, seed=1) != intervals(of)


def test_queries_of_one_video_are_drawn_together():
    values = np.repeat(np.random.default_rng(4).random(20), 25)
    apart = intervals(evaluation({"x": values}))["x"]
    together = intervals(evaluation({"x": values}, vids=np.repeat(np.arange(20), 25)))["x"]
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_queries_that_do_not_count_are_left_out():
    values = np.random.default_rng(5).random(200)
    with_gaps = np.where(np.arange(200) % 2, np.nan, values)
    low, high = intervals(evaluation({"x": with_gaps}))["x"]
    assert low < 100 * np.nanmean(with_gaps) < high


def test_domains_weigh_the_same_whatever_their_size():
    values = np.array([1.0] * 90 + [0.0] * 10)
    low, high = intervals(evaluation({"x": values}, domains=("a",) * 90 + ("b",) * 10))["x"]
    assert (low, high) == (50.0, 50.0)


def test_a_paired_difference_is_narrower_than_the_two_intervals():
    generator = np.random.default_rng(6)
    base = generator.random(300)
    first, second = evaluation({"x": base + 0.02}), evaluation({"x": base, "y": base})
    (gap,) = differences(first, second).values()
    assert gap.value == 2.0
    assert gap.interval == (2.0, 2.0)
    assert gap.clear


def test_a_difference_by_chance_is_not_clear():
    generator = np.random.default_rng(7)
    gap = differences(*(evaluation({"x": generator.random(300)}) for _ in range(2)))["x"]
    assert gap.interval.low < 0 < gap.interval.high
    assert not gap.clear


def test_different_queries_are_not_compared():
    with pytest.raises(InputError, match="same queries"):
        differences(evaluation({"x": [0.0]}), evaluation({"x": [0.0, 1.0]}))


def test_many_videos_are_drawn_in_pieces():
    of = evaluation({"x": np.random.default_rng(8).random(5000)})
    low, high = intervals(of)["x"]
    assert 0 < high - low < 4
    assert RESAMPLES * 5000 > 1 << 21
