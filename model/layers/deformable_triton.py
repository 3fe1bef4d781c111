# The arguments of Triton kernels are pointers and compile-time constants, which Python's type
# system has no names for.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Deformable sampling as fused Triton kernels, forward and backward.

Same function as `model.layers.deformable.deformable_sample`, which defines the positions. A program
owns one video, one head and a block of queries (of clips, for the gradient of the values); sums are
kept in float32 and no program writes what another one writes, so the result is reproducible bit
for bit, which atomic additions would not give.

With TRITON_INTERPRET=1 in the environment before import the kernels run on CPU tensors.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALLEST_TILE = 16  # tl.dot takes no shorter axis
TILE = 4096  # elements of a (queries, Dh) tile: 128 threads hold 32 float32 each
INTERPRETED = bool(triton.knobs.runtime.interpret)


@triton.jit
def _position(locations, row, real, valid):
    """Locations at the given rows -> floor(x) as float32 and x - floor(x)."""
    x = tl.load(locations + row, mask=valid, other=0.0) * real - 0.5
    low = tl.floor(x)
    return low, x - low


@triton.jit
def _load_clip(value, clip, real, columns, stride_clip, DH: tl.constexpr):
    """Rows of values (queries, Dh) in float32, 0 where the clip is outside the real ones."""
    inside = (clip >= 0) & (clip < real)
    row = tl.where(inside, clip, 0.0).to(tl.int32)
    return tl.load(
        value + row[:, None] * stride_clip + columns[None, :],
        mask=inside[:, None] & (columns < DH)[None, :],
        other=0.0,
    ).to(tl.float32)


@triton.jit
def forward_kernel(
    value, locations, weights, length, out,
    L, M, H: tl.constexpr, P: tl.constexpr, DH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, m, h] = sum over p of weight * interpolated value; grid (blocks of M, H, B)."""
    head, video = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    valid = query < M
    real = tl.load(length + video).to(tl.float32)
    rows = (video * M + query) * H + head  # of (B, M, H)
    values = value + (video * L * H + head) * DH
    total = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for point in range(P):
        low, high_share = _position(locations, rows * P + point, real, valid)
        weight = tl.load(weights + rows * P + point, mask=valid, other=0.0)
        low_value = _load_clip(values, low, real, columns, H * DH, DH)
        high_value = _load_clip(values, low + 1, real, columns, H * DH, DH)
        total += (weight * (1 - high_share))[:, None] * low_value
        total += (weight * high_share)[:, None] * high_value
    tl.store(
        out + rows[:, None] * DH + columns[None, :],
        total.to(out.dtype.element_ty),
        mask=valid[:, None] & (columns < DH)[None, :],
    )


@triton.jit
def backward_points_kernel(
    value, locations, weights, length, grad_out, grad_locations, grad_weights,
    L, M, H: tl.constexpr, P: tl.constexpr, DH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradients of locations and weights; grid (blocks of M, H, B)."""
    head, video = tl.program_id(1), tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_D)
    valid = query < M
    real = tl.load(length + video).to(tl.float32)
    rows = (video * M + query) * H + head
    values = value + (video * L * H + head) * DH
    gradient = tl.load(
        grad_out + rows[:, None] * DH + columns[None, :],
        mask=valid[:, None] & (columns < DH)[None, :],
        other=0.0,
    ).to(tl.float32)
    for point in range(P):
        low, high_share = _position(locations, rows * P + point, real, valid)
        weight = tl.load(weights + rows * P + point, mask=valid, other=0.0)
        low_value = _load_clip(values, low, real, columns, H * DH, DH)
        high_value = _load_clip(values, low + 1, real, columns, H * DH, DH)
        by_low = tl.sum(low_value * gradient, axis=1)
        by_high = tl.sum(high_value * gradient, axis=1)
        tl.store(
            grad_weights + rows * P + point,
            (1 - high_share) * by_low + high_share * by_high,
            mask=valid,
        )
        tl.store(grad_locations + rows * P + point, weight * real * (by_high - by_low), mask=valid)


@triton.jit
def backward_value_kernel(
    locations, weights, length, grad_out, grad_value,
    L, M, H: tl.constexpr, P: tl.constexpr, DH: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Gradient of the values; grid (blocks of L x blocks of Dh, H, B).

    Linear interpolation gives clip l the share max(0, 1 - |x - l|) of a sample at x, so a block of
    clips collects its gradient as a matrix product with shares made on the fly.
    """
    head, video = tl.program_id(1), tl.program_id(2).to(tl.int64)
    blocks_d: tl.constexpr = (DH + BLOCK_D - 1) // BLOCK_D
    clip = tl.program_id(0) // blocks_d * BLOCK_L + tl.arange(0, BLOCK_L)
    columns = tl.program_id(0) % blocks_d * BLOCK_D + tl.arange(0, BLOCK_D)
    real = tl.load(length + video).to(tl.float32)
    total = tl.zeros((BLOCK_L, BLOCK_D), dtype=tl.float32)
    for start in range(0, M, BLOCK_M):
        query = start + tl.arange(0, BLOCK_M)
        valid = query < M
        rows = (video * M + query) * H + head
        share = tl.zeros((BLOCK_L, BLOCK_M), dtype=tl.float32)
        for point in range(P):
            x = tl.load(locations + rows * P + point, mask=valid, other=0.0) * real - 0.5
            weight = tl.load(weights + rows * P + point, mask=valid, other=0.0)
            distance = tl.abs(x[None, :] - clip[:, None].to(tl.float32))
            share += weight[None, :] * tl.maximum(1 - distance, 0.0)
        gradient = tl.load(
            grad_out + rows[:, None] * DH + columns[None, :],
            mask=valid[:, None] & (columns < DH)[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.dot(share, gradient, input_precision="ieee")
    total = tl.where((clip.to(tl.float32) < real)[:, None], total, 0.0)
    tl.store(
        grad_value + ((video * L + clip[:, None]) * H + head) * DH + columns[None, :],
        total.to(grad_value.dtype.element_ty),
        mask=(clip < L)[:, None] & (columns < DH)[None, :],
    )


def fused_deformable_sample(
    value: Tensor, locations: Tensor, weights: Tensor, length: Tensor
) -> Tensor:
    """`model.layers.deformable.deformable_sample` in one kernel forward and two backward.

    value (B, L, H, Dh), locations and weights (B, M, H, P), length (B,) -> (B, M, H * Dh). Raises
    ValueError for tensors that are not on CUDA.
    """
    if not (value.is_cuda or INTERPRETED):
        raise ValueError(f"kernel triton needs CUDA tensors, got {value.device}: use kernel torch")
    out: Tensor = _sample(
        value.contiguous(),
        locations.float().contiguous(),
        weights.float().contiguous(),
        length.int().contiguous(),
    )
    return out.flatten(2)


def block_sizes(Dh: int) -> tuple[int, int]:
    """(BLOCK_M, BLOCK_D) of the kernels whose tile spans the whole of Dh."""
    block_d = max(SMALLEST_TILE, triton.next_power_of_2(Dh))
    return max(SMALLEST_TILE, min(64, TILE // block_d)), block_d


@torch.library.custom_op("sdst::deformable_sample", mutates_args=())
def _sample(value: Tensor, locations: Tensor, weights: Tensor, length: Tensor) -> Tensor:
    B, L, H, Dh = value.shape
    M, P = locations.shape[1], locations.shape[3]
    out = value.new_empty(B, M, H, Dh)
    block_m, block_d = block_sizes(Dh)
    forward_kernel[(triton.cdiv(M, block_m), H, B)](
        value, locations, weights, length, out, L, M, H, P, Dh, block_m, block_d
    )
    return out


@_sample.register_fake
def _(value: Tensor, locations: Tensor, weights: Tensor, length: Tensor) -> Tensor:
    B, _, H, Dh = value.shape
    return value.new_empty(B, locations.shape[1], H, Dh)


@torch.library.custom_op("sdst::deformable_sample_backward", mutates_args=())
def _sample_backward(
    value: Tensor, locations: Tensor, weights: Tensor, length: Tensor, grad_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B, L, H, Dh = value.shape
    M, P = locations.shape[1], locations.shape[3]
    grad_out = grad_out.contiguous()
    grad_value, grad_locations, grad_weights = (
        torch.empty_like(x) for x in (value, locations, weights)
    )
    block_m, block_d = block_sizes(Dh)
    backward_points_kernel[(triton.cdiv(M, block_m), H, B)](
        value, locations, weights, length, grad_out, grad_locations, grad_weights,
        L, M, H, P, Dh, block_m, block_d,
    )  # fmt: skip
    block_d = min(block_d, 64)
    blocks = triton.cdiv(L, 32) * triton.cdiv(Dh, block_d)
    backward_value_kernel[(blocks, H, B)](
        locations, weights, length, grad_out, grad_value, L, M, H, P, Dh, 32, 32, block_d
    )
    return grad_value, grad_locations, grad_weights


@_sample_backward.register_fake
def _(
    value: Tensor, locations: Tensor, weights: Tensor, length: Tensor, grad_out: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    return *_sample_backward(*ctx.saved_tensors, grad_out), None


_sample.register_autograd(_backward, setup_context=_save)
