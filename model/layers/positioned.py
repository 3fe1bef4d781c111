"""Transformer layers of the DETR family: positions are added to queries and keys, not to values."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Backend
from model.layers.attention import attention
from model.layers.blocks import projection
from model.layers.dropout import Dropout

EPSILON = 1e-6


class PositionedAttention(nn.Module):
    """Multi-head attention whose queries, keys and values may come from different places."""

    def __init__(self, width: int, heads: int, dropout: float, backend: Backend) -> None:
        super().__init__()
        self.heads, self.rate, self.backend = heads, dropout, backend
        self.query, self.key, self.value, self.output = (projection(width, width) for _ in "qkvo")

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """query (B, X, F), key and value (B, Y, F), mask (B, Y) True where real -> (B, X, F)."""
        parts = (self.query(query), self.key(key), self.value(value))
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts
        )  # (B, H, X or Y, Dh) each
        rate = self.rate if self.training else 0.0
        mixed = attention(query, key, value, mask, self.backend, rate)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (B, X, F)
        return out


class Transition(nn.Sequential):
    """F -> hidden -> F, with a ReLU, or a slope that is learned, and dropout between."""

    def __init__(self, width: int, hidden: int, dropout: float, learned_slope: bool) -> None:
        activation = LearnedSlope() if learned_slope else nn.ReLU()
        super().__init__(
            projection(width, hidden), activation, Dropout(dropout), projection(hidden, width)
        )


class LearnedSlope(nn.PReLU):
    """nn.PReLU of one slope. On a CPU torch's takes twice the time of this sum of two lines."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same."""
        if not x.is_cpu or torch.compiler.is_compiling():
            return super().forward(x)
        out: Tensor = _Sloped.apply(x, self.weight.to(x.dtype))  # type: ignore[no-untyped-call]
        return out


class _Sloped(torch.autograd.Function):
    """x where it is positive, else slope * x; autograd by itself would keep F.relu(x) too."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return torch.lerp(F.relu(x), x, slope)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors  # type: ignore[attr-defined]
        of_slope = (gradients[0] * x.clamp(max=0)).sum().view_as(slope)
        return torch.where(x > 0, gradients[0], gradients[0] * slope), of_slope


class EncoderLayer(nn.Module):
    """Post-norm self-attention and feed-forward network."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        dropout: float,
        learned_slope: bool,
        backend: Backend = "sdpa",
    ) -> None:
        super().__init__()
        self.attention = PositionedAttention(width, heads, dropout, backend)
        self.transition = Transition(width, hidden, dropout, learned_slope)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        """x and position (B, X, F), mask (B, X) -> (B, X, F)."""
        placed = x + position
        x = self.first_norm(x + self.dropout(self.attention(placed, placed, x, mask)))
        out: Tensor = self.second_norm(x + self.dropout(self.transition(x)))
        return out


class FeatureProjection(nn.Module):
    """Frozen features, with the clips' end points, to width F: twice LayerNorm, dropout, Linear,
    a ReLU after the first."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.LayerNorm(inputs), Dropout(dropout), nn.Linear(inputs, width), nn.ReLU()
        )
        self.refine = nn.Sequential(nn.LayerNorm(width), Dropout(dropout), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """features (B, X, D) -> (B, X, F)."""
        out: Tensor = self.refine(self.reduce(features))
        return out


def clip_positions(mask: Tensor, width: int) -> Tensor:
    """Sine code of each clip's place in its own video: mask (B, L) -> (B, L, width) float32.

    The number of clips up to and with it, over their number, on a circle; padding repeats the last.
    """
    count = mask.cumsum(1, dtype=torch.float32)  # (B, L)
    angle = 2 * math.pi * count / (count[:, -1:] + EPSILON)
    return sine_code(angle, width)


def sine_code(angle: Tensor, width: int) -> Tensor:
    """(...) angles -> (..., width): sine and cosine of angle / 10000^(2 floor(c / 2) / width),
    interleaved."""
    channel = torch.arange(width, device=angle.device, dtype=torch.float32)
    frequency = 10000 ** (-2 * (channel / 2).floor() / width)
    turned = angle[..., None] * frequency  # (..., width)
    return torch.stack((turned[..., 0::2].sin(), turned[..., 1::2].cos()), -1).flatten(-2)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)), neither side below 1e-3."""
    return (x.clamp(min=1e-3) / (1 - x).clamp(min=1e-3)).log()


def perceptron(*widths: int) -> list[nn.Module]:
    """Linear layers from each width to the next, ReLUs between."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)]
    return layers[1:]


def rolled(x: Tensor) -> Tensor:
    """Each row's successor in the batch, the first after the last."""
    return torch.cat((x[1:], x[:1]))
