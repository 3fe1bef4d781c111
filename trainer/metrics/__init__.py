"""The field's numbers for moment retrieval and highlight detection, from rows to intervals."""

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
    "Dataset",
    "Evaluation",
    "evaluate",
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
}
