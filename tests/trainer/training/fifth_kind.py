"""A fifth kind of model, as small as one can be; model/README.md shows it."""

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.config.base import ObjectiveConfig
from model.interface import GroundingModel, Objective, Prediction, Targets, weighted


@dataclass(frozen=True)
class CentreConfig(ModelConfig):
    """Attributes:
    kind: centre
    video_width: width Dv of the frozen video features
    text_width: width Dt of the frozen text features
    layers: the stored feature layer that is read
    queries: one, for all videos
    """

    KERNELS = ()

    kind: Literal["centre"] = "centre"
    video_width: int = 4
    text_width: int = 4
    layers: tuple[int, ...] = (-1,)
    queries: int = 1


@dataclass(frozen=True)
class CentreLossConfig(ObjectiveConfig):
    """Attributes:
    span: weight of the distance to the first window
    saliency: weight of the squared error of the saliency
    """

    span: float = 1.0
    saliency: float = 1.0


class Centre(GroundingModel):
    """One learned span for all videos, and a clip's saliency from the clip alone."""

    config: CentreConfig

    def __init__(self, config: CentreConfig) -> None:
        super().__init__()
        self.config = config
        self.span = nn.Parameter(torch.zeros(2))
        self.score = nn.Linear(config.video_width, 1)

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor
    ) -> Prediction:
        """See `GroundingModel`."""
        saliency = self.score(video[:, :, self.config.layers[0]]).squeeze(-1).float()  # (B, L)
        best = saliency.masked_fill(~video_mask, -torch.inf).amax(1)  # (B,)
        return Prediction(
            logits=best[None, :, None],
            spans=self.span.sigmoid().expand(1, len(video), 1, 2),
            saliency=saliency,
            queries=best.new_zeros(len(video), 1).long(),
            **self.judge_existence(video, video_mask, text, text_mask),
        )


class CentreObjective(Objective):
    """Distance of the span to the first window, and of the saliency to the annotated one."""

    def __init__(self, config: CentreLossConfig) -> None:
        super().__init__()
        self.config = config

    def compare(self, prediction: Prediction, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Objective`."""
        distance = (prediction.spans[0, :, 0] - targets.windows[:, 0]).abs().mean(1)  # (B,)
        wrong = prediction.saliency.sigmoid() - targets.saliency  # (B, L)
        relevance = prediction.logits[0].sigmoid() - 1  # (B, 1)
        losses = {
            "span": torch.where(targets.window_mask[:, 0], distance, 0.0).mean(),
            "saliency": (wrong[targets.video_mask] ** 2).mean() + (relevance**2).mean(),
        }
        return weighted(losses, {name: asdict(self.config)[name] for name in losses})
