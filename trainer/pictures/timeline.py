"""One query on the time axis of its video: film strip, saliency, true and predicted windows.

`Timeline` holds what is drawn. The report's template draws it in HTML, `draw_timelines` as a
picture for people who ran a prediction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from data_pipeline.annotations import HIGHLIGHT_CLIP, Annotation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRIP_INCHES = 9.6  # width of the film strip in a picture 11 inches wide

DOUBTFUL = 0.1  # a score below which even the best window is drawn pale

# Blue for what the model says, amber for what people said: distinct to colour-blind readers too.
PREDICTED, TRUE, INK, MUTED, LINE = "#2364aa", "#c77700", "#1c2126", "#5b6570", "#e2e0da"


@dataclass(frozen=True)
class Timeline:
    """What is known about one sentence in one video.

    `windows` are (start, end, score) in seconds, best first; `saliency` one score per clip of
    `clip_length` seconds. `truth` and `true_saliency` (mean of the annotators, 0..4, per clip of
    `HIGHLIGHT_CLIP` seconds) are None where nobody annotated them.
    """

    query: str
    duration: float
    windows: tuple[tuple[float, float, float], ...]
    saliency: NDArray[np.float32] | None = None
    clip_length: float = HIGHLIGHT_CLIP
    truth: tuple[tuple[float, float], ...] | None = None
    true_saliency: NDArray[np.float32] | None = None

    def iou(self) -> float:
        """IoU of the first window with the true window it fits best; 0 where either is missing."""
        if not self.windows or not self.truth:
            return 0.0
        start, end, _ = self.windows[0]
        return max(_iou(start, end, *window) for window in self.truth)

    def clip_edges(self, clips: int, clip_length: float) -> NDArray[np.float64]:
        """(clips + 1,) seconds where clips begin and end; the last one ends with the video."""
        return np.clip(np.arange(clips + 1, dtype=np.float64) * clip_length, 0, self.duration)


def _iou(a_start: float, a_end: float, b_start: float, b_end: float) -> float:
    overlap = min(a_end, b_end) - max(a_start, b_start)
    hull = max(a_end, b_end) - min(a_start, b_start)
    return max(overlap, 0.0) / hull if hull > 0 else 0.0


def annotated_saliency(annotation: Annotation) -> NDArray[np.float32] | None:
    """(clips,) mean of the annotators' scores, 0 outside the relevant clips; None without any."""
    if annotation.saliency is None:
        return None
    clips = max(1, math.ceil(annotation.duration / HIGHLIGHT_CLIP - 0.01))
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


def ticks(low: float, high: float, about: int = 6, *, time: bool = False) -> list[float]:
    """Round numbers within [low, high], about as many as asked; on a clock's steps if `time`."""
    step = (high - low) / max(about, 1)
    if not (math.isfinite(step) and step > 0):
        return [low]
    clock_steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
    if time and 1 <= step <= clock_steps[-1]:
        step = next(nice for nice in clock_steps if nice >= step)
    else:
        power = 10 ** math.floor(math.log10(step))
        step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= step * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def draw_timelines(
    path: Path, timelines: Sequence[Timeline], strip: Sequence[Image] = (), *, shown: int = 5
) -> None:
    """Write a PNG: the film strip of one video, and below it each query's saliency and windows.

    All timelines are of the same video. At most `shown` windows per query are drawn, best first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    duration = timelines[0].duration
    heights = [STRIP_INCHES / len(strip) * strip[0].height / strip[0].width] if strip else []
    for timeline in timelines:
        heights += [1.0, 0.24 + 0.2 * min(shown, max(1, len(timeline.windows)))]
    figure = Figure(figsize=(11, sum(heights) + 0.6 * len(timelines) + 0.65), dpi=130)
    figure.set_layout_engine("constrained", h_pad=0.04, w_pad=0.14, hspace=0.02)
    FigureCanvasAgg(figure)
    axes = list(
        figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    )
    for axis in axes:
        axis.set_xlim(0, duration)
        axis.tick_params(length=0, labelsize=8, colors=MUTED)
        axis.spines[:].set_visible(False)
    if strip:
        _draw_strip(axes.pop(0), strip, duration)
    for index, timeline in enumerate(timelines):
        curve, bars = axes[2 * index : 2 * index + 2]
        _draw_saliency(curve, timeline)
        _draw_windows(bars, timeline, shown)
    marks = ticks(0, duration, 10, time=True)
    axes[-1].set_xticks(marks, [clock(mark) for mark in marks])
    axes[-1].set_xlabel("time in the video", fontsize=8.5, color=MUTED)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", facecolor="white")
    temporary.replace(path)


def _draw_strip(axis: "Axes", strip: Sequence[Image], duration: float) -> None:
    width = duration / len(strip)
    for i, image in enumerate(strip):
        edges = ((i + 0.01) * width, (i + 0.99) * width)
        axis.imshow(image, extent=(*edges, 0, 1), aspect="auto", interpolation="bilinear")
    axis.set_xlim(0, duration)
    axis.set_yticks([])


def _draw_saliency(axis: "Axes", timeline: Timeline) -> None:
    axis.set_title(f"“{timeline.query}”", loc="left", fontsize=11.5, color=INK, pad=9)
    axis.set_yticks([])
    axis.set_ylabel("saliency", fontsize=8, color=MUTED, rotation=0, ha="right", va="center")
    axis.axhline(0, color=LINE, linewidth=0.8)
    if timeline.saliency is None:
        return
    edges = timeline.clip_edges(len(timeline.saliency), timeline.clip_length)
    low, high = min(0.0, timeline.saliency.min()), max(0.0, timeline.saliency.max())
    axis.set_ylim(low - 0.05, high + 0.08 * (high - low) + 0.05)
    axis.stairs(timeline.saliency, edges, color=PREDICTED, linewidth=1.6, baseline=None)
    axis.stairs(timeline.saliency, edges, color=PREDICTED, alpha=0.12, fill=True, baseline=0)
    for start, end, _ in timeline.windows[:1]:
        axis.axvspan(start, end, color=PREDICTED, alpha=0.08, linewidth=0)


def _draw_windows(axis: "Axes", timeline: Timeline, shown: int) -> None:
    windows = timeline.windows[:shown]
    axis.set_ylim(max(len(windows), 1) - 0.4, -0.6)
    axis.set_yticks([0], ["windows"])
    # A model that found nothing is not drawn as sure of its best guess.
    top = max([DOUBTFUL, *(score for _, _, score in windows)])
    for row, (start, end, score) in enumerate(windows):
        strength = 0.25 + 0.75 * max(score, 0.0) / top
        axis.barh(row, end - start, left=start, height=0.66, color=PREDICTED, alpha=strength)
        colour = INK if row == 0 else MUTED
        if end < 0.75 * timeline.duration:
            at, offset, side = end, 5, "left"
        elif start > 0.25 * timeline.duration:
            at, offset, side = start, -5, "right"
        else:  # no room beside the bar
            at, offset, side = start, 5, "left"
            colour = "white" if strength > 0.6 else INK
        axis.annotate(
            f"{clock(start)} – {clock(end)}   score {score:.2f}",
            (at, row),
            xytext=(offset, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8,
            color=colour,
        )
