"""A moment is found once, whole, wherever the borders of the stretches fall."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.inference.long_video import Stretch, merge_saliency, merge_windows, stretch_starts

LENGTH = 20  # seconds and clips of a stretch


def seen(moments: list[tuple[float, float, float]], duration: int) -> list[Stretch]:
    """What a faultless model finds in each stretch: every moment, cut to the stretch."""
    stretches = []
    for start in stretch_starts(duration, LENGTH):
        end = min(start + LENGTH, duration)
        cut = [(max(s, start), min(e, end), p) for s, e, p in moments]
        windows = np.array([w for w in cut if w[1] > w[0]], float).reshape(-1, 3)
        stretches.append(Stretch(start, end, windows, np.arange(start, end, dtype=float)))
    return stretches


@given(st.integers(1, 500), st.integers(1, 80))
def test_stretches_cover_every_clip_and_end_with_the_video(clips: int, at_most: int) -> None:
    starts = stretch_starts(clips, at_most)
    size = min(clips, at_most)
    covered = {clip for start in starts for clip in range(start, start + size)}
    assert covered == set(range(clips))
    assert starts == sorted(set(starts))


def test_video_of_the_training_length_is_one_stretch() -> None:
    assert stretch_starts(LENGTH, LENGTH) == [0]
    assert stretch_starts(LENGTH + 1, LENGTH) == [0, 1]


@given(st.floats(0, 99), st.floats(0.5, 60))
def test_one_moment_anywhere_and_of_any_length_is_found_once(start: float, length: float) -> None:
    end = min(start + length, 100.0)
    found = merge_windows(seen([(start, end, 0.9)], 100))
    assert found == pytest.approx(np.array([[start, end, 0.9]]))


def test_two_moments_across_two_borders_stay_two() -> None:
    moments = [(17.0, 24.0, 0.9), (48.0, 53.0, 0.7)]
    assert merge_windows(seen(moments, 100)) == pytest.approx(np.array(moments))


def test_neighbour_that_saw_the_whole_moment_gives_its_edges() -> None:
    left = Stretch(0, 20, np.array([[14.0, 20.0, 0.6]]), np.zeros(20))
    right = Stretch(10, 30, np.array([[13.0, 26.0, 0.8]]), np.zeros(20))
    assert merge_windows([left, right]).tolist() == [[13, 26, 0.8]]


def test_doubtful_window_does_not_stretch_a_sure_one() -> None:
    left = Stretch(0, 20, np.array([[14.0, 19.0, 0.9]]), np.zeros(20))
    right = Stretch(10, 30, np.array([[13.0, 28.0, 0.05], [14.0, 19.5, 0.8]]), np.zeros(20))
    found = merge_windows([left, right])
    assert found[0].tolist() == [14, 19, 0.9]


def test_windows_come_best_first() -> None:
    found = merge_windows(seen([(3, 5, 0.2), (40, 44, 0.9), (70, 75, 0.5)], 100))
    assert found[:, 2].tolist() == [0.9, 0.5, 0.2]


def test_saliency_of_overlapping_stretches_agrees_with_each() -> None:
    starts = stretch_starts(55, LENGTH)
    merged = merge_saliency(seen([], 55), starts, 55)
    assert merged == pytest.approx(np.arange(55))


def test_stretch_without_windows_is_no_fault() -> None:
    empty = np.zeros((0, 3))
    stretches = [Stretch(10 * i, 10 * i + 20, empty, np.zeros(20)) for i in range(3)]
    assert merge_windows(stretches).shape == (0, 3)
