"""The objective of SDST: set prediction of moments, highlights and alignment."""

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import record_function

from model.config import LossConfig
from model.interface import Objective, Prediction, Targets, weighted
from model.objective.contrastive import alignment, draw_positive, sampled_nce
from model.objective.matching import answered, check_matching, match
from model.objective.ranks import total, world_size
from model.sdst.sdst import Projections
from model.spans import iou, pairwise_iou, to_edges


class Criterion(Objective):
    """Weighted sum of all terms of SDST.

    Over several ranks counts are summed and contrastive terms see the global batch.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        check_matching(config.matching_kernel)
        self.config = config

    def compare(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """`draw` chooses the positive clip of each pair.

        Terms of several steps are summed over the steps. Pairs without a relevant clip are left
        out of the contrastive terms, pairs without a window teach the queries to stay silent.
        """
        losses = self._moments(prediction, targets.windows, targets.window_mask)
        losses |= self._highlights(prediction, targets)
        return weighted(losses, asdict(self.config.weights))

    def _moments(
        self, prediction: Prediction, windows: Tensor, window_mask: Tensor
    ) -> dict[str, Tensor]:
        first = 0 if self.config.supervise == "all" else -1
        logits, spans = prediction.logits[first:].float(), prediction.spans[first:].float()
        segments = total(window_mask.sum()).clamp(min=1) / world_size()

        with record_function("matching"):
            kernel = self.config.matching_kernel
            window = match(
                logits, spans, windows, window_mask, self.config.matching, kernel
            )  # (S, B, M)
        matched = window >= 0
        target = answered(window, windows)  # (S, B, M, 2)

        focal = focal_loss(logits, matched, self.config.alpha, self.config.gamma)
        distance = (spans - target).abs().sum(-1)  # (S, B, M)
        overlap = iou(to_edges(spans), to_edges(target))  # (S, B, M)
        return {
            "classification": focal.sum() / segments,
            "l1": torch.where(matched, distance, 0.0).sum() / segments,
            "iou": torch.where(matched, 1 - overlap, 0.0).sum() / segments,
            "actionness": actionness_loss(
                prediction.actionness, spans[-1].detach(), windows, window_mask
            ),
        }

    def _highlights(self, prediction: Prediction, targets: Targets) -> dict[str, Tensor]:
        _, _, saliency, video_mask, draw, _ = targets
        scale = 1 / self.config.temperature
        clip, valid = draw_positive(saliency, video_mask, draw)  # (B,) each
        own: Projections = prediction.own
        index = clip[None, :, None, None].expand(len(own.clips), -1, -1, 1)
        positive = own.clips.take_along_dim(index, 2).squeeze(2)  # (U, B, F)
        batch, layers = alignment(positive, own.sentences, valid, scale)
        nce = sampled_nce(prediction.saliency, saliency, video_mask, clip, valid, scale)
        return {"saliency": nce, "alignment_batch": batch, "alignment_layers": layers}


def focal_loss(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of each logit (Lin et al. 2017), elementwise; positive is bool, same shape."""
    sign = torch.where(positive, 1.0, -1.0)
    log_right = F.logsigmoid(sign * logits)  # log probability of the right answer
    weight = torch.where(positive, alpha, 1 - alpha) * (-sign * logits).sigmoid() ** gamma
    return -weight * log_right


def actionness_loss(
    logits: Tensor | None, spans: Tensor, windows: Tensor, window_mask: Tensor
) -> Tensor:
    """L1 between sigmoid(logits) (B, M) and the best IoU of each span (B, M, 2) with a window
    (B, N, 2) of its own video, 0 without windows; mean over all. 0 without an actionness head."""
    if logits is None:
        return spans.new_zeros(())
    overlap = pairwise_iou(to_edges(spans), to_edges(windows))  # (B, M, N)
    best = overlap.masked_fill(~window_mask[:, None], 0.0).amax(-1)  # (B, M)
    return F.l1_loss(logits.float().sigmoid(), best)
