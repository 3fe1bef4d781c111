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
    "Dataset",
    "Evaluation",
    "evaluate",
    "read_ground_truth",
    "read_predictions",
]
