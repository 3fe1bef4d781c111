"""The objective of the pyramid: points answer for the windows that they lie in, and highlights."""

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from model.config.pyramid import PyramidLossConfig
from model.interface import Objective, Prediction, Targets, weighted
from model.objective.contrastive import alignment, draw_positive, sampled_nce
from model.objective.detr import clips_inside
from model.objective.highlights import (
    absent,
    contrast,
    contrast_within,
    draw_clips,
    margin_loss,
)
from model.objective.ranks import extremes, total, world_size
from model.pyramid.pyramid import Points
from model.spans import to_edges

CLIP_SHARE = 2.0**-10  # of a clip, in which windows are compared with points: exact in float32
ROUNDING = 2.0**-22  # of a video, by which float32 misses an edge on its way through [0, 1]
CERTAIN = 2.0**-24  # attention is kept so far from 1, whose absence has no logarithm


class PyramidCriterion(Objective):
    """Weighted sum of all terms; those that the encoder gives nothing for are 0."""

    def __init__(self, config: PyramidLossConfig) -> None:
        super().__init__()
        self.config = config

    def compare(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Relevant are the clips whose middle lies in a window."""
        windows, window_mask, saliency, video_mask, draw, _ = targets
        relevant = clips_inside(windows, window_mask, video_mask)
        clips = draw_clips(saliency, relevant, video_mask, draw)
        positive = draw_positive(saliency, video_mask, draw)
        labels = (saliency * self.config.levels).round()
        return self.weigh(prediction, windows, window_mask, labels, video_mask, *positive, *clips)

    def weigh(
        self,
        prediction: Prediction,
        windows: Tensor,
        window_mask: Tensor,
        labels: Tensor,
        video_mask: Tensor,
        clip: Tensor,
        has_clip: Tensor,
        better: Tensor,
        worse: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `compare`, with the saliency in whole `levels` and what is sampled chosen already: the
        positive clip (B,) of the contrastive terms and whether there is one, better and worse
        (B, P), valid (B,)."""
        own: Points = prediction.own
        zero = prediction.logits.new_zeros((), dtype=torch.float32)
        scale = 1 / self.config.temperature
        losses = self._moments(prediction, windows, window_mask, video_mask)
        fit = F.cosine_similarity(own.clips.float(), own.sentences.float()[:, None], dim=-1)
        positive = (clip, has_clip, scale)
        losses["contrast"] = sampled_nce(fit, labels, video_mask, *positive)
        losses |= dict.fromkeys(("saliency", "label"), zero)
        losses |= dict.fromkeys(("alignment_batch", "alignment_layers"), zero)
        if own.attention is not None:
            pairs = better, worse, valid
            losses["saliency"] = self._saliency(prediction, labels, video_mask, pairs)
            losses["label"] = label_loss(prediction.logits[-1], labels, own.places)
        if own.layer_clips is not None and own.layer_sentences is not None:
            index = clip[None, :, None, None].expand(len(own.layer_clips), -1, -1, 1)
            chosen = own.layer_clips.take_along_dim(index, 2).squeeze(2)  # (U, B, F)
            along = alignment(chosen, own.layer_sentences, has_clip, scale)
            losses["alignment_batch"], losses["alignment_layers"] = along
        return weighted(losses, asdict(self.config.weights))

    def _moments(
        self, prediction: Prediction, windows: Tensor, window_mask: Tensor, video_mask: Tensor
    ) -> dict[str, Tensor]:
        own: Points = prediction.own
        assert prediction.valid is not None  # of every pyramid
        edges = in_clips(windows, video_mask)
        with record_function("matching"):
            positive, target = targets(own.points, edges, window_mask, self.config.radius)
            # Where padding counts, so does the point that begins where a video ends.
            padded = (own.places & ~video_mask).any(1, keepdim=True)  # (B, 1)
            reaching = positive & (prediction.valid | padded)
            positive = positive & prediction.valid
        logits = prediction.logits[-1].float()  # (B, points)
        wrong = torch.where(positive, -logits, logits)
        focal = wrong.sigmoid() ** 2 * F.softplus(wrong)
        points = total(prediction.valid.sum()).clamp(min=1) / world_size()
        count = total(reaching.sum()).clamp(min=1) / world_size()
        distance = (own.reach.float() - target).abs().mean(-1)  # (B, points)
        return {
            "classification": torch.where(prediction.valid, focal, 0.0).sum() / points,
            "boundary": torch.where(reaching, distance, 0.0).sum() / count,
        }

    def _saliency(
        self,
        prediction: Prediction,
        labels: Tensor,
        mask: Tensor,
        pairs: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """FlashVTG's highlight terms of the scores, and of the attention to the words, which leaves
        pairs whose negative is of the same video out."""
        own: Points = prediction.own
        assert own.attention is not None
        scores, attention = prediction.saliency.float(), own.attention.float()
        loss = margin_loss(scores, *pairs, self.config.margin)
        seen = margin_loss(attention, *pairs, self.config.margin)
        if own.other_saliency is not None and own.other_attention is not None:
            assert own.genuine is not None
            other = own.other_saliency.float()
            loss = loss + contrast(scores, other, absent(other), labels, mask, own.genuine)
            loss = loss + contrast_within(scores, labels, mask, ~own.genuine)
            other = own.other_attention.float()
            gone = (1 - other).clamp(min=CERTAIN).log()
            seen = seen + contrast(attention, other, gone, labels, mask, own.genuine)
        fits = F.binary_cross_entropy(attention, labels.clamp(0, 1), reduction="none")
        seen = seen + (fits * own.places).sum() / _everyone(own.places)
        return loss + self.config.attention * seen


def in_clips(windows: Tensor, video_mask: Tensor) -> Tensor:
    """Windows (B, N, 2) centre-width in [0, 1], video_mask (B, L) -> start, end in clips (B, N, 2).

    A window that begins with a clip does so after its way through [0, 1], too.
    """
    clips = video_mask.sum(1)[:, None, None]
    edges = to_edges(windows) * clips
    whole = _rounded(edges)
    return torch.where((edges - whole).abs() <= clips * ROUNDING, whole, edges)


def _rounded(edges: Tensor) -> Tensor:
    return (edges / CLIP_SHARE).round() * CLIP_SHARE


@torch.no_grad()
def targets(
    points: Tensor, edges: Tensor, window_mask: Tensor, radius: float
) -> tuple[Tensor, Tensor]:
    """What each point shall say: points (P, 4), edges (B, N, 2) start, end in clips, window_mask
    (B, N) -> positive (B, P) bool, reach to both sides (B, P, 2) in strides.

    A point answers for a window when it lies in it, at most `radius` strides from its middle, and
    its level is made for the farther of the two sides; of several, for the shortest. Whether it
    does is decided in whole shares of a clip: points lie where clips begin, and the rounding of
    float32 would decide for windows that do, too.
    """
    place, least, largest, stride = points[:, None].unbind(-1)  # (P, 1) each
    start, end = _rounded(edges)[:, None].unbind(-1)  # (B, 1, N) each
    before, after = place - start, end - place  # (B, P, N)
    middle = (start + end) / 2
    near = (place - middle).abs() <= radius * stride
    inside = (before >= 0) & (after >= 0)
    farther = torch.maximum(before, after)
    fits = near & inside & (farther >= least) & (farther <= largest) & window_mask[:, None]
    length = (end - start).expand_as(fits).masked_fill(~fits, torch.inf)
    chosen = length.argmin(-1, keepdim=True)  # (B, P, 1)
    exact = edges[:, None].take_along_dim(chosen[..., None], 2).squeeze(2)  # (B, P, 2)
    reach = torch.stack((place - exact[..., 0, None], exact[..., 1, None] - place), -1)
    return fits.any(-1), reach.squeeze(2) / stride


def label_loss(logits: Tensor, labels: Tensor, places: Tensor) -> Tensor:
    """Mean squared distance of the finest level's scores (B, P) and the annotated saliency (B, L),
    each stretched to [0, 1] over the global batch; places (B, L) are those that count. Labels that
    are all the same say nothing."""
    scores = logits[:, : labels.shape[1]]
    (stretched, _), (wanted, differ) = _stretched(scores, places), _stretched(labels, places)
    distance = (stretched - wanted) ** 2 * differ
    return (distance * places).sum() / _everyone(places)


def _stretched(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    low, high = extremes(x.masked_fill(~places, torch.inf), x.masked_fill(~places, -torch.inf))
    return (x - low) / (high - low).clamp(min=torch.finfo(x.dtype).tiny), high > low


def _everyone(places: Tensor) -> Tensor:
    return total(places.sum()).clamp(min=1) / world_size()
