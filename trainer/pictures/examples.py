"""Which queries does a report show, and what is drawn of each?"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError, told
from data_pipeline.untrusted import iter_rows, plain_name, reading
from data_pipeline.video.names import find_video
from trainer.pictures.charts import UNSEEN, Chart, finish, pointer, table
from trainer.pictures.thumbnails import data_uri, film_strip
from trainer.pictures.timeline import (
    Timeline,
    annotated_saliency,
    clip_length_of,
    clock,
    clock_ticks,
)

SHOWN_WINDOWS = 4
CURVE = 92  # height of a curve of saliency
MOST_CLIPS = 600  # of a curve: more would not be told apart, and would weigh on the page


@dataclass(frozen=True)
class Pair:
    """One predicted query beside its annotation."""

    annotation: Annotation
    timeline: Timeline
    iou: float


def pair_up(path: Path, annotations: Sequence[Annotation]) -> list[Pair]:
    """Annotated queries that have a prediction, best first window first."""
    pairs = []
    with reading(path, "evaluate the run again"):
        stored = iter_rows(path, nan=True) if path.is_file() else ()
        rows = {str(row["qid"]): row for _, row in stored}
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
        saliency=saliency if len(saliency) and np.isfinite(saliency).all() else None,
        clip_length=clip_length_of(max(1, len(saliency)), annotation.duration),
        truth=annotation.windows,
        true_saliency=annotated_saliency(annotation),
        true_clip_length=annotation.clip_length,
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
            for image in film_strip(video_of(videos, pair.annotation.vid), line.duration)
        ]
        fault = None
    except Exception as error:  # an odd video costs its own pictures, not the page
        strip, fault = [], told(error)
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
        "saliency": partial(saliency_chart, line),  # which not every page shows
        "curves": _curves(line),
        "ticks": [(mark * percent, clock(mark)) for mark in clock_ticks(line.duration)],
    }


def saliency_chart(line: Timeline) -> Chart | None:
    """Predicted saliency as a line, annotated as an area; each has its own scale, this 0 to 4.

    None where there is neither. It cannot be zoomed, for other rows share its time.
    """
    import altair as alt

    curves = _curves(line)
    if not curves:
        return None
    tables: dict[str, list[dict[str, Any]]] = {
        name: line.outline((scores - low) / ((high - low) or 1.0), length)
        for name, (scores, length, low, high) in curves.items()
    }
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, line.duration], zero=False, nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[0, 1], padding=4))
    step: Any = {"interpolate": "step-after", "clip": True}  # exactly as wide as the other rows
    layers = []
    if "annotated" in curves:
        annotated = table("annotated").encode(x, y)
        layers += [
            annotated.mark_area(color="var(--truth-soft)", **step),
            annotated.mark_line(color="var(--truth)", strokeWidth=1.4, **step),
        ]
    if "predicted" in curves:
        layers.append(table("predicted").mark_line(color="var(--found)", **step).encode(x, y))
    at, pointed = pointer("x")
    layers += [
        pointed.mark_rule(style="hairline").encode(x),
        table("told").mark_rect(**UNSEEN).encode(x="from:Q", x2="to:Q").add_params(at),
    ]
    chart = alt.layer(*layers)
    words = [
        f"{name.capitalize()} saliency, highest at {clock(int(scores.argmax()) * length)}."
        for name, (scores, length, _, _) in curves.items()
    ]
    return finish(chart, " ".join(words), tables | {"told": _told(line, curves)}, height=CURVE)


Curves = dict[str, tuple[NDArray[np.float32], float, float, float]]


def _curves(line: Timeline) -> Curves:
    """What is known of saliency: name -> scores, seconds of each, ends of its scale."""
    curves: Curves = {}
    if line.saliency is not None:
        ends = float(line.saliency.min()), float(line.saliency.max())
        curves["predicted"] = (*_peaks(line.saliency, line.clip_length), *ends)
    if line.true_saliency is not None:
        curves["annotated"] = (*_peaks(line.true_saliency, line.true_clip_length), 0.0, 4.0)
    return curves


def _peaks(scores: NDArray[np.float32], length: float) -> tuple[NDArray[np.float32], float]:
    """Scores and seconds of each; of more than MOST_CLIPS the greatest of so many parts."""
    together = math.ceil(len(scores) / MOST_CLIPS)
    return np.maximum.reduceat(scores, np.arange(0, len(scores), together)), together * length


def _told(line: Timeline, curves: Curves) -> list[dict[str, Any]]:
    """What is told at each clip: its time, and its scores."""
    first, length, _, _ = next(iter(curves.values()))
    told = []
    for start, end in itertools.pairwise(line.clip_edges(len(first), length).tolist()):
        middle = (start + end) / 2
        values = [
            (name, f"{scores[min(int(middle / length), len(scores) - 1)]:.2f}")
            for name, (scores, length, _, _) in curves.items()
        ]
        values.insert(0, ("time", f"{clock(start)} – {clock(end)}"))
        told.append({"x": middle, "from": start, "to": end, "told": values})
    return told


def video_of(videos: Path | None, vid: str) -> Path:
    """The file of a video in the folder `videos`; InputError where there is none."""
    if videos is None:
        raise InputError("the run names no folder of videos")
    plain_name(vid, "a video", videos, folders=True)
    found = find_video(videos, vid)
    if found is None or found.local is None:
        raise InputError(f"{videos / vid}.*: no such video file")
    return found.local
