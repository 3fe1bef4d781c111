import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.annotations import Annotation
from trainer.config import PostprocessConfig
from trainer.inference.decode import prediction_row
from trainer.inference.postprocess import PRESETS, postprocess
from trainer.judging.submission import submission_faults


def iou(a, b):
    shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = a[1] - a[0] + b[1] - b[0] - shared
    return shared / union if union > 0 else 0.0


def slow_hard(windows, threshold):
    left = sorted(windows, key=lambda w: -w[2])
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [w for w in left if iou(best, w) < threshold]
    return kept


def slow_soft(windows, factor):
    left = sorted(windows, key=lambda w: -w[2])
    done = []
    while left:
        best = left.pop(max(range(len(left)), key=lambda i: left[i][2]))
        done.append(best)
        left = [(s, e, score * factor(iou(best, (s, e)))) for s, e, score in left]
    return sorted(done, key=lambda w: -w[2])


def plain(**changes):
    return PostprocessConfig(**({"suppression": "none", "unit": 0.0, "keep": 99} | changes))


window = st.tuples(st.integers(0, 80), st.integers(1, 20), st.integers(0, 10)).map(
    lambda w: (float(w[0]), float(w[0] + w[1]), w[2] / 10)
)
batches = st.integers(1, 7).flatmap(
    lambda m: st.lists(st.lists(window, min_size=m, max_size=m), min_size=1, max_size=4)
)


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from([0.3, 0.5, 0.7]))
def test_hard_suppression_keeps_the_best_of_each_cluster(batch, threshold):
    config = plain(suppression="hard", threshold=threshold, demote=False)
    shown = postprocess(np.array(batch), [100.0] * len(batch), config)
    for windows, result in zip(batch, shown, strict=True):
        assert result == pytest.approx(np.array(slow_hard(windows, threshold)))


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from([0.0, 0.5]))
def test_linear_soft_suppression_lowers_scores_by_the_overlap(batch, threshold):
    config = plain(suppression="linear", threshold=threshold)
    shown = postprocess(np.array(batch), [100.0] * len(batch), config)
    for windows, result in zip(batch, shown, strict=True):
        slow = slow_soft(windows, lambda o: 1 - o if o >= threshold else 1.0)
        assert result[:, 2] == pytest.approx([w[2] for w in slow])


@settings(max_examples=60, deadline=None)
@given(batches)
def test_gaussian_soft_suppression_lowers_scores_by_the_overlap(batch):
    config = plain(suppression="gaussian", sigma=0.4)
    shown = postprocess(np.array(batch), [100.0] * len(batch), config)
    for windows, result in zip(batch, shown, strict=True):
        slow = slow_soft(windows, lambda o: np.exp(-(o**2) / 0.4))
        assert result[:, 2] == pytest.approx([w[2] for w in slow])


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from(sorted(PRESETS)))
def test_padding_does_not_change_the_windows_shown(batch, preset):
    alone = postprocess(np.array(batch), [90.0] * len(batch), PRESETS[preset])
    padding = np.tile([[3.0, 50.0, 9.0]], (len(batch), 2, 1))
    padded = np.concatenate([padding, np.array(batch)], axis=1)
    mask = np.arange(padded.shape[1]) >= np.full((len(batch), 1), 2)
    for one, other in zip(
        alone, postprocess(padded, [90.0] * len(batch), PRESETS[preset], mask), strict=True
    ):
        assert np.array_equal(one, other)


@settings(max_examples=60, deadline=None)
@given(batches, st.sampled_from(sorted(PRESETS)), st.sampled_from([7.3, 61.0, 100.0]))
def test_windows_are_sorted_and_lie_within_the_video(batch, preset, duration):
    for result in postprocess(np.array(batch), [duration] * len(batch), PRESETS[preset]):
        assert 1 <= len(result) <= 10
        assert (np.diff(result[:, 2]) <= 0).all()
        assert (result[:, 0] >= 0).all()
        assert (result[:, 1] <= duration).all()


def test_demoted_windows_come_last_with_score_zero():
    windows = np.array([[[0, 10, 0.5], [0, 9.5, 0.9], [50, 60, 0.1]]])
    (demoted,) = postprocess(windows, [100.0], plain(suppression="hard"))
    assert demoted.tolist() == [[0, 9.5, 0.9], [50, 60, 0.1], [0, 10, 0.0]]
    (dropped,) = postprocess(windows, [100.0], plain(suppression="hard", demote=False))
    assert dropped.tolist() == [[0, 9.5, 0.9], [50, 60, 0.1]]


def test_a_window_that_a_suppressed_one_meets_is_kept():
    chain = np.array([[[0, 10, 0.9], [4, 14, 0.8], [8, 18, 0.7]]])
    (kept,) = postprocess(chain, [100.0], plain(suppression="hard", threshold=0.4, demote=False))
    assert kept[:, 0].tolist() == [0, 8]


def test_edges_are_rounded_but_the_end_of_the_video_stays():
    windows = np.array([[[-3.0, 4.9, 0.9], [20.1, 61.7, 0.8], [30.0, 99.0, 0.7]]])
    (result,) = postprocess(windows, [60.5], plain(unit=2.0))
    assert result[:, :2].tolist() == [[0, 4], [20, 60.5], [30, 60.5]]


def test_an_empty_window_at_the_end_of_a_short_video_gets_the_last_unit():
    (result,) = postprocess(np.array([[[0.5, 0.5, 0.9]]]), [0.5], plain(unit=0.1))
    assert result.tolist() == [[0.4, 0.5, 0.9]]


def test_a_window_that_rounding_would_empty_gets_the_unit_it_lies_in():
    windows = np.array([[[3.2, 3.8, 0.9], [60.5, 60.5, 0.8], [0.1, 0.2, 0.7]]])
    (result,) = postprocess(windows, [60.5], plain(unit=2.0))
    assert result[:, :2].tolist() == [[2, 4], [60, 60.5], [0, 2]]


def test_tenths_of_a_second_are_written_as_such():
    (result,) = postprocess(np.array([[[0.26, 1.14, 0.9]]]), [10.0], plain(unit=0.1))
    assert result[0, :2].tolist() == [0.3, 1.1]


def test_equal_scores_keep_their_order():
    windows = np.array([[[30, 40, 0.5], [0, 10, 0.5], [60, 70, 0.5]]])
    for suppression in ("none", "hard", "linear", "gaussian"):
        (result,) = postprocess(windows, [100.0], plain(suppression=suppression))
        assert result[:, 0].tolist() == [30, 0, 60]


def test_the_input_is_left_as_it_was():
    windows = np.array([[[0.3, 10.2, 0.5], [0, 10, 0.6]]])
    before = windows.copy()
    postprocess(windows, [9.0], PRESETS["qvhighlights"])
    assert np.array_equal(windows, before)


@pytest.mark.parametrize(
    "change",
    [{"suppression": "nms"}, {"threshold": 7}, {"sigma": 0}, {"unit": -1}, {"keep": 0}],
)
def test_a_setting_out_of_range_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        PostprocessConfig(**change)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(B, M, 3\)"):
        postprocess(np.zeros((2, 4, 2)), [1.0, 1.0], plain())
    with pytest.raises(ValueError, match=r"1$"):
        postprocess(np.zeros((2, 4, 3)), [1.0], plain())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("duration", [0.04, 29.9666, 30.0, 480.01164])
def test_no_shown_window_is_empty_even_when_written_in_milliseconds(preset, duration):
    edges = [[0, 0], [duration, duration], [duration + 1, duration + 2], [1e-5, 2e-5], [7.3, 7.3]]
    windows = np.array([[[start, end, 0.5] for start, end in edges]])
    annotation = Annotation("q", "query", "v", duration)
    (shown,) = postprocess(windows, [duration], PRESETS[preset])
    row = prediction_row(annotation, shown, [0.0])
    assert not list(submission_faults([(1, row)], [annotation], highlights=False))
