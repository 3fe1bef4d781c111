"""1-D RoIAlign in plain PyTorch: mean features of equal bins of a span, as one matrix product."""

import torch
from torch import Tensor


def roi_align(memory: Tensor, edges: Tensor, length: Tensor, bins: int) -> Tensor:
    """Features (B, L, F) of the clips under spans (B, M, 2) start-end in [0, 1] -> (B, M, bins, F).

    Each span is cut in equal bins and each bin averages ceil(span in clips / bins) linearly
    interpolated samples, as RoIAlign does with its adaptive grid. Clip i has its centre at
    (i + 0.5) / length; a sample before the first or after the last centre takes that clip. The
    number of real clips is `length` (B,), clips after it are never read. No gradient reaches the
    spans: averaging is linear in the memory, so its weights form a (bins x L) matrix per span,
    built in time linear in L, and the rest is one batched matrix product.
    """
    B, L, _ = memory.shape
    M = edges.shape[1]
    edges, real = edges.detach().float(), length.float()[:, None]  # (B, M, 2), (B, 1)
    start, end = (edges * real[..., None]).unbind(-1)  # (B, M) in clips
    size = (end - start) / bins  # clips per bin
    samples = size.ceil().clamp(min=1)  # per bin

    most = max(1, -(-L // bins))
    j = torch.arange(most, device=memory.device)  # (J,)
    bin_index = torch.arange(bins, device=memory.device)[:, None]  # (bins, 1)
    within = (j + 0.5) / samples[..., None, None]  # (B, M, 1, J), in bins
    x = start[..., None, None] + (bin_index + within) * size[..., None, None]  # (B, M, bins, J)
    x = (x - 0.5).clamp(min=0).minimum((real - 1)[..., None, None])
    weight = torch.where(j < samples[..., None, None], 1 / samples[..., None, None], 0.0)

    low = x.floor()
    high_share = (x - low) * weight  # (B, M, bins, J)
    index = torch.cat((low, low + 1), -1).long().clamp(0, L - 1)  # (B, M, bins, 2J)
    share = torch.cat((weight - high_share, high_share), -1)
    matrix = share.new_zeros(B, M, bins, L).scatter_add_(-1, index, share)
    return (matrix.flatten(1, 2).to(memory.dtype) @ memory).view(B, M, bins, -1)
