"""What the losses need of the other ranks: global sums and the global batch, with gradients."""

import torch
import torch.distributed as dist
from torch import Tensor

from model.interface import Negatives


def world_size() -> int:
    """Number of ranks, 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(x: Tensor) -> Tensor:
    """Sum over all ranks, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def extremes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest of `low` and the largest of `high` over all ranks, with gradients: to the rank
    that holds it, from all. Every rank must call it, and go backwards through it."""
    found = torch.stack((-low.amin(), high.amax()))
    if world_size() > 1:
        found = _Largest.apply(found)  # type: ignore[no-untyped-call]  # torch leaves it so
    return -found[0], found[1]


def next_sentences(text: Tensor, mask: Tensor) -> Negatives:
    """The sentence of each pair's successor in the global batch, the first after the last.

    text (B, T, ...), mask (B, T), padded to the same T on every rank, as batches are. Row i of rank
    r of W is row r + W i of the global batch. On one rank the model rolls its batch itself.
    """
    ranks = world_size()
    if ranks == 1:
        return {}
    found = []
    for x in (text, mask):
        parts = gather(x.detach()).chunk(ranks)  # (B, T, ...) of each rank
        rank = dist.get_rank()
        first = torch.cat((parts[0][1:], parts[0][:1]))
        found.append(parts[rank + 1] if rank + 1 < ranks else first)
    return {"other_text": found[0], "other_text_mask": found[1]}


def gather(x: Tensor) -> Tensor:
    """(B, ...) of every rank -> (ranks * B, ...), in rank order; B must be equal on all ranks.

    For losses that every rank computes alike from gathered values only. Each rank then holds the
    whole gradient of its own rows, so nothing is exchanged backwards; it is multiplied by the
    number of ranks, because DistributedDataParallel divides by it.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]  # torch leaves it so
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        parts = [
            torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())
        ]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        ranks = world_size()
        return gradients[0].chunk(ranks)[dist.get_rank()] * ranks


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        largest = x.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        holds = (x == largest).to(x.dtype)
        holders = holds.clone()
        dist.all_reduce(holders)
        ctx.save_for_backward(holds / holders)
        return largest

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        share: Tensor
        (share,) = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's stub lacks it
        whole = gradients[0].clone()
        dist.all_reduce(whole)
        return whole * share
