"""Which losses and which pairs made a step's gradient not finite, if nobody looked at the time?"""

import math
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from model.interface import Prediction
from trainer.training.checkpoints import State

NAMED = 8  # pairs that a message lists
MOST_NOTED = 1000
"""Steps that are kept in mind at once."""


class NotFinite(RuntimeError):
    """The gradient is not finite. Every rank raises it at the same step, with the same message."""


class Noted(NamedTuple):
    """What is kept of a step until it is asked about; its tensors stay on the device."""

    step: int
    norm: Tensor  # () of the gradient of all ranks
    names: tuple[str, ...]  # of the losses
    losses: Tensor  # (losses,)
    sums: Tensor  # (B,), see `pair_sums`
    qids: list[int | str]  # B pairs of this rank


class Faults:
    """Steps whose gradient was not finite, counted in `state.skipped`.

    A step is noted when it is done, without reading a number on the host; such a step was left out
    (see `step_if_finite`), so nothing is lost by hearing of it later. `settle` reads what was noted
    since, in one copy.
    """

    def __init__(self, accelerator: Accelerator, state: State, limit: int) -> None:
        """`limit` steps of a run may be left out before it stops."""
        self._accelerator, self._state, self._limit = accelerator, state, limit
        self._noted: list[Noted] = []

    def note(self, noted: Noted) -> None:
        """Remember a step; every rank notes the same ones."""
        self._noted.append(noted)
        if len(self._noted) == MOST_NOTED:
            self.settle()

    def settle(self) -> None:
        """Say which of the noted steps were left out, and count them.

        Every rank calls it. Raises NotFinite where they are more than the limit.
        """
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        # The gradient is reduced, so that all ranks find the same.
        norms = torch.stack([each.norm for each in noted]).tolist()
        for each, norm in zip(noted, norms, strict=True):
            if not math.isfinite(norm):
                fault = describe(each)
                self._state.skipped += 1
                if self._state.skipped > self._limit:
                    raise NotFinite(fault)
                self._accelerator.print(f"{fault}; the step is left out")


@torch.no_grad()
def pair_sums(prediction: Prediction) -> Tensor:
    """(B,) a number for each pair that is finite where all that was predicted of it is."""
    spans, logits = prediction.spans.float(), prediction.logits.float()
    return spans.sum((0, 2, 3)) + logits.sum((0, 2)) + prediction.saliency.float().sum(1)


def describe(noted: Noted) -> str:
    """One line that names the step, the losses and the pairs; the same on every rank.

    A collective. A pair is named where its predictions are not finite, as they are where its
    features are not; where all are, the fault is in the backward pass and any pair may be at fault.
    """
    finite = torch.isfinite(noted.losses).tolist()
    known = zip(noted.names, finite, strict=True)
    found = [name for name, fine in known if not fine and name != "loss"]  # but which of its terms
    sound = torch.isfinite(noted.sums).tolist()
    pairs = [qid for qid, fine in zip(noted.qids, sound, strict=True) if not fine]
    everywhere = gather_object([(found, pairs)])
    names = sorted({name for of_rank, _ in everywhere for name in of_rank})
    culprits = [pair for _, of_rank in everywhere for pair in of_rank]
    if not names and not culprits:
        return (
            f"step {noted.step}: the gradient is not finite, though losses and predictions are: "
            f"the backward pass overflows; lower optim.lr or set optim.clip_norm"
        )
    more = f" and {len(culprits) - NAMED} more" if len(culprits) > NAMED else ""
    return (
        f"step {noted.step}: the gradient is not finite: {', '.join(names) or 'no loss'} of the "
        f"losses, and what was predicted for the pairs {culprits[:NAMED]}{more}"
    )
