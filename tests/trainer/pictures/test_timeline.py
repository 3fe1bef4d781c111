"""Times, ticks and clips of a timeline are what a reader would work out by hand."""

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from trainer.pictures.timeline import (
    Timeline,
    annotated_saliency,
    clip_length_of,
    clock,
    clock_ticks,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (3.52, "3.5 s"), (75, "1:15"), (3600, "1:00:00"), (3675.4, "1:01:15")],
)
def test_clock_reads_as_people_write_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("duration", "marks"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (44.0, [0, 10, 20, 30, 40]),
        (3600.0, [0, 600, 1200, 1800, 2400, 3000, 3600]),
        (0.0, [0]),
    ],
)
def test_ticks_are_round_times_within_the_video(duration: float, marks: list[float]) -> None:
    assert clock_ticks(duration) == pytest.approx(marks)


def test_iou_is_with_the_true_window_that_the_first_window_fits_best() -> None:
    line = Timeline("q", 60.0, ((10, 20, 0.9), (40, 50, 0.8)), truth=((40.0, 50.0), (10.0, 15.0)))
    assert line.iou() == pytest.approx(0.5)
    assert Timeline("q", 60.0, (), truth=((1.0, 2.0),)).iou() == 0


def test_annotated_saliency_is_the_mean_of_the_annotators() -> None:
    row = Annotation(1, "q", "v", 7.0, None, {1: (4, 3, 2), 9: (4, 4, 4)})
    scores = annotated_saliency(row)
    assert scores is not None
    assert scores.tolist() == [0, 3, 0, 0]


@pytest.mark.parametrize(
    ("scores", "duration", "length"), [(3, 7.0, 2.0), (4, 7.0, 2.0), (10, 25.0, 2.5)]
)
def test_clip_length_follows_from_the_number_of_scores(
    scores: int, duration: float, length: float
) -> None:
    assert clip_length_of(scores, duration) == length


def test_an_outline_keeps_each_clips_score_until_the_next_and_ends_with_the_video() -> None:
    points = Timeline("q", 5.0, ()).outline(np.array([1, 3, 2], np.float32), 2.0)
    assert [(p["x"], p["y"]) for p in points] == [(0, 1), (2, 3), (4, 2), (5, 2)]
