"""What does an objective take of a batch, beside the prediction?"""

from typing import Any

from data_pipeline.stream.batches import PairBatch
from model.interface import Objective, Sentences


def targets(batch: PairBatch, criterion: Objective) -> dict[str, Any]:
    """The batch's truth as keyword arguments of `criterion`."""
    known: dict[str, Any] = {
        "windows": batch.windows,
        "window_mask": batch.window_mask,
        "saliency": batch.saliency,
        "video_mask": batch.video_mask,
    }
    if criterion.judges_existence:
        known["sentences"] = Sentences(batch.present, batch.sentence, batch.sentences)
    return known
