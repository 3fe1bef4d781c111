"""What would no model at all score? Predictions that every result is printed beside."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.annotations import Annotation
from trainer.inference.decode import Floats, highlight_scores, prediction_row

Rows = list[dict[str, object]]


def whole_video(annotations: Sequence[Annotation]) -> Rows:
    """The whole video as the one window, every clip equally salient."""
    return [
        prediction_row(a, np.array([[0.0, a.duration, 1.0]]), _grid(a, np.zeros(1)))
        for a in annotations
    ]


def random_windows(annotations: Sequence[Annotation], seed: int, count: int = 10) -> Rows:
    """`count` windows between two uniform instants each, with uniform scores and saliency."""
    random = np.random.default_rng(seed)
    rows = []
    for a in annotations:
        edges = np.sort(random.uniform(0, a.duration, (count, 2)), axis=1)
        scores = -np.sort(-random.random((count, 1)), axis=0)
        saliency = random.random(max(1, int(a.duration)))
        rows.append(prediction_row(a, np.hstack((edges, scores)), _grid(a, saliency)))
    return rows


def _grid(annotation: Annotation, saliency: Floats) -> list[float]:
    return highlight_scores(saliency, annotation.duration / len(saliency), annotation.duration)
