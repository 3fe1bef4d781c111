import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.metrics.moments import IOU_THRESHOLDS, in_range, retrieve
from trainer.metrics.ragged import Ragged, reduce_kept, similar_lengths

Window = tuple[float, float]


def slow_iou(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    together = (a[1] - a[0]) + (b[1] - b[0]) - shared
    return shared / together if together else 0.0


def slow_average_precision(listed, truth, threshold):
    """Walk down the ranking; each window takes the best true window that is still free."""
    ranked = sorted(listed[:10], key=lambda window: -window[2])
    free = set(range(len(truth)))
    hits = []
    for window in ranked:
        ious = np.array([slow_iou(window, true) for true in truth])
        # Between equal IoUs the order of numpy's default sort is part of the definition.
        taken = next(
            (i for i in np.argsort(ious)[::-1].tolist() if i in free and ious[i] >= threshold), None
        )
        free.discard(taken)
        hits.append(taken is not None)
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) for k, hit in enumerate(hits) if hit) / len(truth)


def score(predicted, truth, official=False):
    return retrieve(Ragged.of(predicted, 3), Ragged.of(truth, 2), official)


def windows(count):
    edges = st.tuples(st.integers(0, 30), st.integers(1, 20))
    return st.lists(edges.map(lambda e: (float(e[0]), float(e[0] + e[1]))), **count)


queries = st.lists(
    st.tuples(
        st.lists(
            st.tuples(windows({"min_size": 1, "max_size": 1}), st.integers(0, 4)), max_size=14
        ).map(lambda rows: [(*w[0], s / 4) for w, s in rows]),
        windows({"min_size": 1, "max_size": 6}),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(queries)
def test_average_precision_is_that_of_walking_down_each_ranking(rows):
    predicted, truth = zip(*rows, strict=True)
    measured = score(predicted, truth).average_precision
    for query, (listed, true) in enumerate(rows):
        slow = [slow_average_precision(listed, true, t) if listed else 0.0 for t in IOU_THRESHOLDS]
        assert measured[query] == pytest.approx(slow, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(queries)
def test_first_and_fifth_iou_are_the_best_over_listed_windows(rows):
    predicted, truth = zip(*rows, strict=True)
    measured = score(predicted, truth)
    for query, (listed, true) in enumerate(rows):
        ious = [max(slow_iou(window, t) for t in true) for window in listed[:5]] or [0.0]
        assert measured.first_iou[query] == pytest.approx(ious[0], abs=1e-12)
        assert measured.five_iou[query] == pytest.approx(max(ious), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(queries, st.randoms(use_true_random=False))
def test_a_query_scores_the_same_in_any_company(rows, random):
    together = score(*zip(*rows, strict=True)).average_precision
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = score(*zip(*(rows[i] for i in order), strict=True)).average_precision
    assert np.array_equal(together[order], shuffled)


def test_worked_example_of_average_precision():
    # hit, miss (a duplicate), hit of two true windows: (1 + 2/3) / 2
    listed = [[(0, 10, 0.9), (0, 10, 0.8), (20, 30, 0.7)]]
    precision = score(listed, [[(0, 10), (20, 30)]]).average_precision
    assert precision[0] == pytest.approx([5 / 6] * 10)


def test_only_ten_listed_windows_count_and_they_are_cut_before_sorting():
    misses = [(50, 60, 0.1)] * 10
    late = score([[*misses, (0, 10, 0.9)]], [[(0, 10)]])
    tenth = score([[*misses[:9], (0, 10, 0.9)]], [[(0, 10)]])
    assert late.average_precision[0, 0] == 0.0
    assert tenth.average_precision[0, 0] == 1.0


def test_equal_scores_keep_their_listed_order():
    hit_first = score([[(0, 10, 0.5), (50, 60, 0.5)]], [[(0, 10)]])
    hit_last = score([[(50, 60, 0.5), (0, 10, 0.5)]], [[(0, 10)]])
    assert hit_first.average_precision[0, 0] == 1.0
    assert hit_last.average_precision[0, 0] == 0.5


def test_recall_judges_the_first_listed_window_whatever_its_score():
    measured = score([[(50, 60, 0.1), (0, 10, 0.9)]], [[(0, 10)]])
    assert measured.first_iou[0] == 0.0
    assert measured.five_iou[0] == 1.0
    assert measured.average_precision[0, 0] == 1.0


def test_an_iou_that_equals_the_threshold_is_a_hit():
    measured = score([[(0, 10, 1.0)]], [[(0, 20)]])
    assert measured.first_iou[0] == 0.5
    assert measured.average_precision[0].tolist() == [1.0] + [0.0] * 9


@pytest.mark.parametrize("window", [(5.0, 5.0, 1.0), (10.0, 0.0, 1.0)])
def test_an_empty_or_inverted_window_is_a_miss(window):
    measured = score([[window]], [[(0, 10)]])
    assert measured.first_iou[0] == 0.0
    assert not measured.average_precision.any()


def test_the_official_script_takes_zero_over_zero_for_a_hit():
    # Lengths -10 and 10 cancel in the union, and NaN is not below any threshold.
    predicted, truth = [[(20.0, 10.0, 1.0)]], [[(10.0, 20.0)]]
    assert score(predicted, truth, official=True).average_precision.all()
    measured = score(predicted, truth)
    assert not measured.average_precision.any()
    assert measured.undefined.tolist() == [True]


def test_a_query_without_windows_counts_as_zero_and_drops_out_only_officially():
    predicted, truth = [[(0, 10, 1.0)], []], [[(0, 10)], [(0, 10)]]
    assert score(predicted, truth).average_precision[:, 0].tolist() == [1.0, 0.0]
    official = score(predicted, truth, official=True)
    assert official.average_precision[0, 0] == 1.0
    assert math.isnan(official.average_precision[1, 0])
    assert official.first_iou.tolist() == [1.0, 0.0]


def test_a_query_without_true_windows_does_not_count():
    measured = score([[(0, 10, 1.0)]], [[]])
    assert np.isnan(measured.average_precision).all()
    assert np.isnan(measured.first_iou).all()


def test_length_ranges_exclude_their_lower_and_include_their_upper_end():
    truth = Ragged.of([[(0, 10), (0, 30)], [(0, 10.5)], [(5, 5)]], 2)
    short, middle = in_range(truth, 0, 10), in_range(truth, 10, 30)
    assert short.counts.tolist() == [1, 0, 0]
    assert middle.counts.tolist() == [1, 1, 0]
    assert middle.values.tolist() == [[0, 30], [0, 10.5]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([np.sum, np.mean]))
def test_packed_reduction_rounds_as_numpy_does_for_one_row(seed, reduce):
    generator = np.random.default_rng(seed)
    values = generator.random((7, 3, 90))
    kept = generator.random((7, 3, 90)) < generator.random((7, 3, 1))
    expected = [
        [reduce(v[k]) if k.any() else 0.0 for v, k in zip(vs, ks, strict=True)]
        for vs, ks in zip(values, kept, strict=True)
    ]
    assert np.array_equal(reduce_kept(values, kept, reduce), np.array(expected))


def test_one_long_list_does_not_pad_the_others():
    lengths = np.array([75] * 50 + [100_000] + [60] * 50)
    blocks = list(similar_lengths(lengths))
    assert sorted(np.concatenate([rows for rows, _ in blocks]).tolist()) == list(range(101))
    assert all((lengths[rows] <= width).all() for rows, width in blocks)
    assert sum(len(rows) * width for rows, width in blocks) < 2 * lengths.sum()
