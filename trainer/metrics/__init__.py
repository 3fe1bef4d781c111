"""The field's numbers for moment retrieval and highlight detection, from rows to intervals."""

from collections.abc import Mapping

from trainer.metrics.evaluation import (
    DATASETS,
    Dataset,
    Evaluation,
    evaluate,
    read_ground_truth,
)
from trainer.metrics.rows import read_predictions

__all__ = [
    "DATASETS",
    "HEADLINES",
    "ZERO_SHOT",
    "Dataset",
    "Evaluation",
    "evaluate",
    "not_beaten",
    "read_ground_truth",
    "read_predictions",
]

HEADLINES = {
    "R1@0.5": "the first window overlaps a true one by at least 50 %",
    "R1@0.7": "the first window overlaps a true one by at least 70 %",
    "mAP": "ranking of all windows, IoU 0.50 to 0.95",
    "mIoU": "overlap of the first window with the truth",
    "HD-mAP": "ranking of clips by saliency",
    "HIT@1": "the most salient clip is a very good one",
    "AUROC": "what a video shows ranks above what it does not",
}

ZERO_SHOT = "zero-shot"
"""What encoders that share a space find without a model: the name of that baseline, and in place of
a model's."""


def not_beaten(figures: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """The headline figures in which a baseline is at least as good."""
    both = [name for name in HEADLINES if name in figures and name in baseline]
    return [name for name in both if figures[name] <= baseline[name]]
