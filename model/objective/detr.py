"""The objective of Moment-DETR and QD-DETR: a set of moments, and highlights."""

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from model.config.detr import DETRLossConfig, DETRMatching
from model.detr.detr import OtherSentence
from model.interface import Objective, Prediction, Targets, weighted
from model.objective.highlights import absent, contrast, draw_clips, margin_loss
from model.objective.matching import answered, assign, check_matching
from model.objective.ranks import total, world_size
from model.spans import generalised_iou, to_edges


class DETRCriterion(Objective):
    """Weighted sum of span, generalised IoU, label and saliency; the first three of every layer."""

    def __init__(self, config: DETRLossConfig) -> None:
        super().__init__()
        check_matching(config.matching_kernel)
        self.config = config

    def compare(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """Relevant are the clips whose middle lies in a window."""
        windows, window_mask, saliency, video_mask, draw, _ = targets
        relevant = clips_inside(windows, window_mask, video_mask)
        clips = draw_clips(saliency, relevant, video_mask, draw)
        labels = (saliency * self.config.levels).round()
        return self.weigh(prediction, windows, window_mask, labels, video_mask, *clips)

    def weigh(
        self,
        prediction: Prediction,
        windows: Tensor,
        window_mask: Tensor,
        labels: Tensor,
        video_mask: Tensor,
        better: Tensor,
        worse: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `compare`, with the saliency in whole `levels` and the pairs of clips chosen already:
        better and worse (B, P), valid (B,)."""
        losses = self._moments(prediction, windows, window_mask)
        scores = prediction.saliency.float()
        losses["saliency"] = margin_loss(scores, better, worse, valid, self.config.margin)
        own: OtherSentence | None = prediction.own
        if own is not None:
            other = own.saliency.float()
            every = torch.ones_like(valid)
            parts = scores, other, absent(other), labels, video_mask, every
            losses["saliency"] = losses["saliency"] + contrast(*parts)
        return weighted(losses, asdict(self.config.weights))

    def _moments(
        self, prediction: Prediction, windows: Tensor, window_mask: Tensor
    ) -> dict[str, Tensor]:
        logits, spans = prediction.logits.float(), prediction.spans.float()
        with record_function("matching"):
            costs = matching_cost(logits, spans, windows, self.config.matching)
            window = assign(costs, window_mask, self.config.matching_kernel)  # (S, B, M)
        matched = window >= 0
        target = answered(window, windows)  # (S, B, M, 2)
        count = total(matched[0].sum()).clamp(min=1) / world_size()  # the same in every layer
        distance = (spans - target).abs().mean(-1)  # (S, B, M): of both coordinates
        overlap = generalised_iou(to_edges(spans), to_edges(target))  # (S, B, M)
        wrong = F.softplus(torch.where(matched, -logits, logits))  # (S, B, M)
        weight = torch.where(matched, 1.0, self.config.no_moment)
        # The mean over all queries, not over their weights.
        return {
            "span": torch.where(matched, distance, 0.0).sum() / count,
            "giou": torch.where(matched, 1 - overlap, 0.0).sum() / count,
            "label": (weight * wrong).sum() / logits[0].numel(),
        }


@torch.no_grad()
def matching_cost(logits: Tensor, spans: Tensor, windows: Tensor, cost: DETRMatching) -> Tensor:
    """Cost of giving window n to query m of layer s: logits (S, B, M), spans (S, B, M, 2) and
    windows (B, N, 2) in centre-width -> (S, B, M, N)."""
    distance = (spans[..., None, :] - windows[None, :, None]).abs().sum(-1)  # (S, B, M, N)
    edges = to_edges(spans)[..., None, :], to_edges(windows)[:, None]
    overlap = generalised_iou(*edges)  # (S, B, M, N)
    relevance = logits.sigmoid()[..., None]
    return cost.span * distance - cost.giou * overlap - cost.label * relevance


def clips_inside(windows: Tensor, window_mask: Tensor, video_mask: Tensor) -> Tensor:
    """Clips whose middle lies in a window: windows (B, N, 2) centre-width in [0, 1], masks (B, N)
    and (B, L) -> (B, L) bool."""
    length = video_mask.sum(1, keepdim=True)  # (B, 1)
    middle = (torch.arange(video_mask.shape[1], device=windows.device) + 0.5) / length  # (B, L)
    start, end = to_edges(windows)[:, None].unbind(-1)  # (B, 1, N)
    inside = (middle[..., None] >= start) & (middle[..., None] < end) & window_mask[:, None]
    return inside.any(-1) & video_mask
