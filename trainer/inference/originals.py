"""What would the scripts of Moment-DETR and QD-DETR have written for a prediction?

For comparing with their files only. They differ from what is right here: windows are measured by
the annotated duration and not by the clips, cut at 150 s whatever the video, rounded to 2 s with
halves to the even number, and may be empty; saliency goes through half precision.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.annotations import Annotation
from model.spans import to_edges
from trainer.config import PostprocessConfig

LONGEST, UNIT, DECIMALS = 150.0, 2.0, 4
COMPARED = 10

Window = list[float]


def original_row(
    annotation: Annotation,
    spans: Tensor,
    scores: Tensor,
    saliency: NDArray[np.float64],
    config: PostprocessConfig,
) -> dict[str, object]:
    """The submission's row of spans (M, 2) centre-width in [0, 1], scores (M,) and saliency (L,).

    With `suppression: hard` theirs follows: of the ten best, windows are dropped whose IoU with a
    better one, over the hull of both, is above `threshold`.
    """
    edges = to_edges(spans.detach().float().cpu()) * annotation.duration
    found = [[*map(float, edge), float(score)] for edge, score in zip(edges, scores, strict=True)]
    found.sort(key=lambda window: -window[2])  # stable
    windows = [_rounded(window) for window in found]
    if config.suppression == "hard":
        windows = _suppressed(windows, config.threshold)
    return {
        "qid": annotation.qid,
        "query": annotation.query,
        "vid": annotation.vid,
        "pred_relevant_windows": windows,
        "pred_saliency_scores": [float(score) for score in saliency.astype(np.float16)],
    }


def _rounded(window: Window) -> Window:
    start, end, score = (float(f"{value:.{DECIMALS}f}") for value in window)
    edges = (round(min(max(edge, 0.0), LONGEST) / UNIT) * UNIT for edge in (start, end))
    return [*edges, score]


def _suppressed(windows: list[Window], threshold: float) -> list[Window]:
    left = windows[:COMPARED]
    kept: list[Window] = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [window for window in left if _iou(best, window) <= threshold]
    return kept


def _iou(a: Window, b: Window) -> float:
    """Over the hull of both: two windows that do not meet have none."""
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / hull if hull else 0.0
