"""What was found of a sentence in a video, and in which forms can people have it?"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.pictures.examples import draw_timeline
from trainer.pictures.pages import fill
from trainer.pictures.timeline import Timeline

Window = tuple[float, float, float]

LISTED = 0.005
"""Score from which a window is listed: what two decimals show as 0.00 is none."""

SHOWN = 5  # windows of a sentence that a notebook shows
CURVE = (1000, 60)  # size of a saliency curve's own coordinates


@dataclass(frozen=True)
class Grounding:
    """Where a video shows what `query` says.

    windows: (start, end, score) in seconds, best first. saliency (L,): how well each clip fits, a
    cosine in [-1, 1]; clip i covers [i, i + 1) * clip_length seconds, the last one at most to the
    end of the video. unread: tokens at the end of the sentence that the encoder does not read.
    existence: probability that the video shows it at all, None where the model does not judge that;
    below `least` it is not found. threshold: score below which no window is listed.
    """

    query: str
    duration: float
    clip_length: float
    windows: tuple[Window, ...]
    saliency: NDArray[np.float32]
    unread: int = 0
    existence: float | None = None
    least: float = 0.5
    threshold: float = LISTED

    @property
    def listed(self) -> tuple[Window, ...]:
        """The windows in which it is found; none where the video does not show it."""
        if self.existence is not None and self.existence < self.least:
            return ()
        return tuple(w for w in self.windows if w[2] >= max(self.threshold, LISTED))

    @property
    def guess(self) -> tuple[Window, ...]:
        """Where it is not found: the best windows all the same, one at least."""
        if self.listed:
            return ()
        return tuple(w for w in self.windows if w[2] >= LISTED) or self.windows[:1]

    @property
    def not_found(self) -> str:
        """Why nothing is listed, in words; empty where something is."""
        if self.listed:
            return ""
        if self.existence is None or self.existence >= self.least:
            return f"not found: no window with a score of {max(self.threshold, LISTED):g} or more"
        return f"not found: {self.existence:.1%} sure that the video shows it"

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

    def timeline(self, guess: bool = False) -> Timeline:
        """The grounding as something to be drawn; its `guess` where that is asked for."""
        windows = self.guess if guess else self.listed
        return Timeline(self.query, self.duration, windows, self.saliency, self.clip_length)

    def to_row(self, guess: bool = False) -> dict[str, Any]:
        """The grounding as JSON values, rounded to milliseconds.

        Where it is not found, `windows` is empty; with `guess` its guess stands beside it.
        """
        return {
            "query": self.query,
            "found": bool(self.listed),
            **({} if self.existence is None else {"existence": round(self.existence, 4)}),
            "windows": _rounded(self.listed),
            **({"guess": _rounded(self.guess)} if guess and self.guess else {}),
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
        score. What is not found has none."""
        named = {} if self.video is None else {"video": self.video}
        return [
            {**named, "query": each.query, "rank": rank, "start": start, "end": end, "score": score}
            for each in self
            for rank, (start, end, score) in enumerate(each.listed, start=1)
        ]

    def to_frame(self) -> Any:
        """`rows` as a pandas table."""
        import pandas as pd

        columns = ["query", "rank", "start", "end", "score"]
        named = [] if self.video is None else ["video"]
        return pd.DataFrame(self.rows(), columns=[*named, *columns])

    def _repr_html_(self) -> str:
        drawn = [
            draw_timeline(each.timeline(), SHOWN)
            | {"curve": _curve(each), "note": each.warning, "not_found": each.not_found}
            for each in self
        ]
        return fill("notebook.html", found=drawn, video=self.video)


def _rounded(windows: Iterable[Window]) -> list[list[float]]:
    return [[round(start, 3), round(end, 3), round(score, 4)] for start, end, score in windows]


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
