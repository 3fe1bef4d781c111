"""Which queries does a report show, and what is drawn of each?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.annotations import HIGHLIGHT_CLIP, Annotation, iter_rows
from data_pipeline.errors import InputError
from trainer.pictures.thumbnails import data_uri, film_strip
from trainer.pictures.timeline import Timeline, annotated_saliency, clip_length_of, clock, ticks

SHOWN_WINDOWS = 4
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", "")


@dataclass(frozen=True)
class Pair:
    """One predicted query beside its annotation."""

    annotation: Annotation
    timeline: Timeline
    iou: float


def pair_up(path: Path, annotations: Sequence[Annotation]) -> list[Pair]:
    """Annotated queries that have a prediction, best first window first."""
    rows = {str(row["qid"]): row for _, row in iter_rows(path)} if path.is_file() else {}
    pairs = []
    for annotation in annotations:
        row = rows.get(str(annotation.qid))
        if row is not None and annotation.windows:
            timeline = _timeline(annotation, row)
            pairs.append(Pair(annotation, timeline, timeline.iou()))
    return sorted(pairs, key=lambda pair: (-pair.iou, str(pair.annotation.qid)))


def _timeline(annotation: Annotation, row: dict[str, Any]) -> Timeline:
    saliency = np.asarray(row.get("pred_saliency_scores") or [], np.float32)
    return Timeline(
        query=annotation.query,
        duration=annotation.duration,
        windows=tuple((float(s), float(e), float(p)) for s, e, p in row["pred_relevant_windows"]),
        saliency=saliency if len(saliency) else None,
        clip_length=clip_length_of(max(1, len(saliency)), annotation.duration),
        truth=annotation.windows,
        true_saliency=annotated_saliency(annotation),
    )


def evenly_spaced(pairs: Sequence[Pair], count: int) -> list[tuple[int, Pair]]:
    """(rank, pair) at `count` evenly spaced ranks, the first and the last among them."""
    ranks = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    return [(int(rank), pairs[rank]) for rank in ranks]


def draw_example(rank: int, pair: Pair, videos: Path | None) -> dict[str, Any]:
    """`draw_timeline` with pictures of the video and what tells the query from others."""
    line = pair.timeline
    try:
        strip = [
            data_uri(image)
            for image in film_strip(find_video(videos, pair.annotation.vid), line.duration)
        ]
        fault = None
    except InputError as error:
        strip, fault = [], str(error)
    return {
        "rank": rank + 1,
        "iou": pair.iou,
        "qid": pair.annotation.qid,
        "vid": pair.annotation.vid,
        "strip": strip,
        "fault": fault,
        **draw_timeline(line),
    }


def draw_timeline(line: Timeline, shown: int = SHOWN_WINDOWS) -> dict[str, Any]:
    """What `timeline.html` draws of a query and its first windows; places are in percent."""
    percent = 100 / line.duration

    def bar(start: float, end: float) -> dict[str, float]:
        start, end = max(0.0, start), min(line.duration, end)
        return {
            "start": start,
            "end": end,
            "left": start * percent,
            "width": max(0.0, end - start) * percent,
        }

    return {
        "query": line.query,
        "duration": line.duration,
        "truth": [bar(*window) for window in line.truth or ()],
        "found": [bar(s, e) | {"score": score} for s, e, score in line.windows[:shown]],
        "hidden": max(0, len(line.windows) - shown),
        "curve": _steps(line, line.saliency, line.clip_length, None),
        "true_curve": _steps(line, line.true_saliency, HIGHLIGHT_CLIP, (0.0, 4.0)),
        "ticks": [(mark * percent, clock(mark)) for mark in ticks(0, line.duration, 6, time=True)],
    }


def _steps(
    line: Timeline,
    scores: NDArray[np.float32] | None,
    clip_length: float,
    scale: tuple[float, float] | None,
) -> dict[str, Any] | None:
    """A step curve as an SVG path in a 100 x 100 box, and the values at the box's edges."""
    if scores is None:
        return None
    low, high = scale or (float(scores.min()), float(scores.max()))
    heights = 96 - 92 * (scores - low) / ((high - low) or 1.0)
    edges = line.clip_edges(len(scores), clip_length) * 100 / line.duration
    path = "".join(
        f"{'L' if i else 'M'}{edges[i]:.2f} {height:.1f}H{edges[i + 1]:.2f}"
        for i, height in enumerate(heights)
    )
    peak = int(scores.argmax())
    return {
        "path": path,
        "area": f"{path}V100H0Z",
        "low": low,
        "high": high,
        "peak": float(min(peak * clip_length, line.duration)),
    }


def find_video(videos: Path | None, vid: str) -> Path:
    """The file of a video in the folder `videos`; InputError where there is none."""
    if videos is None:
        raise InputError("the run names no folder of videos")
    for suffix in VIDEO_SUFFIXES:
        if (videos / f"{vid}{suffix}").is_file():
            return videos / f"{vid}{suffix}"
    raise InputError(f"{videos / vid}.mp4: no such video file")
