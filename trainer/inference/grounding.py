"""What was found of a sentence in a video, and in which forms can people have it?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.pictures.examples import draw_timeline
from trainer.pictures.pages import fill
from trainer.pictures.timeline import Timeline

SHOWN = 5  # windows of a sentence that a notebook shows
CURVE = (1000, 60)  # size of a saliency curve's own coordinates


@dataclass(frozen=True)
class Grounding:
    """Where a video shows what `query` says.

    windows: (start, end, score) in seconds, best first. saliency (L,): how well each clip fits, a
    cosine in [-1, 1]; clip i covers [i, i + 1) * clip_length seconds, the last one at most to the
    end of the video. unread: tokens at the end of the sentence that the encoder does not read.
    """

    query: str
    duration: float
    clip_length: float
    windows: tuple[tuple[float, float, float], ...]
    saliency: NDArray[np.float32]
    unread: int = 0

    @property
    def times(self) -> NDArray[np.float64]:
        """(L, 2) start and end of each clip in seconds."""
        edges = self.timeline().clip_edges(len(self.saliency), self.clip_length)
        return np.stack((edges[:-1], edges[1:]), axis=1)

    @property
    def warning(self) -> str:
        """What a reader must know of the sentence; empty where that is nothing."""
        if not self.unread:
            return ""
        return (
            f"longer than the encoder reads: its last {self.unread} tokens make no difference; "
            "use a shorter sentence"
        )

    def best(self, top: int | None = None, threshold: float | None = None) -> "Grounding":
        """The same with at most `top` windows, none with a score below `threshold`."""
        kept = [w for w in self.windows if threshold is None or w[2] >= threshold]
        return replace(self, windows=tuple(kept[:top]))

    def timeline(self) -> Timeline:
        """The grounding as something to be drawn."""
        return Timeline(self.query, self.duration, self.windows, self.saliency, self.clip_length)

    def to_row(self) -> dict[str, Any]:
        """The grounding as JSON values, rounded to milliseconds."""
        return {
            "query": self.query,
            "windows": [[round(s, 3), round(e, 3), round(p, 4)] for s, e, p in self.windows],
            "saliency": [round(float(score), 4) for score in self.saliency],
            "clip_length": self.clip_length,
            **({"unread_tokens": self.unread} if self.unread else {}),
        }

    def to_frame(self) -> Any:
        """The windows as a pandas table: query, rank, start, end, score."""
        return Groundings([self]).to_frame()

    def _repr_html_(self) -> str:
        return Groundings([self])._repr_html_()


class Groundings(list[Grounding]):
    """What was found in one video, a `Grounding` for each sentence; `video` is its path, if known.

    `warnings` say, a line each, what of the video is damaged. A notebook draws it.
    """

    def __init__(
        self,
        found: Iterable[Grounding] = (),
        video: str | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        super().__init__(found)
        self.video = video
        self.warnings = warnings

    def rows(self) -> list[dict[str, Any]]:
        """A row for each window: video (where that is known), query, rank from 1, start, end,
        score."""
        named = {} if self.video is None else {"video": self.video}
        return [
            {**named, "query": each.query, "rank": rank, "start": start, "end": end, "score": score}
            for each in self
            for rank, (start, end, score) in enumerate(each.windows, start=1)
        ]

    def to_frame(self) -> Any:
        """`rows` as a pandas table."""
        import pandas as pd

        columns = ["query", "rank", "start", "end", "score"]
        named = [] if self.video is None else ["video"]
        return pd.DataFrame(self.rows(), columns=[*named, *columns])

    def _repr_html_(self) -> str:
        drawn = [
            draw_timeline(each.timeline(), SHOWN) | {"curve": _curve(each), "note": each.warning}
            for each in self
        ]
        return fill("notebook.html", found=drawn, video=self.video)


def _curve(grounding: Grounding) -> str:
    """Points of the saliency curve in an SVG of size `CURVE`: a notebook runs no script of ours."""
    width, height = CURVE
    scores = grounding.saliency
    low, reach = float(scores.min()), float(np.ptp(scores)) or 1.0
    outline = grounding.timeline().outline(scores, grounding.clip_length)
    x = [width * point["x"] / grounding.duration for point in outline]
    y = [height * (1 - (point["y"] - low) / reach) for point in outline]
    steps = [f"{x[0]:.1f},{y[0]:.1f}"]
    for i in range(1, len(x)):  # a clip's score holds until the next clip
        steps += [f"{x[i]:.1f},{y[i - 1]:.1f}", f"{x[i]:.1f},{y[i]:.1f}"]
    return " ".join(steps)
