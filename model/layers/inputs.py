"""From frozen features to width F: projections, clip end points, positions, sentence pooling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import NormKernel
from model.layers.dropout import Dropout
from model.layers.fused import layer_norm


class InputProjection(nn.Module):
    """Frozen features to width F: (LayerNorm, dropout, Linear), ReLU, (the same again).

    The first LayerNorm has no gain and bias: the Linear behind it absorbs them, and without them
    nothing has to be differentiated with respect to the wide input.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        dropout: float,
        extra: int = 0,
        norm_kernel: NormKernel = "torch",
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.normalise = nn.LayerNorm(inputs, elementwise_affine=False)
        self.reduce = nn.Linear(inputs, width)
        self.extra = nn.Linear(extra, width, bias=False) if extra else None
        self.refine = nn.Sequential(layer_norm(width, norm_kernel), Dropout(dropout))
        self.output = nn.Linear(width, width)

    def forward(self, features: Tensor, extra: Tensor | None = None) -> Tensor:
        """features (..., X, D) of any float type, extra (..., X, E) if configured -> (..., X, F).

        `extra` are further input channels that skip normalisation and dropout.
        """
        x = self.normalise(features.float()).to(self.reduce.weight.dtype)  # (..., X, D)
        x = self.reduce(self.dropout(x))  # (..., X, F)
        if self.extra is not None and extra is not None:
            x = x + self.extra(extra.to(self.reduce.weight.dtype))
        out: Tensor = self.output(self.refine(F.relu(x)))
        return out


def clip_endpoints(mask: Tensor) -> Tensor:
    """Start and end of each clip as a fraction of its video; mask (B, L) -> (B, L, 2) float32."""
    length = mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    start = torch.arange(mask.shape[1], device=mask.device) / length  # (B, L)
    return torch.stack((start, start + 1 / length), dim=-1)


def sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal code of the positions 0 .. length - 1 -> (length, width) float32."""
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    octave = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = position * torch.exp(octave * (-math.log(10000.0) / width))  # (length, width / 2)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class AttentionPooling(nn.Module):
    """One vector per sentence: a learned softmax-weighted mean of its tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (..., T, F), mask (..., T) True where real -> (..., F) float32."""
        score = self.score(tokens).squeeze(-1).float()  # (..., T)
        # A finite floor: a sentence without tokens pools to the mean instead of NaN.
        weight = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1)
        pooled: Tensor = (weight[..., None] * tokens.float()).sum(-2)
        return pooled
