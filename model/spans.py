"""Arithmetic on time spans: (centre, width) and (start, end) forms, intersection over union."""

import torch
from torch import Tensor


def to_edges(spans: Tensor) -> Tensor:
    """(..., 2) centre, width -> (..., 2) start, end."""
    centre, width = spans.unbind(-1)
    return torch.stack((centre - width / 2, centre + width / 2), dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of (start, end) spans; shapes broadcast, the last axis is consumed.

    Two empty spans have IoU 0, an inverted span has length 0. Computed in float32 at least: in
    bfloat16 the edges of a 150 s video are only good to half a second.
    """
    a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
    a_start, a_end = a.unbind(-1)
    b_start, b_end = b.unbind(-1)
    overlap = (torch.minimum(a_end, b_end) - torch.maximum(a_start, b_start)).clamp(min=0)
    union = (a_end - a_start).clamp(min=0) + (b_end - b_start).clamp(min=0) - overlap
    return torch.where(union > 0, overlap / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., M, 2) and (..., N, 2) start, end -> (..., M, N)."""
    return iou(a.unsqueeze(-2), b.unsqueeze(-3))


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the share of the hull that neither (start, end) span covers; shapes as `iou`.

    In [-1, 1] (Rezatofighi et al., CVPR 2019): spans that do not meet are told apart by their gap.
    """
    a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    overlap = torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])
    lengths = (a[..., 1] - a[..., 0]).clamp(min=0) + (b[..., 1] - b[..., 0]).clamp(min=0)
    union = lengths - overlap.clamp(min=0)
    return iou(a, b) - (hull - union) / hull.clamp(min=torch.finfo(hull.dtype).tiny)
