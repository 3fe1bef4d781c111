"""The pyramid: clips at strides 1, 2, 4, 8, the points between which moments are read, and heads.

A level of a video has as many points as its stride fits into the video, whatever the padding: its
features are zero beyond, before every convolution, as at the end of the video alone.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers.positioned import perceptron


class Pyramid(nn.Module):
    """Level p halves the clips p times: convolution of 2 at stride 2, LayerNorm, ReLU."""

    def __init__(self, width: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = strides
        self.levels = nn.ModuleList(
            nn.ModuleList(Halving(width) for _ in range(level)) for level in range(len(strides))
        )

    def forward(
        self, clips: Tensor, mask: Tensor, see_padding: bool
    ) -> list[tuple[Tensor, Tensor]]:
        """clips (B, L, F) after a ReLU, mask (B, L) -> for each level its features (B, Lp, F) and
        which of them are real (B, Lp).

        With `see_padding` nothing is set to zero, a point is real if any of its clips is, and a
        level longer than the padded video is left out.
        """
        levels = []
        for level, stride in zip(self.levels, self.strides, strict=True):
            if see_padding and stride > clips.shape[1]:
                break
            x, real = clips, mask
            assert isinstance(level, Iterable)  # a list of modules
            for halving in level:
                x = halving(x)
                first, second = real[:, 0::2][:, : x.shape[1]], real[:, 1::2]
                real = first | second if see_padding else first & second
                x = x if see_padding else x * real[..., None]
            levels.append((x, real))
        return levels


class Halving(nn.Module):
    """Convolution of 2 at stride 2, LayerNorm, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.merge = nn.Conv1d(width, width, 2, stride=2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, F) -> (B, floor(L / 2), F)."""
        return F.relu(self.norm(self.merge(x.transpose(1, 2)).transpose(1, 2)))


class Convolutions(nn.Module):
    """Convolutions over clips with ReLUs between; padding stays zero before each."""

    def __init__(self, widths: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
            for inputs, outputs in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x (B, X, F), real (B, X) -> (B, X, outputs)."""
        for number, layer in enumerate(self.layers):
            if number:
                x = F.relu(x)
            x = layer((x * real[..., None]).transpose(1, 2)).transpose(1, 2)
        return x


class ScoreHead(nn.Module):
    """Convolutions, then a perceptron of half the width: a logit for each point."""

    def __init__(self, width: int, kernel: int, convolutions: int, layers: int) -> None:
        super().__init__()
        self.mix = Convolutions((width,) * (convolutions + 1), kernel)
        self.score = nn.Sequential(*perceptron(width, *[width // 2] * (layers - 1), 1))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x (B, X, F), real (B, X) -> (B, X)."""
        score: Tensor = self.score(F.relu(self.mix(x, real))).squeeze(-1)
        return score


class MixedScores(nn.Module):
    """FlashVTG: class of every level apart, confidence of all levels in one row, and their mix.

    The confidence's convolution crosses the borders between levels; real points come first.
    """

    def __init__(self, width: int, kernel: int, convolutions: int, layers: int) -> None:
        super().__init__()
        self.classify = ScoreHead(width, kernel, convolutions, layers)
        self.confide = ScoreHead(width, kernel, convolutions, layers)
        self.mix = nn.Parameter(torch.tensor(0.5))

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
        """-> (B, N) logits."""
        classes = torch.cat([self.classify(x, real) for x, real in levels], 1)  # (B, N)
        row = torch.cat([x for x, _ in levels], 1)  # (B, N, F)
        real = torch.cat([each for _, each in levels], 1)  # (B, N)
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)  # (B, N)
        packed = row.take_along_dim(order[..., None], 1)
        scores = self.confide(packed, real.gather(1, order))
        confidence = scores.gather(1, order.argsort(1))
        mixed: Tensor = self.mix * classes + (1 - self.mix) * confidence
        return mixed


class ConvolutionalScores(nn.Module):
    """R2-Tuning: two convolutions over every level."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classify = Convolutions((width, width, 1), 3)

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
        """-> (B, N) logits."""
        return torch.cat([self.classify(x, real).squeeze(-1) for x, real in levels], 1)


class Boundaries(nn.Module):
    """How far each point's moment reaches to both sides, in strides: exp of two convolutions,
    times a coefficient for each level."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.reach = Convolutions((width, width, 2), 3)
        self.scale = nn.Parameter(torch.ones(levels))

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> Tensor:
        """-> (B, N, 2) positive."""
        reaches = [self.reach(x, real).exp() for x, real in levels]
        return torch.cat([self.scale[p] * reach for p, reach in enumerate(reaches)], 1)


def points(lengths: list[int], strides: tuple[int, ...], device: torch.device) -> Tensor:
    """Of each point its clip, the least and the largest reach of its level in clips, and its
    stride: (N, 4) float32. `lengths` are the points of each level."""
    rows = []
    for level, length in enumerate(lengths):
        stride = float(strides[level])
        least = 0.0 if level == 0 else 2.0 * strides[level - 1]
        largest = float("inf") if level == len(strides) - 1 else 2.0 * stride
        place = torch.arange(length, device=device, dtype=torch.float32) * stride
        facts = [torch.full_like(place, fact) for fact in (least, largest, stride)]
        rows.append(torch.stack((place, *facts), 1))
    return torch.cat(rows)
