"""Figures of what is not in a video: exact on cases made by hand, and against slow restatements."""

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from trainer.metrics import evaluate
from trainer.metrics.bootstrap import intervals
from trainer.metrics.existence import BINS, reliability
from trainer.metrics.rows import row_fault

FIGURES = ("AUROC", "existence-AP", "rejection-accuracy", "rejected-absent", "accepted-present")


def query(qid, present, windows=((2.0, 6.0),)):
    shown = windows if present else () if present is not None else None
    return Annotation(qid, "a dog", f"v{qid % 3}", 20.0, shown)


def row(qid, existence=None, found=None, windows=((2.0, 6.0, 0.9),)):
    made = {"qid": qid, "pred_relevant_windows": [list(window) for window in windows]}
    if existence is not None:
        made |= {"pred_existence": existence, "pred_found": found}
    return made


def measured(present, existence, least=0.5):
    annotations = [query(qid, each) for qid, each in enumerate(present)]
    rows = [row(qid, p, p >= least) for qid, p in enumerate(existence)]
    return evaluate(rows, annotations)


def test_figures_of_a_case_that_is_counted_by_hand():
    summary = measured([True, True, False, False], [0.9, 0.4, 0.6, 0.1]).summary
    assert summary["AUROC"] == 75.0  # of four comparisons one is lost
    assert summary["existence-AP"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=0.01)
    assert summary["rejection-accuracy"] == 50.0
    assert summary["rejected-absent"] == summary["accepted-present"] == 50.0
    # 0.9 of a present one, 0.4 of a present one, 0.6 and 0.1 of absent ones, each in its own bin.
    assert summary["existence-ECE"] == pytest.approx(100 * (0.1 + 0.6 + 0.6 + 0.1) / 4)


def test_equal_scores_count_half_and_are_ranked_together():
    summary = measured([True, False], [0.5, 0.5]).summary
    assert summary["AUROC"] == 50.0
    assert summary["existence-AP"] == 50.0


def slow(present, scores, least):
    """As the definitions say, pair by pair and threshold by threshold."""
    shown = [s for s, p in zip(scores, present, strict=True) if p]
    absent = [s for s, p in zip(scores, present, strict=True) if not p]
    wins = sum((a > b) + (a == b) / 2 for a in shown for b in absent)
    precision, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        said = [p for s, p in zip(scores, present, strict=True) if s >= threshold]
        recall = sum(said) / len(shown)
        precision += (recall - recall_before) * sum(said) / len(said)
        recall_before = recall
    right = [(s >= least) == p for s, p in zip(scores, present, strict=True)]
    error = 0.0
    for number in range(BINS):
        inside = [i for i, s in enumerate(scores) if min(int(s * BINS), BINS - 1) == number]
        if inside:
            gap = np.mean([scores[i] for i in inside]) - np.mean([present[i] for i in inside])
            error += len(inside) / len(scores) * abs(gap)
    return {
        "AUROC": wins / len(shown) / len(absent),
        "existence-AP": precision,
        "rejection-accuracy": np.mean(right),
        "existence-ECE": error,
    }


@pytest.mark.parametrize("seed", range(20))
def test_figures_are_those_of_a_slow_restatement(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 60))
    present = [True, False, *(random.random(count) < random.random())]
    steps = random.choice([3, 10, 1000])  # many equal scores, or hardly any
    scores = (np.round(random.random(len(present)) * steps) / steps).tolist()
    summary = measured(present, scores, 0.4).summary
    for name, value in slow(present, scores, 0.4).items():
        assert summary[name] == pytest.approx(100 * value, abs=0.006), name


def test_without_a_judgement_the_best_window_scores_a_query():
    annotations = [query(0, True), query(1, False), query(2, False)]
    windows = [((0, 1, 0.1), (2, 6, 0.8)), ((0, 1, 0.5),), ()]
    rows = [row(qid, windows=each) for qid, each in enumerate(windows)]
    summary = evaluate(rows, annotations).summary
    assert summary["AUROC"] == 100.0
    assert "rejection-accuracy" not in summary  # nobody says from where on
    assert "existence-ECE" not in summary  # scores of windows are no probabilities of it
    assert evaluate(rows, annotations, threshold=0.4).summary["rejected-absent"] == 50.0


def test_queries_of_which_nobody_says_it_do_not_count():
    annotations = [query(0, True), query(1, False), query(2, None)]
    rows = [row(0, 0.9, True), row(1, 0.1, False), row(2, 0.5, True)]
    evaluation = evaluate(rows, annotations)
    assert evaluation.summary["rejection-accuracy"] == 100.0
    for name in (*FIGURES, "existence-ECE", "score-ECE"):
        assert np.isnan(evaluation.per_query[name][2]), name


@pytest.mark.parametrize("present", [[True, True], [True, None]])
def test_where_nothing_is_absent_there_is_no_such_figure(present):
    assert not set(FIGURES) & measured(present, [0.9, 0.1]).summary.keys()


def test_a_score_s_error_compares_it_with_whether_the_first_window_is_right():
    annotations = [query(0, True), query(1, True), query(2, False)]
    first = ((2, 6, 0.85),), ((10, 12, 0.25),), ((0, 1, 0.05),)
    rows = [row(qid, 0.5, True, each) for qid, each in enumerate(first)]
    assert evaluate(rows, annotations).summary["score-ECE"] == pytest.approx(
        100 * (0.15 + 0.25 + 0.05) / 3, abs=0.01
    )


def test_every_figure_is_the_mean_of_its_queries_and_has_an_interval():
    random = np.random.default_rng(0)
    evaluation = measured((random.random(60) < 0.5).tolist(), random.random(60).tolist())
    spread = intervals(evaluation)
    for name in (*FIGURES, "existence-ECE"):
        mean = 100 * np.nanmean(evaluation.per_query[name])
        assert evaluation.summary[name] == pytest.approx(mean, abs=0.006)
        assert spread[name].low <= evaluation.summary[name] <= spread[name].high


@pytest.mark.parametrize(
    ("odd", "fault"),
    [
        ({"pred_existence": 1.5}, "'pred_existence' must be a probability"),
        ({"pred_existence": "high"}, "'pred_existence' must be a probability"),
        ({"pred_existence": float("nan")}, "'pred_existence' must be a probability"),
        ({"pred_found": 1}, "'pred_found' must be true or false"),
    ],
)
def test_a_judgement_that_is_none_is_refused(odd, fault):
    assert fault in (row_fault(row(1) | odd) or "")


def test_reliability_is_what_is_so_of_each_bin():
    points, counts = reliability(np.array([0.05, 0.07, 0.95, 1.0]), np.array([0, 1, 1, 1]) > 0)
    assert points == [pytest.approx((0.06, 0.5)), pytest.approx((0.975, 1.0))]
    assert counts == [2, 2]
