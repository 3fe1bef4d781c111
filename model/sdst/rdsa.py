"""Reference-based Deformable Self-Attention (RDSA) and the deformable attention it rests on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import SDSTConfig
from model.layers.blocks import projection
from model.layers.deformable import deformable_sample, sample_linear


class DeformableAttention(nn.Module):
    """Each reference reads P fractional positions per head of a memory (TadTR, one level).

    A vector per reference predicts offsets and weights: loc = centre + offset / P * width / 2, so
    that |offset| = P reaches the edge of the reference. At the start head h looks at
    cos(4 pi h / H) * (p + 1) with equal weights. With `pure_init` this hand-made prior is left
    out: the offset projection starts like any other Linear, offsets near zero.
    """

    def __init__(self, config: SDSTConfig, pure_init: bool = False) -> None:
        super().__init__()
        self.heads, self.points, self.kernel = config.heads, config.points, config.deformable_kernel
        self.offsets = projection(config.width, config.heads * config.points)
        self.weights = projection(config.width, config.heads * config.points)
        self.value = projection(config.width, config.width)
        self.output = projection(config.width, config.width)
        nn.init.zeros_(self.weights.weight)
        if not pure_init:
            nn.init.zeros_(self.offsets.weight)
            angle = 4 * math.pi * torch.arange(config.heads) / config.heads
            fan = angle.cos()[:, None] * torch.arange(1, config.points + 1)  # (H, P)
            self.offsets.bias.data = fan.flatten()

    def forward(self, source: Tensor, reference: Tensor, memory: Tensor, length: Tensor) -> Tensor:
        """source (B, M, F), reference (B, M, 2) float32 centre-width, memory (B, L, F),
        length (B,) real clips -> (B, M, F)."""
        heads = (self.heads, self.points)
        centre, width = reference[:, :, None, None].unbind(-1)  # (B, M, 1, 1) each
        offsets = self.offsets(source).float().unflatten(-1, heads)  # (B, M, H, P)
        weights = self.weights(source).float().unflatten(-1, heads).softmax(-1)  # (B, M, H, P)
        locations = centre + offsets * (width / (2 * self.points))  # (B, M, H, P)
        value = self.value(memory).unflatten(-1, (self.heads, -1))  # (B, L, H, Dh)
        read = deformable_sample(value, locations, weights, length, self.kernel)  # (B, M, F)
        out: Tensor = self.output(read.to(value.dtype))
        return out


class ReferenceQueries(nn.Module):
    """What RDSA adds: the vectors that predict offsets and weights come from the memory itself.

    A decoder query is blind to the memory, and offsets predicted from it collapse to their initial
    values. Here a depthwise convolution over the clips is read at the start, centre and end of
    each reference and the three are projected together.
    """

    def __init__(self, config: SDSTConfig) -> None:
        super().__init__()
        self.kernel = config.deformable_kernel
        self.mix = nn.Conv1d(config.width, config.width, 3, padding=1, groups=config.width)
        self.project = projection(3 * config.width, config.width)

    def forward(self, reference: Tensor, memory: Tensor, mask: Tensor, length: Tensor) -> Tensor:
        """reference (B, M, 2), memory (B, L, F), mask (B, L), length (B,) -> (B, M, F)."""
        real = memory * mask[..., None]  # padding must look like the end of the video
        # The same convolution over an image of height 1, channels last: clips stay where they lie,
        # while a 1-D convolution would transpose them there and back, at three times the cost.
        image = real[:, None].permute(0, 3, 1, 2)  # (B, F, 1, L)
        kernel = self.mix.weight.flatten(1).view(-1, 1, 1, 3)  # (F, 1, 1, 3)
        mixed = F.conv2d(image, kernel, self.mix.bias, padding=(0, 1), groups=len(kernel))
        mixed = mixed[:, :, 0].transpose(1, 2)  # (B, L, F)
        centre, width = reference.unbind(-1)
        points = torch.stack((centre - width / 2, centre, centre + width / 2), -1)  # (B, M, 3)
        read = sample_linear(mixed, points, length, self.kernel).flatten(2)  # (B, M, 3F)
        out: Tensor = self.project(read.to(memory.dtype))
        return out
