"""The objective of the existence head: sentences of a video against those of other videos."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.interface import Objective, Prediction, Sentences, Targets
from model.layers.existence import ABSENT, existence_logits
from model.objective.ranks import gather, world_size

OTHERS = 64
"""Sentences of the batch that each video is held against at most, beside its own."""


class WithExistence(Objective):
    """The objective of any kind, and one more term, `existence`."""

    judges_existence = True

    def __init__(self, objective: Objective, weight: float) -> None:
        super().__init__()
        self.objective, self.weight = objective, weight

    def compare(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """`sentences` are needed."""
        assert targets.sentences is not None
        loss, losses = self.objective.compare(prediction, targets)
        video_mask, sentences = targets.video_mask, targets.sentences
        losses["existence"] = existence_loss(prediction, video_mask, sentences)
        return loss + self.weight * losses["existence"], losses


def existence_loss(prediction: Prediction, video_mask: Tensor, sentences: Sentences) -> Tensor:
    """Cross-entropy of the pairs as they are annotated, mean over those that are, plus that of each
    video with the sentences of up to `OTHERS` following pairs of the global batch, mean over all.

    No negative is a sentence that equals one of the video's own. The contrast of the pairs that are
    annotated as shown is added: the video's own sentence among all these, and the sentence's own
    video among as many that go before it. It looks at what is hard to tell apart, where the mean
    over all looks at what is easy. All ranks compute it alike.
    """
    assert prediction.clip_evidence is not None
    assert prediction.sentence_evidence is not None
    clips, said = (
        everyone(x.float()) for x in (prediction.clip_evidence, prediction.sentence_evidence)
    )
    mask, present, text = (
        everyone(x) for x in (video_mask, sentences.present, sentences.text)
    )  # (G, L), (G,), (G,)
    count = len(said)
    here = torch.arange(count, device=said.device)
    step = here[: 1 + OTHERS]  # (N,)
    following = (here[:, None] + step) % count  # (G, N), the own sentence first
    logits = existence_logits(clips, mask, said[following])  # (G, N)

    known = present >= 0
    right = F.softplus(torch.where(present > 0, -logits[:, 0], logits[:, 0]))  # (G,)
    annotated = torch.where(known, right, 0.0).sum() / known.sum().clamp(min=1)

    # What each rank's videos say of themselves is held against the texts of all.
    other = ~(sentences.own[:, :, None] == text).any(1)  # (B, G)
    negative = everyone(other).gather(1, following)  # (G, N)
    made = torch.where(negative, F.softplus(logits), 0.0).sum() / negative.sum().clamp(min=1)

    # Its own first, then those it is told from: of a video sentences, of a sentence videos.
    rivals = logits.masked_fill(~(negative | (step == 0)), ABSENT)  # (G, N)
    contrast = torch.stack(
        [-x.log_softmax(1)[:, 0] for x in (rivals, rivals[(here[:, None] - step) % count, step])]
    ).mean(0)  # (G,)
    shown = present > 0
    told = torch.where(shown, contrast, 0.0).sum() / shown.sum().clamp(min=1)
    return annotated + made + told


def everyone(x: Tensor) -> Tensor:
    """(B, ...) of every rank -> (G, ...) in the order of the global batch, with gradients."""
    ranks = gather(x)  # row i of rank r of W is row r + W i of the global batch
    return ranks.view(world_size(), *x.shape).transpose(0, 1).flatten(0, 1)
