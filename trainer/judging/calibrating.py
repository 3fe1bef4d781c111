"""How is a model calibrated? On a split that it was not trained on, by one pass over all ranks.

Where fewer than `FEW` of the split's sentences are annotated as not in their video, each video is
also held against the sentence of another video of its batch that has no equal among its own.
"""

from collections.abc import Iterable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from data_pipeline.annotations import Annotation
from data_pipeline.stream.batches import PairBatch
from trainer.inference.calibration import Calibration, fit
from trainer.inference.decode import Decoded, Floats, decode
from trainer.metrics.existence import RIGHT

FEW = 30
BEST = 10
"""Windows of a pair whose confidence is calibrated."""


@torch.no_grad()
def calibrate(
    model: nn.Module, batches: Iterable[PairBatch], accelerator: Accelerator, split: str
) -> Calibration:
    """The calibration of a model, of existence too where it judges that; the same on every rank.

    `split` is what the calibration says it was fitted on. Every rank calls it.
    """
    was_training = model.training
    model.eval()
    pairs: list[tuple[float, float, int]] = []  # logit, best window, 1 present, 0 absent, -1 made
    windows: list[tuple[float, bool]] = []  # confidence, right
    for batch in batches:
        batch = batch.to(accelerator.device)
        decoded = answer(model, batch, batch.text, batch.text_mask, accelerator)
        if decoded.existence is not None:
            present, once = batch.present.cpu().numpy(), ~batch.repeated.cpu().numpy()
            pairs += _judged(decoded, present, once & (present >= 0))
            text, text_mask, there = other_sentences(batch, accelerator)
            exchanged = answer(model, batch, text, text_mask, accelerator)
            pairs += _judged(exchanged, np.full(len(batch), -1), once & there)
        for row, annotation in enumerate(batch.annotations):
            if annotation.windows and not batch.repeated[row]:
                first = decoded.windows[row][decoded.real[row]][:BEST]
                hits = overlap(first, annotation) >= RIGHT
                windows += zip(first[:, 2].tolist(), hits.tolist(), strict=True)
    model.train(was_training)
    pairs, windows = sorted(gather_object(pairs)), sorted(gather_object(windows))
    kinds = np.array([kind for *_, kind in pairs])
    annotated = int((kinds == 0).sum())
    kept = kinds >= (0 if annotated >= FEW else -1)
    made = 0 if annotated >= FEW else int((kinds == -1).sum())
    logits, best_ones = np.array([pair[:2] for pair in pairs]).reshape(-1, 2)[kept].T
    present = kinds[kept] == 1
    confidences = np.array([confidence for confidence, _ in windows])
    right = np.array([hit for _, hit in windows], dtype=bool)
    what = f"{present.sum()} present, {annotated} absent" if pairs else f"{len(windows)} windows"
    what += f", {made} absent by another video's sentence" * bool(made)
    return fit(logits, best_ones, present, confidences, right, f"{split}: {what}")


def _judged(
    decoded: Decoded, kind: NDArray[np.integer], counts: NDArray[np.bool_]
) -> list[tuple[float, float, int]]:
    """Logit, best window and kind of those of a batch that count."""
    assert decoded.existence is not None
    best = decoded.windows[:, 0, 2]
    rows = np.flatnonzero(counts)
    columns = decoded.existence[rows], best[rows], kind[rows]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def answer(
    model: nn.Module,
    batch: PairBatch,
    text: Tensor,
    text_mask: Tensor,
    accelerator: Accelerator,
) -> Decoded:
    """What the model finds in the batch's videos of sentences (B, T, K, Dt), mask (B, T)."""
    with accelerator.autocast():
        prediction = model(batch.video.float(), batch.video_mask, text.float(), text_mask)
    durations = [annotation.duration for annotation in batch.annotations]
    return decode(prediction, batch.video_mask, batch.span, durations)


def other_sentences(
    batch: PairBatch, accelerator: Accelerator
) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
    """For each video another one's sentence, (B, T, K, Dt) and its mask (B, T), and whether the
    batch has such a one (B,).

    It is that of the next pair of the global batch that has no equal among the video's own.
    """
    rank, world = accelerator.process_index, accelerator.num_processes

    def everyone(x: Tensor) -> Tensor:
        """In the order of the global batch: row i of rank r of W is row r + W i."""
        ranks: Tensor = accelerator.gather(x)
        return ranks.view(world, *x.shape).transpose(0, 1).flatten(0, 1)

    said = everyone(batch.sentence)  # (G,)
    usable = ~(batch.sentences[:, :, None] == said).any(1) & ~everyone(batch.repeated)  # (B, G)
    count = len(said)
    here = rank + world * torch.arange(len(batch), device=said.device)
    following = (here[:, None] + torch.arange(count, device=said.device)) % count  # (B, G)
    usable = usable.gather(1, following)
    first = following.gather(1, usable.to(torch.uint8).argmax(1, keepdim=True)).squeeze(1)  # (B,)
    found = usable.any(1).cpu().numpy()
    return everyone(batch.text)[first], everyone(batch.text_mask)[first], found


def overlap(windows: Floats, annotation: Annotation) -> Floats:
    """(n,) best IoU of windows (n, 3) with a true one."""
    true = np.sort(np.array(annotation.windows, dtype=np.float64), axis=1)  # (N, 2)
    start, end = windows[:, None, 0], windows[:, None, 1]
    shared = np.minimum(end, true[:, 1]) - np.maximum(start, true[:, 0])
    union = (end - start) + (true[:, 1] - true[:, 0]) - shared.clip(min=0)
    return np.asarray((shared.clip(min=0) / np.maximum(union, 1e-9)).max(1))
