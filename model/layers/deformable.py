"""Sampling a clip sequence at fractional positions: the core of deformable attention, in 1-D.

A location is a fraction of the real clips of its video, so padding never matters. Clip i covers
[i, i + 1] / length and has its value at its centre: location `loc` falls on x = loc * length - 0.5
among the clip indices (align_corners = False). Values are interpolated linearly between floor(x)
and floor(x) + 1, and a neighbour outside the real clips counts as 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Kernel


def deformable_sample(
    value: Tensor,
    locations: Tensor,
    weights: Tensor,
    length: Tensor,
    kernel: Kernel = "torch",
) -> Tensor:
    """Weighted sum of the values at P locations per query and head (Deformable DETR, eq. 2).

    value (B, L, H, Dh), locations and weights (B, M, H, P), length (B,) number of real clips
    -> (B, M, H * Dh) in the dtype of `value`. `kernel` "triton" does it in one fused kernel each
    way and needs CUDA; see `check_kernel`.
    """
    if kernel == "triton":
        from model.layers.deformable_triton import fused_deformable_sample

        return fused_deformable_sample(value, locations, weights, length)
    if kernel != "torch":
        raise _unknown(kernel)
    # The samples of a query are a sparse row over the clips. Building it as a dense (M, L) matrix
    # and multiplying costs less, forward and backward, than gathering M * P * 2 rows of values:
    # 7 ms and 36 ms for B 32, L 75, H 8, Dh 32, M 30, P 4 on one thread.
    B, L, H, _ = value.shape
    clip, share = _neighbours(locations, length)  # (B, M, H, P, 2)
    share = (share * weights[..., None]).transpose(1, 2).flatten(3)  # (B, H, M, 2P)
    clip = clip.transpose(1, 2).flatten(3)  # (B, H, M, 2P)
    matrix = share.new_zeros(B, H, locations.shape[1], L).scatter_add(3, clip, share)
    out = matrix.to(value.dtype) @ value.transpose(1, 2)  # (B, H, M, Dh)
    return out.transpose(1, 2).flatten(2)  # (B, M, H * Dh)


def sample_linear(
    memory: Tensor, locations: Tensor, length: Tensor, kernel: Kernel = "torch"
) -> Tensor:
    """The memory at plain locations: memory (B, L, F), locations (B, M, E), length (B,)
    -> (B, M, E, F) in the dtype of `memory`. `kernel` as in `deformable_sample`."""
    B, L, width = memory.shape
    if kernel == "triton":  # one head that is as wide as the memory, one point
        points = locations.flatten(1)[..., None, None]  # (B, M * E, 1, 1)
        ones = torch.ones_like(points)
        read = deformable_sample(memory[:, :, None], points, ones, length, kernel)
        return read.view(*locations.shape, width)
    if kernel != "torch":
        raise _unknown(kernel)
    clip, share = _neighbours(locations, length)  # (B, M, E, 2)
    row = clip + L * torch.arange(B, device=clip.device)[:, None, None, None]
    out = F.embedding_bag(
        row.view(-1, 2),
        # In the precision of the locations: CUDA has no gradient of the shares in bfloat16.
        memory.reshape(B * L, width).to(share.dtype),
        per_sample_weights=share.view(-1, 2),
        mode="sum",
    )  # (B * M * E, F)
    return out.view(*locations.shape, width).to(memory.dtype)


def check_kernel(name: str) -> None:
    """Raise ImportError with the install command if the kernel's package is missing."""
    if name == "triton":
        try:
            import triton  # noqa: F401  (only whether it imports)
        except ImportError as error:
            raise ImportError("kernel triton is not installed: pip install triton") from error
    elif name != "torch":
        raise _unknown(name)


def _unknown(name: str) -> ValueError:
    return ValueError(f"unknown deformable sampling kernel {name!r}: choose torch or triton")


def _neighbours(locations: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Locations (B, ...) -> the two clips around each and their shares, (B, ..., 2) both.

    A neighbour outside the real clips is given as clip 0 with share 0 and no gradient. A location
    that is NaN keeps a NaN share, so that a diverged model shows.
    """
    real = length.view(-1, *[1] * (locations.dim() - 1))  # (B, 1, ...)
    x = locations * real - 0.5
    low = x.detach().floor()
    high_share = x - low
    clip = torch.stack((low, low + 1), dim=-1)
    share = torch.stack((1 - high_share, high_share), dim=-1)
    outside = (clip < 0) | (clip >= real[..., None])
    return clip.masked_fill(outside, 0).nan_to_num(0).long(), share.masked_fill(outside, 0.0)
