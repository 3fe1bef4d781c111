"""Which loss and which pairs made a step's gradient not finite?"""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from data_pipeline.stream.batches import PairBatch
from model.interface import Objective
from trainer.training.targets import targets

NAMED = 8  # pairs that a message lists


class NotFinite(RuntimeError):
    """The gradient is not finite. Every rank raises it at the same step, with the same message."""


@torch.no_grad()
def diagnose(
    network: nn.Module, criterion: Objective, batch: PairBatch, accelerator: Accelerator, step: int
) -> str:
    """One line that names the step, the losses and the pairs; the same on every rank.

    Every rank calls it, with its rows of the batch and the random state that the step began with:
    the forward pass is done once more. A pair is named where its features or its predictions are
    not finite; where all are, the fault is in the backward pass and any pair may be at fault.
    """
    batch = batch.to(accelerator.device)
    with accelerator.autocast():
        prediction = network(
            batch.video.float(), batch.video_mask, batch.text.float(), batch.text_mask
        )
    _, losses = criterion(prediction, **targets(batch, criterion))
    sound = torch.stack(
        [
            torch.isfinite(tensor.float()).flatten(1).all(1)
            for tensor in (
                batch.video,
                batch.text,
                prediction.spans.transpose(0, 1),
                prediction.logits.transpose(0, 1),
                prediction.saliency,
            )
        ]
    ).all(0)  # (B,)
    found = [name for name, loss in losses.items() if not torch.isfinite(loss)]
    pairs = [
        annotation.qid
        for annotation, fine in zip(batch.annotations, sound.tolist(), strict=True)
        if not fine
    ]
    everywhere = gather_object([(found, pairs)])
    names = sorted({name for of_rank, _ in everywhere for name in of_rank})
    culprits = [pair for _, of_rank in everywhere for pair in of_rank]
    if not names and not culprits:
        return (
            f"step {step}: the gradient is not finite, though losses and predictions are: "
            f"the backward pass overflows; lower optim.lr or set optim.clip_norm"
        )
    more = f" and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
    return (
        f"step {step}: the gradient is not finite: {', '.join(names) or 'no loss'} of the losses, "
        f"and what was predicted for the pairs {culprits[:NAMED]}{more}"
    )
