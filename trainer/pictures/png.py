"""The answers for one video as a picture, for people who ran a prediction."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from data_pipeline.output import write_bytes
from trainer.pictures.charts import specify, table
from trainer.pictures.thumbnails import data_uri
from trainer.pictures.timeline import Timeline, clock, clock_ticks

if TYPE_CHECKING:
    import altair as alt

    Row = alt.Chart | alt.LayerChart | alt.FacetChart

WIDTH = 880  # of the rows, beside their names; a picture has `SCALE` pixels for each
SCALE = 1.5
LETTERS = 110  # of a sentence in a line above its row
CURVE, ROW = 90, 19  # heights of a saliency curve and of a window
UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML may hold, and a picture is one on its way: Vega's converter would end the process."""
DOUBTFUL = 0.1  # a score below which even the best window is drawn pale
PREDICTED, INK, MUTED, LINE = "#2364aa", "#1c2126", "#5b6570", "#e2e0da"

CONFIG = {
    "font": "Liberation Sans, DejaVu Sans, Arial, sans-serif",
    "background": "white",
    "padding": 14,
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "frame": "group",
        "fontSize": 15,
        "fontWeight": "normal",
        "color": INK,
    },
    "axis": {
        **dict.fromkeys(("labels", "ticks", "domain", "grid"), False),
        "titleAngle": 0,
        "titleAlign": "right",
        "titleBaseline": "middle",
        "titleX": -10,
        "titleFontWeight": "normal",
        "titleColor": MUTED,
    },
    "text": {"color": MUTED, "fontSize": 11},
}


def draw_timelines(
    path: Path, timelines: Sequence[Timeline], strip: Sequence[Image] = (), *, shown: int = 5
) -> None:
    """Write a PNG: the film strip of one video, and below it each query's saliency and windows.

    All timelines are of the same video. At most `shown` windows per query are drawn, best first.
    """
    import altair as alt
    import vl_convert

    picture = _Picture(timelines[0].duration)
    rows: list[Row] = [picture.strip(strip)] if strip else []
    for timeline in timelines:
        rows += [picture.saliency(timeline), picture.windows(timeline.windows[:shown])]
    rows.append(picture.clock())
    specification = specify(alt.vconcat(*rows, spacing=8), picture.tables)
    write_bytes(path, vl_convert.vegalite_to_png(specification, scale=SCALE, config=CONFIG))


def wrapped(text: str, most: int = LETTERS) -> list[str]:
    """The lines of a text that is too long for one, broken at blanks where there are any.

    A letter of Chinese, Japanese or Korean, or an emoji, is as wide as two others.
    """
    lines, line, width = [], "", 0
    for piece in re.findall(r"\S+\s*|\s+", text):
        size = sum(map(_width, piece))
        if line and width + sum(map(_width, piece.rstrip())) > most:
            lines.append(line.rstrip())
            line, width = "", 0
        if size > most:  # one long word, or a script without blanks
            for letter in piece:
                if width + _width(letter) > most:
                    lines.append(line)
                    line, width = "", 0
                line, width = line + letter, width + _width(letter)
            continue
        line, width = line + piece, width + size
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _width(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


@dataclass
class _Picture:
    """Rows of a picture over the time of a video; `tables` hold what they draw."""

    duration: float
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def strip(self, strip: Sequence[Image]) -> "Row":
        import altair as alt

        wide = WIDTH / len(strip)
        high = wide * strip[0].height / strip[0].width
        rows = [
            {"x": (place + 0.5) * self.duration / len(strip), "url": data_uri(image, quality=90)}
            for place, image in enumerate(strip)
        ]
        images = self._table(rows).mark_image(width=wide - 3, height=high, aspect=False)
        images = images.encode(self._time("x"), url="url:N", y=alt.value(high / 2))
        row: Row = images.properties(width=WIDTH, height=high)
        return row

    def saliency(self, timeline: Timeline) -> "Row":
        import altair as alt

        scores = timeline.saliency
        ends = [0.0] if scores is None else [0.0, float(scores.min()), float(scores.max())]
        if min(ends) == max(ends):
            ends.append(1.0)
        scale = alt.Scale(domain=[min(ends), max(ends)], nice=False, zero=False, padding=5)
        y = alt.Y("y:Q", title="saliency", scale=scale)
        time = self._time("x")
        curve = self._table(
            [] if scores is None else timeline.outline(scores, timeline.clip_length)
        ).encode(time, y)
        best = self._table([{"x": start, "x2": end} for start, end, _ in timeline.windows[:1]])
        step: Any = {"interpolate": "step-after", "color": PREDICTED}
        query = UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", timeline.query)
        title = wrapped(f"“{query}”")
        return alt.layer(
            best.mark_rect(color=PREDICTED, opacity=0.08).encode(time, x2="x2:Q"),
            self._table([{"y": 0.0}]).mark_rule(color=LINE).encode(y),
            curve.mark_area(opacity=0.12, **step),
            curve.mark_line(**step),
        ).properties(width=WIDTH, height=CURVE, title=alt.Title(title, limit=WIDTH))

    def windows(self, windows: Sequence[tuple[float, float, float]]) -> "Row":
        import altair as alt

        # A model that found nothing is not drawn as sure of its best guess.
        top = max([DOUBTFUL, *(score for _, _, score in windows)])
        rows = []
        for rank, (start, end, score) in enumerate(windows):
            strength = 0.25 + 0.75 * max(score, 0.0) / top
            ink = INK if rank == 0 else MUTED
            if end < 0.75 * self.duration:
                at, side = end, "left"
            elif start > 0.25 * self.duration:
                at, side = start, "right"
            else:  # no room beside the bar
                at, side, ink = start, "left", "white" if strength > 0.6 else INK
            says = f"{clock(start)} – {clock(end)} · score {score:.2f}"
            rows.append(
                {"x": start, "x2": end, "y": rank, "strength": strength}
                | {"at": at, "side": side, "says": says, "ink": ink}
            )
        y = alt.Y("y:O", title="windows", scale=alt.Scale(paddingInner=0.3, paddingOuter=0.15))
        drawn = self._table(rows)
        bars = drawn.mark_bar(color=PREDICTED).encode(
            self._time("x"), y, x2="x2:Q", opacity=alt.Opacity("strength:Q", scale=None)
        )
        dx = alt.ExprRef("datum.side == 'left' ? 6 : -6")
        words = drawn.mark_text(align=alt.ExprRef("datum.side"), dx=dx, baseline="middle")
        words = words.encode(
            self._time("at"), y, text="says:N", color=alt.Color("ink:N", scale=None)
        )
        return alt.layer(bars, words).properties(width=WIDTH, height=ROW * max(1, len(windows)))

    def clock(self) -> "Row":
        rows = [{"x": mark, "says": clock(mark)} for mark in clock_ticks(self.duration, 10)]
        words = self._table(rows).mark_text(baseline="top")
        words = words.encode(self._time("x"), text="says:N")
        row: Row = words.properties(width=WIDTH, height=12)
        return row

    def _table(self, rows: list[dict[str, Any]]) -> "alt.Chart":
        name = f"rows {len(self.tables)}"
        self.tables[name] = rows
        return table(name)

    def _time(self, field: str) -> "alt.X":
        import altair as alt

        whole = alt.Scale(domain=[0, self.duration], nice=False, zero=False)
        return alt.X(f"{field}:Q", axis=None, scale=whole)
