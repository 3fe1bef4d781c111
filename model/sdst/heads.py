"""What is read off the streams: relevance and span of each query, actionness of each span."""

import math

import torch
from torch import Tensor, nn

from model.config import SDSTConfig
from model.layers.blocks import FullPrecision, projection
from model.layers.roi_align import roi_align
from model.spans import to_edges

PRIOR = 0.01  # expected share of relevant queries at the start (focal loss, Lin et al. 2017)
INITIAL_WIDTH = -2.0  # logit of the references' first width, 0.12 of the video


class ReferenceHead(FullPrecision):
    """First reference of each query in logits: centres spread out, all widths about 0.12."""

    def __init__(self, width: int) -> None:
        linear = projection(width, 2)
        with torch.no_grad():
            linear.weight[1] = 0
            linear.bias[1] = INITIAL_WIDTH
        super().__init__(linear)


class ClassHead(FullPrecision):
    """Relevance logit of each query; starts at -log(99), a probability of 1%."""

    def __init__(self, width: int) -> None:
        linear = nn.Linear(width, 1)
        nn.init.constant_(linear.bias, -math.log((1 - PRIOR) / PRIOR))
        super().__init__(linear)


class SpanHead(FullPrecision):
    """(centre, width) change of each reference in logits; starts at no change."""

    def __init__(self, width: int) -> None:
        last = nn.Linear(width, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(
            projection(width, width), nn.ReLU(), projection(width, width), nn.ReLU(), last
        )


class ActionnessHead(nn.Module):
    """Logit of the best IoU that a span reaches, read from the clips it covers (TadTR)."""

    def __init__(self, config: SDSTConfig) -> None:
        super().__init__()
        self.bins, self.scale = config.roi_bins, config.roi_scale
        width = config.width
        self.reduce = projection(config.roi_bins * width, width)
        self.score = FullPrecision(
            nn.ReLU(), projection(width, width), nn.ReLU(), projection(width, 1)
        )

    def forward(self, dense: Tensor, spans: Tensor, mask: Tensor) -> Tensor:
        """dense (B, L, F), spans (B, M, 2) centre-width, mask (B, L) -> (B, M) float32.

        The span is widened by `roi_scale`, clamped to the video, and gets no gradient.
        """
        centre, width = spans.detach().unbind(-1)
        edges = to_edges(torch.stack((centre, self.scale * width), -1)).clamp(0, 1)  # (B, M, 2)
        covered = roi_align(dense, edges, mask.sum(1), self.bins).flatten(2)  # (B, M, bins * F)
        logit: Tensor = self.score(self.reduce(covered)).squeeze(-1)
        return logit
