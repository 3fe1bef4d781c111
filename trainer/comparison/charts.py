"""Intervals and trade-offs of several runs, in the manner of trainer.pictures.charts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.metrics.bootstrap import LEVEL
from trainer.pictures.charts import (
    COLOURS,
    UNSEEN,
    Chart,
    colour,
    finish,
    number,
    pointer,
    span,
    table,
    zoom,
)

ROW = 23  # height of a run in a chart of intervals


@dataclass(frozen=True)
class Point:
    """A run's place in a chart: its figure `y` with the interval's ends, against `x` if any."""

    name: str
    colour: int
    y: float
    low: float
    high: float
    x: float = 0.0


def interval_chart(title: str, points: Sequence[Point]) -> Chart:
    """One row a run: its figure as a dot on its interval; the first run's figure as a line."""
    import altair as alt

    ticks = 4
    ends = _ends(points)
    scale = span(ends if min(ends) < max(ends) else [0.0, 100.0])
    x = alt.X("x:Q", title="percent", scale=scale, axis=alt.Axis(tickCount=ticks))
    row = alt.Axis(grid=False, labelExpr="names[datum.value]", labelColor="var(--ink)")
    y = alt.Y("y:O", title=None, axis=row, scale=alt.Scale(padding=0))
    hue, runs = colour("colour"), table("runs")
    at, pointed = pointer("y")
    rows = [
        _row(point) | {"x": point.y, "y": place, "figure": f"{point.y:.1f}"}
        for place, point in enumerate(points)
    ]
    return finish(
        alt.layer(
            table("first").mark_rule(style="reference").encode(x),
            pointed.mark_rule(style="hairline").encode(y),
            runs.mark_rule(style="interval").encode(y, hue, x="low:Q", x2="high:Q"),
            runs.mark_circle(size=70).encode(x, y, hue).add_params(zoom("x")),
            runs.mark_text(style="figure", clip=False).encode(
                y, x=alt.value("width"), text="figure:N"
            ),
            table("told").mark_rect(**UNSEEN).encode(y).add_params(at),
        ).properties(padding={"right": 44, "bottom": 5}),
        f"{title}. {_spoken(points)}",
        {
            "first": rows[:1],
            "runs": rows,
            "told": [
                {"y": place, "told": _told(title, point)} for place, point in enumerate(points)
            ],
        },
        height=ROW * len(points) + 45,
        names=[point.name for point in points],
    )


def scatter_chart(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> Chart:
    """Runs as dots with their intervals; those that have a colour are named."""
    import altair as alt

    ticks = 5
    x = alt.X(
        "x:Q",
        title=x_label,
        scale=span([point.x for point in points]),
        axis=alt.Axis(grid=False, tickCount=ticks),
    )
    y = alt.Y("y:Q", title=y_label, scale=span(_ends(points)), axis=alt.Axis(tickCount=ticks))
    named = {point.colour: point.name for point in points if point.colour < COLOURS}
    names = [named.get(place, "") for place in range(COLOURS)]
    hue, runs = colour("colour", names, list(named)), table("runs")
    at, pointed = pointer("x", "y")
    drawn = sorted(points, key=lambda point: -point.colour)  # the named ones on top
    return finish(
        alt.layer(
            runs.mark_rule(style="interval").encode(x, hue, y="low:Q", y2="high:Q"),
            runs.mark_circle(size=70).encode(x, y, hue).add_params(zoom("x", "y")),
            pointed.mark_point(style="ring").encode(x, y),
            table("told").mark_circle(size=400, **UNSEEN).encode(x, y).add_params(at),
        ),
        f"{title}. {_spoken(points)}",
        {
            "runs": [_row(point) | {"x": point.x, "y": point.y} for point in drawn],
            "told": [
                {
                    "x": point.x,
                    "y": point.y,
                    "told": [*_told(y_label, point), (x_label, number(point.x))],
                }
                for point in sorted(points, key=lambda point: point.x)
            ],
        },
        height=250,
        names=names,
    )


def _ends(points: Sequence[Point]) -> list[float]:
    return [end for point in points for end in (point.low, point.high)]


def _row(point: Point) -> dict[str, Any]:
    return {"low": point.low, "high": point.high, "colour": min(point.colour, COLOURS)}


def _told(metric: str, point: Point) -> list[tuple[str, str]]:
    told = [("run", point.name), (metric, f"{point.y:.2f}")]
    if point.low < point.high:
        told.append((f"{LEVEL:.0%} interval", f"{point.low:.2f} to {point.high:.2f}"))
    return told


def _spoken(points: Sequence[Point]) -> str:
    """The chart in words, for readers who do not see it."""
    return "; ".join(f"{p.name}: {p.y:.1f} ({p.low:.1f} to {p.high:.1f})" for p in points) + "."
