"""Saliency is given on the grid that a video's own annotation is rated on."""

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.stream.batches import target_saliency
from trainer.inference.decode import highlight_scores
from trainer.metrics import evaluate

SCORES = np.arange(20, dtype=np.float64)


def test_clips_of_another_length_are_looked_up_at_their_middles():
    row = Annotation(1, "q", "v", 20.0, saliency={3: (4.0,)}, clip_length=4.0)
    assert highlight_scores(SCORES, 1.0, row) == [2.0, 6.0, 10.0, 14.0, 18.0]
    assert target_saliency(row, 20, 1.0).tolist() == [0.0] * 12 + [1.0] * 4 + [0.0] * 4


def test_a_video_of_a_domain_has_a_score_for_each_of_its_labels():
    labels = dict.fromkeys(range(9), (0.0, 4.0))
    row = Annotation(1, "q", "v", 20.0, saliency=labels, clip_length=20 / 9, domain="BK")
    assert len(highlight_scores(SCORES, 1.0, row)) == 9


@pytest.mark.parametrize("parts", [3, 7, 9, 11, 13, 49])
def test_clips_that_fit_a_duration_exactly_are_all_judged(parts):
    row = Annotation(1, "q", "v", 10.0, saliency={parts - 1: (4.0,)}, clip_length=10.0 / parts)
    scores = highlight_scores(SCORES, 0.5, row)
    assert len(scores) == parts
    best = [float(place) for place in range(parts)]
    figures = evaluate([{"qid": 1, "pred_saliency_scores": best}], [row]).summary
    assert figures["HIT@1"] == 100.0
