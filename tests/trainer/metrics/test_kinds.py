"""To which kind does a query belong whose length or place is at the border of two?"""

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from trainer.metrics.kinds import by_kind


def annotate(words=3, duration=90.0, windows=((0.0, 5.0),)):
    return Annotation("q", " ".join(["word"] * words), "v", duration, windows)


@pytest.mark.parametrize(
    ("kind", "counts", "annotations"),
    [
        (
            "length of the moment",
            {"short, up to 10 s": 2, "middle, up to 30 s": 2, "long, more": 1},
            [annotate(windows=((0.0, each),)) for each in (5.0, 10.0, 10.5, 30.0, 30.5)],
        ),
        (
            "moments asked for",
            {"one": 1, "two or three": 2, "more": 1},
            [annotate(windows=((0.0, 2.0),) * each) for each in (1, 2, 3, 4)],
        ),
        (
            "place of the first moment",
            {"first third": 2, "middle third": 2, "last third": 1},
            [annotate(windows=((each - 1, each + 1),)) for each in (29.0, 30.0, 31.0, 60.0, 61.0)],
        ),
        (
            "length of the sentence",
            {"up to 5 words": 2, "6 to 10 words": 2, "more": 1},
            [annotate(words=each) for each in (1, 5, 6, 10, 11)],
        ),
        (
            "length of the video",
            {"up to 30 s": 1, "up to 2 min": 2, "up to 10 min": 2, "more": 1},
            [annotate(duration=each) for each in (30.0, 31.0, 120.0, 121.0, 600.0, 601.0)],
        ),
    ],
)
def test_the_upper_border_belongs_to_the_lower_kind(kind, counts, annotations):
    scores = np.arange(float(len(annotations)))
    rows = by_kind(annotations, [scores])[kind]
    assert {row.label: row.queries for row in rows} == counts
    first = rows[0]
    assert first.values == (100 * scores[: first.queries].mean(),)


def test_queries_without_a_window_and_kinds_that_all_share_are_left_out():
    annotations = [annotate(words=1), annotate(words=11), annotate(words=1, windows=())]
    tables = by_kind(annotations, [np.array([1.0, 0.0, 1.0])])
    assert list(tables) == ["length of the sentence"]
    assert [row.queries for row in tables["length of the sentence"]] == [1, 1]
