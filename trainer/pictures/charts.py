"""Charts of our pages, drawn by Vega: values under the pointer, zoom, colours of the style sheet.

What a user named (runs, settings) is in a chart as data only, never in an expression.
"""

import itertools
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import altair as alt

MAX_POINTS = 200  # of a line: more would not be told apart, and would weigh on the page
COLOURS = 6  # lines that are told apart by colour; what comes after them is drawn in grey
LETTERS = 15  # of a name beside a chart

Axis = Literal["x", "y"]
Tables = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Chart:
    """What a page draws, in Vega-Lite, and what it shows in words, for those who do not see it."""

    specification: dict[str, Any]
    words: str


@dataclass(frozen=True)
class Series:
    """One named line; points without a finite y are left out."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bin:
    """Neighbouring points of a line as one: means of x and y, the least and the greatest y."""

    x: float
    y: float
    low: float
    high: float


# Lines


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, float]] = (),
    height: int = 250,
) -> Chart | None:
    """At most `COLOURS` lines over one x, or None where no point is finite.

    A line's place in `series` gives its colour, whether or not others have points.
    A series of more than `MAX_POINTS` points is drawn as means of equal parts over a pale band from
    the least to the greatest value of each part. `marks` are points drawn as rings.
    """
    import altair as alt

    lines = [(place, line.name, _binned(line.points)) for place, line in enumerate(series)]
    lines = [(place, name, bins) for place, name, bins in lines if bins]
    if not lines:
        return None
    every = [each for *_, bins in lines for each in bins]
    ticks = height // 50
    x = alt.X(
        "x:Q",
        title=x_label,
        scale=span([each.x for each in every]),
        axis=alt.Axis(grid=False, tickMinStep=1, tickCount=alt.ExprRef("ceil(width / 60)")),
    )
    low, high = min(each.low for each in every), max(each.high for each in every)
    if 0 <= low < 0.6 * high:
        low = 0.0  # unless that would flatten the line
    rounded = alt.Scale(domain=_apart(low, high), zero=False, nice=ticks)
    y = alt.Y(
        "y:Q",
        title=y_label or None,
        scale=span(y_range) if y_range else rounded,
        axis=alt.Axis(tickCount=ticks),
    )
    names = [line.name for line in series]
    hue = colour("line", names if len(lines) > 1 else (), [place for place, *_ in lines])
    drawn = table("lines").encode(x, y, hue)
    at, pointed = pointer("x")
    layers = [
        drawn.mark_area(opacity=0.16).encode(y="low:Q", y2="high:Q"),
        drawn.mark_line().add_params(zoom("x", "y")),
        table("ends").mark_circle(size=28).encode(x, y, hue),
        pointed.mark_rule(style="hairline").encode(x),
        drawn.mark_circle(size=44).transform_filter(at, empty=False),
    ]
    if marks:
        layers.append(table("marks").mark_point(style="marked").encode(x, y))
    layers.append(table("told").mark_rect(**UNSEEN).encode(x="from:Q", x2="to:Q").add_params(at))
    return finish(
        alt.layer(*layers),
        _spoken(title, x_label, lines),
        {
            "lines": [asdict(each) | {"line": place} for place, _, bins in lines for each in bins],
            "ends": [asdict(bins[-1]) | {"line": place} for place, _, bins in lines],
            "marks": [{"x": x, "y": y} for x, y in marks],
            "told": _told(x_label, lines),
        },
        height=height,
        names=names,
    )


Lines = Sequence[tuple[int, str, list[Bin]]]  # place, name and bins of those that have points


def _binned(points: Sequence[tuple[float, float]]) -> list[Bin]:
    """At most MAX_POINTS equal parts of the finite points, by x."""
    finite = sorted((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))
    parts = min(len(finite), MAX_POINTS)
    bins = []
    for part in range(parts):
        chunk = finite[part * len(finite) // parts : (part + 1) * len(finite) // parts]
        ys = [y for _, y in chunk]
        means = (sum(value / len(chunk) for value in axis) for axis in zip(*chunk, strict=True))
        bins.append(Bin(*(float(f"{value:.7g}") for value in (*means, min(ys), max(ys)))))
    return bins


def _told(x_label: str, lines: Lines) -> list[dict[str, Any]]:
    """What is told at each place that one can point at: its x, and where every line is there."""
    every = sorted({each.x for *_, bins in lines for each in bins})
    places = every[:: math.ceil(len(every) / MAX_POINTS)]
    room = (places[-1] - places[0]) or 2 * (abs(places[0]) or 1.0)  # beside the first and the last
    between = [(left + right) / 2 for left, right in itertools.pairwise(places)]
    ends = [places[0] - room, *between, places[-1] + room]
    told = []
    for x, (start, end) in zip(places, itertools.pairwise(ends), strict=True):
        there = [
            (name, bins[bisect_right(bins, x, key=lambda each: each.x) - 1])
            for _, name, bins in lines
            if bins[0].x <= x <= bins[-1].x
        ]
        values = [(x_label, number(x)), *((name, _value(each)) for name, each in there)]
        told.append({"x": x, "y": there[0][1].y, "from": start, "to": end, "told": values})
    return told


def _value(each: Bin) -> str:
    spread = f" ({number(each.low)} to {number(each.high)})" if each.low < each.high else ""
    return number(each.y) + spread


def _spoken(title: str, x_label: str, lines: Lines) -> str:
    course = [f"{name}: from {bins[0].y:.3g} to {bins[-1].y:.3g}" for _, name, bins in lines]
    return f"{title} over {x_label}. " + "; ".join(course) + "."


# What all charts share


def table(name: str) -> "alt.Chart":
    """A layer of a chart, without a mark yet, that draws the rows which are called `name`."""
    import altair as alt

    return alt.Chart(alt.NamedData(name))


def span(values: Sequence[float]) -> "alt.Scale":
    """From the least to the greatest value, with room for a dot."""
    import altair as alt

    return alt.Scale(domain=_apart(min(values), max(values)), zero=False, nice=False, padding=8)


def _apart(low: float, high: float) -> list[float]:
    if low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    return [low, high]


def colour(field: str, names: Sequence[str] = (), shown: Sequence[int] = ()) -> "alt.Color":
    """The page's colour of a place, 0 to 5, or grey; a legend of the places `shown` if named.

    A chart that names them is finished with the same `names`.
    """
    import altair as alt

    width = 34 + 7 * max((len(cut(name)) for name in names), default=0)  # of a name in the legend
    legend = alt.Legend(
        orient="top",
        title=None,
        values=list(shown),
        labelExpr="names[datum.value]",
        columns=alt.ExprRef(f"max(1, floor(width / {width}))"),
    )
    return alt.Color(
        f"{field}:O",
        scale=alt.Scale(
            domain=list(range(COLOURS + 1)),
            range=[*(f"var(--s{place})" for place in range(COLOURS)), "var(--muted)"],
        ),
        legend=legend if names else None,
    )


def zoom(*axes: Axis) -> "alt.Parameter":
    """Wheel with Ctrl (so do browsers report a pinch), drag, and double click for the whole."""
    import altair as alt

    return alt.selection_interval(
        name="zoom",
        bind="scales",
        encodings=list(axes),
        zoom="wheel![event.ctrlKey || event.metaKey]",
    )


def pointer(*axes: Axis) -> "tuple[alt.Parameter, alt.Chart]":
    """What is pointed at, and a layer of the rows called "told" that are.

    Each of them has a place on the axes and `told`, the pairs (name, value) that the page shows
    beside the pointer. A chart's last layer draws all of them with a mark that is `UNSEEN`.
    """
    import altair as alt

    at = alt.selection_point(name="at", on="pointerover", clear="pointerout", fields=list(axes))
    return at, table("told").transform_filter(at, empty=False)


UNSEEN: Any = {"opacity": 0, "tooltip": {"content": "data"}}
"""A mark that is there to be pointed at. (Vega's `nearest` loses marks that lie on one line.)"""


def finish(
    chart: "alt.LayerChart | alt.FacetChart",
    words: str,
    tables: Tables,
    *,
    height: int,
    names: Sequence[str] = (),
) -> Chart:
    """A chart as wide as its place on the page; legends and axes call places by their `names`."""
    import altair as alt

    chart = chart.add_params(alt.param(name="names", value=[cut(name) for name in names]))
    fit = alt.AutoSizeParams(type="fit", contains="padding")  # labels and legend are within
    chart = chart.properties(autosize=fit, width="container", height=height)
    return Chart(specify(chart, tables), words)


def specify(chart: "alt.TopLevelMixin", tables: Tables) -> dict[str, Any]:
    """The chart in Vega-Lite, with the rows that its layers draw, by name."""
    specification = chart.to_dict()
    # What a chart looks like, and which Vega draws it, is for whoever draws it to say.
    del specification["config"], specification["$schema"]
    # Rows are put in afterwards: Altair checks whatever it holds, which takes long for thousands.
    return specification | {"datasets": dict(tables)}


@cache
def library() -> str:
    """A script that gives a page `vegaEmbed` and no other name.

    It can stand in the page: nothing in it ends the script or begins another.
    """
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = re.sub(r"<(?=!--|/?script)", r"\\x3C", script, flags=re.IGNORECASE)
    return f"(() => {{{script}\n}})();"


def number(value: float) -> str:
    """12345 -> '12,345', 0.123456 -> '0.1235': what is told of a value."""
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def cut(name: str) -> str:
    """A name, shortened in the middle where it would not fit beside a chart."""
    half = LETTERS // 2
    return name if len(name) <= LETTERS else f"{name[:half]}…{name[-half:]}"
