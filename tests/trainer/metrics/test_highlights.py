import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.metrics.highlights import RATINGS, detect
from trainer.metrics.ragged import Ragged


def slow_average_precision(labels, scores):
    """Mean, over the levels of recall reached by some threshold, of the best precision there or
    at any higher recall."""
    if not any(labels):
        return 0.0
    points = []
    for threshold in sorted(set(scores), reverse=True):
        chosen = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        points.append((sum(chosen), sum(chosen) / len(chosen)))
    levels = sorted({found for found, _ in points if found})
    best = [max(p for found, p in points if found >= level) for level in levels]
    return sum(best) / len(best)


def measure(scores, ratings):
    """`ratings`: for each query, for each clip, the three annotators' scores."""
    return detect(Ragged.of(scores), Ragged.of(ratings, 3))


rating = st.tuples(*[st.integers(0, 4)] * 3)
queries = st.lists(
    st.tuples(
        st.lists(st.integers(-2, 3).map(float), min_size=1, max_size=14),
        st.lists(rating, min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(queries)
def test_highlights_are_measured_as_the_definition_says(rows):
    scores, ratings = zip(*rows, strict=True)
    measured = measure(scores, ratings)
    for name, lowest in RATINGS.items():
        for query, (given_scores, rated) in enumerate(rows):
            clips = len(rated)
            best = int(np.argmax(given_scores))
            hit = best < clips and max(rated[best]) >= lowest
            assert measured[name].hit[query] == hit
            fitted = (given_scores + [0.0] * clips)[:clips]
            for annotator in range(3):
                labels = [clip[annotator] >= lowest for clip in rated]
                slow = slow_average_precision(labels, fitted)
                actual = measured[name].average_precision[query, annotator]
                assert actual == pytest.approx(slow, abs=1e-12)


def test_worked_example_of_highlights():
    # By score: relevant, not, relevant: precision 1 at recall 1/2, 2/3 at recall 1.
    ratings = [[(4, 4, 0), (0, 4, 0), (4, 4, 0)]]
    measured = measure([[0.9, 0.8, 0.7]], ratings)["VeryGood"]
    assert measured.average_precision[0] == pytest.approx([5 / 6, 1.0, 0.0])
    assert measured.hit[0] == 1.0


def test_constant_scores_give_the_prevalence_and_the_first_clip():
    ratings = [[(0, 0, 4), (4, 0, 4), (0, 0, 4), (0, 0, 4)]]
    measured = measure([[1.0] * 4], ratings)["VeryGood"]
    assert measured.average_precision[0] == pytest.approx([0.25, 0.0, 1.0])
    assert measured.hit[0] == 1.0


def test_missing_scores_count_as_zero_which_outranks_negative_ones():
    ratings = [[(4, 4, 4), (0, 0, 0)]]
    short = measure([[-1.0]], ratings)["VeryGood"]
    full = measure([[-1.0, -2.0]], ratings)["VeryGood"]
    assert short.average_precision[0] == pytest.approx([0.5] * 3)
    assert full.average_precision[0] == pytest.approx([1.0] * 3)


def test_scores_beyond_the_video_are_cut_but_a_best_clip_there_is_a_miss():
    measured = measure([[1.0, 0.0, 5.0]], [[(4, 4, 4), (0, 0, 0)]])["VeryGood"]
    assert measured.average_precision[0] == pytest.approx([1.0] * 3)
    assert measured.hit[0] == 0.0


def test_a_very_long_video_does_not_change_the_others():
    generator = np.random.default_rng(0)
    scores = [generator.random(n).tolist() for n in (5, 4000, 75)]
    ratings = [generator.integers(0, 5, (n, 3)).tolist() for n in (5, 4000, 75)]
    together = measure(scores, ratings)["Good"].average_precision
    for query in range(3):
        alone = measure([scores[query]], [ratings[query]])["Good"].average_precision
        assert np.array_equal(together[query], alone[0])
