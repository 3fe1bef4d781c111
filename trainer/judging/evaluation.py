"""How well does the model do on a split? Every pair once, on all ranks, whatever their number."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.output import whole
from data_pipeline.stream.batches import PairBatch
from trainer.config import PostprocessConfig
from trainer.inference.calibration import AS_IT_IS, Calibration
from trainer.inference.decode import decode, highlight_scores, prediction_row
from trainer.inference.originals import original_row
from trainer.inference.postprocess import postprocess
from trainer.metrics import Evaluation, evaluate

Rows = list[dict[str, object]]


@torch.no_grad()
def predict_split(
    model: nn.Module,
    batches: Iterable[PairBatch],
    accelerator: Accelerator,
    clip_length: float,
    config: PostprocessConfig,
    calibration: Calibration = AS_IT_IS,
) -> tuple[Rows, list[Annotation]]:
    """Prediction rows and their annotations, the same on every rank, sorted as the split is stored.

    Rows that only fill up the last batch are left out. `calibration` makes scores comparable.
    """
    was_training = model.training
    model.eval()
    rows: list[tuple[tuple[int, int], dict[str, object], Annotation]] = []
    for index, batch in enumerate(batches):
        batch = batch.to(accelerator.device)
        with accelerator.autocast():
            prediction = model(
                batch.video.float(), batch.video_mask, batch.text.float(), batch.text_mask
            )
        durations = [annotation.duration for annotation in batch.annotations]
        decoded = decode(prediction, batch.video_mask, batch.span, durations)
        found, existence = calibration.comparable(decoded)
        windows = postprocess(found, durations, config, decoded.real)
        for row, annotation in enumerate(batch.annotations):
            if not batch.repeated[row]:
                place = (index, row * accelerator.num_processes + accelerator.process_index)
                if config.original == "none":
                    scores = highlight_scores(decoded.saliency[row], clip_length, annotation)
                    judged = None if existence is None else float(existence[row])
                    answer = annotation, windows[row], scores
                    written = prediction_row(*answer, judged, calibration.threshold)
                else:
                    own = prediction.spans[-1, row], prediction.scores()[row]
                    written = original_row(annotation, *own, decoded.saliency[row], config)
                rows.append((place, written, annotation))
    model.train(was_training)
    # Row i of rank r of W is row r + W i of the global batch.
    gathered = sorted(gather_object(rows), key=lambda row: row[0])
    return [row for _, row, _ in gathered], [annotation for _, _, annotation in gathered]


def score(
    rows: Sequence[dict[str, object]], annotations: Sequence[Annotation], dataset: str
) -> Evaluation:
    """The metrics of a data set's convention on prediction rows."""
    return evaluate(rows, annotations, dataset=dataset)


def withheld(annotations: Sequence[Annotation]) -> bool:
    """Whether a split has no ground truth, as test splits are released."""
    return not any(annotation.windows or annotation.saliency for annotation in annotations)


def selection_value(summary: Mapping[str, float], metrics: Sequence[str]) -> float:
    """The mean of the metrics that the kept model maximises.

    Raises InputError for one that the selection split has no ground truth for.
    """
    for name in metrics:
        if name not in summary:
            raise InputError(
                f"eval.metric {name!r} cannot be measured on the selection split; it has "
                f"{', '.join(summary) or 'no ground truth'}; set eval.metric to one that it has"
            )
    return sum(summary[name] for name in metrics) / len(metrics)


def write_predictions(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows as JSONL; the file appears complete or not at all."""
    with whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
