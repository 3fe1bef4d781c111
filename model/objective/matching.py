"""Which query answers for which ground-truth window: minimum-cost bipartite matching (DETR)."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model.config import MatchingCost
from model.config.base import MatchingKernel
from model.spans import pairwise_iou, to_edges


@torch.no_grad()
def matching_cost(logits: Tensor, spans: Tensor, windows: Tensor, cost: MatchingCost) -> Tensor:
    """Cost of giving window n to query m after step s: logits (S, B, M), spans (S, B, M, 2) and
    windows (B, N, 2) in centre-width -> (S, B, M, N) float32."""
    logits, spans, windows = logits.float(), spans.float(), windows.float()
    p = logits.sigmoid()
    # What the focal loss would change if this query became a positive.
    positive = cost.alpha * (1 - p) ** cost.gamma * -torch.nn.functional.logsigmoid(logits)
    negative = (1 - cost.alpha) * p**cost.gamma * -torch.nn.functional.logsigmoid(-logits)
    distance = (spans[..., None, :] - windows[None, :, None]).abs().sum(-1)  # (S, B, M, N)
    overlap = pairwise_iou(to_edges(spans), to_edges(windows))  # (S, B, M, N)
    relevance = (positive - negative)[..., None]  # (S, B, M, 1)
    return cost.classification * relevance + cost.l1 * distance - cost.iou * overlap


def match(
    logits: Tensor,
    spans: Tensor,
    windows: Tensor,
    window_mask: Tensor,
    cost: MatchingCost,
    kernel: MatchingKernel = "scipy",
) -> Tensor:
    """Index of the window given to each query, -1 for none: shapes as `matching_cost`,
    window_mask (B, N) True where real -> (S, B, M) int64 on the same device.

    Every query gets at most one window and every window at most one query; where there are more
    windows than queries, the dearest windows stay unmatched. A non-finite cost counts as very dear
    instead of failing here: a diverged loss is for the training loop to see, on all ranks together.
    """
    return assign(matching_cost(logits, spans, windows, cost), window_mask, kernel)


def answered(window: Tensor, windows: Tensor) -> Tensor:
    """The window of each query, any where it has none: window (S, B, M) as of `match`, windows
    (B, N, 2) -> (S, B, M, 2)."""
    index = window.clamp(min=0)[..., None].expand(-1, -1, -1, 2)
    return windows.expand(len(window), -1, -1, -1).gather(2, index)


def assign(costs: Tensor, window_mask: Tensor, kernel: MatchingKernel = "scipy") -> Tensor:
    """The cheapest assignment of costs (S, B, M, N): see `match`.

    `kernel` "triton" finds it where the costs are and needs CUDA; see `check_matching`. Of several
    that are as cheap the two may choose different ones.
    """
    costs = costs.nan_to_num(1e6, 1e6, -1e6)
    # The mask travels along with the costs.
    costs = costs.masked_fill(~window_mask[None, :, None], torch.inf)
    if kernel == "triton":
        from model.objective.matching_triton import assign_on_device

        return assign_on_device(costs)
    assigned: Tensor = _assign(costs)
    return assigned


def check_matching(kernel: str) -> None:
    """Raise ImportError with the install command if the kernel's package is missing."""
    if kernel == "triton":
        try:
            import triton  # noqa: F401  (only whether it imports)
        except ImportError as error:
            raise ImportError(
                "loss.matching_kernel triton is not installed: pip install triton"
            ) from error
    elif kernel != "scipy":
        raise ValueError(f"unknown matching kernel {kernel!r}: choose scipy or triton")


@torch.library.custom_op("sdst::assign", mutates_args=())
def _assign(costs: Tensor) -> Tensor:
    """The cheapest assignment of costs (S, B, M, N), infinite where no window is -> (S, B, M).

    All steps and pairs cross to the host in one copy. An operator of its own, so that torch.compile
    finds one call here and not the end of its graph.
    """
    host = costs.cpu().numpy()  # (S, B, M, N)
    assigned = np.full(host.shape[:3], -1, dtype=np.int64)  # (S, B, M)
    for step, pair in np.ndindex(*host.shape[:2]):
        real = np.flatnonzero(np.isfinite(host[step, pair, 0]))
        queries, chosen = linear_sum_assignment(host[step, pair][:, real])
        assigned[step, pair, queries] = real[chosen]
    return torch.from_numpy(assigned).to(costs.device, non_blocking=True)


@_assign.register_fake
def _(costs: Tensor) -> Tensor:
    return costs.new_empty(costs.shape[:3], dtype=torch.int64)
