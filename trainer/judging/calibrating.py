"""How is a model calibrated? On a split that it was not trained on, by one pass over all ranks.

Where fewer than `FEW` of the split's sentences are annotated as not in their video, each video is
also held against the sentence of another video of its batch that has no equal among its own.
"""

from collections.abc import Iterable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from data_pipeline.annotations import Annotation
from data_pipeline.stream.batches import PairBatch
from model.interface import Prediction
from model.layers.existence import existence_logits
from trainer.inference.calibration import Calibration, fit
from trainer.inference.decode import Floats, decode

FEW = 30
BEST = 10
"""Windows of a pair whose confidence is calibrated."""
RIGHT = 0.5
"""IoU with a true window from which a window is right."""


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[PairBatch], accelerator: Accelerator, split: str
) -> Calibration:
    """The calibration of a model that judges existence, the same on every rank.

    `split` is what the calibration says it was fitted on. Every rank calls it.
    """
    was_training = model.training
    model.eval()
    pairs: list[tuple[float, int]] = []  # logit, 1 present, 0 absent, -1 made
    windows: list[tuple[float, bool]] = []  # confidence, right
    for batch in batches:
        batch = batch.to(accelerator.device)
        with accelerator.autocast():
            prediction = model(
                batch.video.float(), batch.video_mask, batch.text.float(), batch.text_mask
            )
        others = other_sentences(prediction, batch, accelerator).cpu().tolist()
        durations = [annotation.duration for annotation in batch.annotations]
        decoded = decode(prediction, batch.video_mask, batch.span, durations)
        assert decoded.existence is not None
        for row, annotation in enumerate(batch.annotations):
            if batch.repeated[row]:
                continue
            if batch.present[row] >= 0:
                pairs.append((float(decoded.existence[row]), int(batch.present[row])))
            if np.isfinite(others[row]):
                pairs.append((others[row], -1))
            if annotation.windows:
                best = decoded.windows[row][decoded.real[row]][:BEST]
                hits = overlap(best, annotation) >= RIGHT
                windows += zip(best[:, 2].tolist(), hits.tolist(), strict=True)
    model.train(was_training)
    pairs, windows = sorted(gather_object(pairs)), sorted(gather_object(windows))
    kinds = np.array([kind for _, kind in pairs])
    annotated = int((kinds == 0).sum())
    kept = kinds >= (0 if annotated >= FEW else -1)
    made = 0 if annotated >= FEW else int((kinds == -1).sum())
    logits, present = np.array([logit for logit, _ in pairs])[kept], kinds[kept] == 1
    confidences = np.array([confidence for confidence, _ in windows])
    right = np.array([hit for _, hit in windows], dtype=bool)
    what = f"{present.sum()} present, {annotated} absent"
    what += f", {made} absent by another video's sentence" * bool(made)
    return fit(logits, present, confidences, right, f"{split}: {what}")


def other_sentences(prediction: Prediction, batch: PairBatch, accelerator: Accelerator) -> Tensor:
    """(B,) logits of each video with another one's sentence; NaN where the batch has none.

    It is that of the next pair of the global batch that has no equal among the video's own.
    """
    assert prediction.clip_evidence is not None
    assert prediction.sentence_evidence is not None
    rank, world = accelerator.process_index, accelerator.num_processes

    def everyone(x: Tensor) -> Tensor:
        """In the order of the global batch: row i of rank r of W is row r + W i."""
        ranks: Tensor = accelerator.gather(x)
        return ranks.view(world, *x.shape).transpose(0, 1).flatten(0, 1)

    said, text = everyone(prediction.sentence_evidence), everyone(batch.sentence)  # (G, E), (G,)
    usable = ~(batch.sentences[:, :, None] == text).any(1) & ~everyone(batch.repeated)  # (B, G)
    count = len(text)
    here = rank + world * torch.arange(len(batch), device=text.device)
    following = (here[:, None] + torch.arange(count, device=text.device)) % count  # (B, G)
    usable = usable.gather(1, following)
    first = following.gather(1, usable.to(torch.uint8).argmax(1, keepdim=True))  # (B, 1)
    logits = existence_logits(prediction.clip_evidence, batch.video_mask, said[first])
    return logits.squeeze(1).masked_fill(~usable.any(1), torch.nan)


def overlap(windows: Floats, annotation: Annotation) -> Floats:
    """(n,) best IoU of windows (n, 3) with a true one."""
    true = np.sort(np.array(annotation.windows, dtype=np.float64), axis=1)  # (N, 2)
    start, end = windows[:, None, 0], windows[:, None, 1]
    shared = np.minimum(end, true[:, 1]) - np.maximum(start, true[:, 0])
    union = (end - start) + (true[:, 1] - true[:, 0]) - shared.clip(min=0)
    return np.asarray((shared.clip(min=0) / np.maximum(union, 1e-9)).max(1))
