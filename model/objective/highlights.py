"""Highlight terms of the DETR family: a margin between clips, contrast by rank, and silence for
the sentence of another pair (Moment-DETR, QD-DETR)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.objective.ranks import total, world_size

TEMPERATURE = 0.5
HIDDEN = -1000.0  # score of what is not compared
STEPS = 12  # by which the originals divide the sum over the ranks 1 to 11
EPSILON = 1e-6


def draw_clips(
    saliency: Tensor, relevant: Tensor, mask: Tensor, draw: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Two (better, worse) pairs of clips for each video -> (B, 2), (B, 2), and valid (B,).

    saliency, relevant and mask (B, L), draw (B,) uniform in [0, 1). The first pair is the most and
    the least salient relevant clip, the second a random relevant one and a random one that is not;
    where all are relevant, the first pair again. Valid are videos with a relevant clip.
    """
    relevant, outside = relevant & mask, mask & ~relevant
    best = saliency.masked_fill(~relevant, -torch.inf).argmax(1)  # (B,)
    least = saliency.masked_fill(~relevant, torch.inf).argmin(1)
    inside, left = _nth(relevant, draw)
    other, _ = _nth(outside, left)  # what the first choice left of the draw makes the second
    some = outside.any(1)
    better = torch.stack((best, torch.where(some, inside, best)), 1)
    worse = torch.stack((least, torch.where(some, other, least)), 1)
    return better, worse, relevant.any(1)


def _nth(allowed: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """The clip of `allowed` (B, L) that draw (B,) means, and the draw's rest, uniform again."""
    count = allowed.sum(1)  # (B,)
    scaled = draw.to(allowed.device) * count
    rank = scaled.long().minimum((count - 1).clamp(min=0))  # (B,)
    chosen = allowed & (allowed.cumsum(1) == rank[:, None] + 1)  # (B, L)
    return chosen.to(torch.uint8).argmax(1), (scaled - rank).clamp(0, 1 - EPSILON)


def margin_loss(
    scores: Tensor, better: Tensor, worse: Tensor, valid: Tensor, margin: float
) -> Tensor:
    """Hinge: twice the mean over pairs of max(0, margin + worse - better). scores (B, L), better
    and worse (B, P) clips, valid (B,); other videos count 0 -> scalar."""
    gap = margin + scores.gather(1, worse) - scores.gather(1, better)  # (B, P)
    return 2 * (gap.clamp(min=0) * valid[:, None]).mean()


def rank_contrast(scores: Tensor, labels: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """For every rank 1 to 11: clips labelled at least so against all; scores, labels and mask
    (B, X), counted (B,) the rows that the mean is over -> scalar.

    A row without such a clip gives 0. The sum is divided by 12, as in QD-DETR.
    """
    scores = torch.where(mask, scores, HIDDEN) / TEMPERATURE
    scores = scores - scores.amax(1, keepdim=True).detach()
    log_p = scores - (scores.exp().sum(1, keepdim=True) + EPSILON).log()  # (B, X)
    rank = torch.arange(1, STEPS, device=scores.device)[:, None, None]
    positive = (labels >= rank) & mask  # (11, B, X)
    gained = torch.where(positive, log_p, 0.0).sum(-1)  # (11, B)
    losses = -gained / (positive.sum(-1) + EPSILON)
    return subset_mean(losses.sum(0), counted) / STEPS


def silence(log_absent: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """The sum over a video's clips of -log(1 - p) for another sentence, mean over the rows counted.

    log_absent (B, L) is log(1 - p), mask (B, L), counted (B,) -> scalar.
    """
    return subset_mean(-torch.where(mask, log_absent, 0.0).sum(1), counted)


def contrast(
    scores: Tensor,
    other: Tensor,
    log_absent: Tensor,
    labels: Tensor,
    mask: Tensor,
    genuine: Tensor,
) -> Tensor:
    """Rank contrast against the same clips with another sentence, plus its silence -> scalar.

    scores and other (B, L) of the own and of the other sentence, labels (B, L) whole numbers, mask
    (B, L), genuine (B,) False where the other sentence is of the same video and tells nothing.
    """
    both = torch.cat((scores, other), 1), torch.cat((labels, torch.zeros_like(labels)), 1)
    ranked = rank_contrast(*both, torch.cat((mask, mask), 1), genuine)
    return ranked + silence(log_absent, mask, genuine)


def contrast_within(scores: Tensor, labels: Tensor, mask: Tensor, counted: Tensor) -> Tensor:
    """Rank contrast of a video's own clips; as in FlashVTG only where at least two rows (B,) are
    counted -> scalar."""
    return rank_contrast(scores, labels, mask, counted) * (total(counted.sum()) >= 2)


def absent(logits: Tensor) -> Tensor:
    """log(1 - sigmoid(logits))."""
    return -F.softplus(logits)


def subset_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of values (B,) over the counted rows of all ranks, once ranks are averaged."""
    count = total(counted.sum()).clamp(min=1) / world_size()
    return torch.where(counted, values, 0.0).sum() / count
