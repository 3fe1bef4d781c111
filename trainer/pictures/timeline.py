"""One query on the time axis of its video: saliency, true and predicted windows."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.annotations import Annotation
from data_pipeline.rows import HIGHLIGHT_CLIP


@dataclass(frozen=True)
class Timeline:
    """What is known about one sentence in one video.

    `windows` are (start, end, score) in seconds, best first; `saliency` one score per clip of
    `clip_length` seconds. `truth` and `true_saliency` (mean of the annotators, 0..4, per clip of
    `true_clip_length` seconds) are None where nobody annotated them.
    """

    query: str
    duration: float
    windows: tuple[tuple[float, float, float], ...]
    saliency: NDArray[np.float32] | None = None
    clip_length: float = HIGHLIGHT_CLIP
    truth: tuple[tuple[float, float], ...] | None = None
    true_saliency: NDArray[np.float32] | None = None
    true_clip_length: float = HIGHLIGHT_CLIP

    def iou(self) -> float:
        """IoU of the first window with the true window it fits best; 0 where either is missing."""
        if not self.windows or not self.truth:
            return 0.0
        start, end, _ = self.windows[0]
        return max(iou(start, end, *window) for window in self.truth)

    def clip_edges(self, clips: int, clip_length: float) -> NDArray[np.float64]:
        """(clips + 1,) seconds where clips begin and end; the last one ends with the video."""
        return np.clip(np.arange(clips + 1, dtype=np.float64) * clip_length, 0, self.duration)

    def outline(self, scores: NDArray[np.float32], clip_length: float) -> list[dict[str, float]]:
        """Points of a curve that keeps each clip's score `y` from its time `x` to the next one."""
        edges = self.clip_edges(len(scores), clip_length)
        heights = np.append(scores, scores[-1])
        return [
            {"x": round(float(x), 3), "y": round(float(y), 4)}
            for x, y in zip(edges, heights, strict=True)
        ]


def iou(a_start: float, a_end: float, b_start: float, b_end: float) -> float:
    """Overlap of two windows by what they cover together, in [0, 1]."""
    overlap = min(a_end, b_end) - max(a_start, b_start)
    hull = max(a_end, b_end) - min(a_start, b_start)
    return max(overlap, 0.0) / hull if hull > 0 else 0.0


def annotated_saliency(annotation: Annotation) -> NDArray[np.float32] | None:
    """(clips,) mean of the annotators' scores, 0 outside the relevant clips; None without any."""
    if annotation.saliency is None:
        return None
    clips = max(1, math.ceil(annotation.duration / annotation.clip_length - 0.01))
    scores = np.zeros(clips, np.float32)
    for clip, votes in annotation.saliency.items():
        if 0 <= clip < clips:
            scores[clip] = sum(votes) / len(votes)
    return scores


def clip_length_of(scores: int, duration: float) -> float:
    """Seconds that one of `scores` scores covers: 2 s as in submissions, else equal parts."""
    if scores in (
        int(duration / HIGHLIGHT_CLIP),
        math.ceil(duration / HIGHLIGHT_CLIP - 0.01),
    ):
        return HIGHLIGHT_CLIP
    return duration / scores


def clock(seconds: float) -> str:
    """3.5 -> '3.5 s', 75 -> '1:15', 3675 -> '1:01:15': how people write a position in a video."""
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def clock_ticks(duration: float, about: int = 6) -> list[float]:
    """Round times within the video, about as many as asked; from a second on a clock's steps."""
    step = duration / about
    if not (math.isfinite(step) and step > 0):
        return [0.0]
    clock_steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
    if 1 <= step <= clock_steps[-1]:
        step = next(nice for nice in clock_steps if nice >= step)
    else:
        power = 10 ** math.floor(math.log10(step))
        step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= step * 0.999)
    return [i * step for i in range(math.floor(duration / step + 1e-9) + 1)]
