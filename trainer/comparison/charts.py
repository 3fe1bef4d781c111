"""Intervals and trade-offs of several runs as inline SVG, as `trainer.pictures.charts`."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trainer.pictures.charts import BOTTOM, TOP, Axes, apart, open_svg, rounded, short
from trainer.pictures.timeline import ticks

COLOURS = 6  # lines that are told apart by colour; further runs are drawn in grey
LETTERS = 15  # of a run's name beside a chart


@dataclass(frozen=True)
class Point:
    """A run's place in a chart: its figure `y` with the interval's ends, against `x` if any."""

    name: str
    colour: int
    y: float
    low: float
    high: float
    x: float = 0.0


def interval_chart(title: str, points: Sequence[Point]) -> Markup:
    """One row a run: its figure as a dot on its interval; the first run's figure as a line."""
    width, left, right, top, row = 420, 132, 48, 6, 23
    height = top + row * len(points) + 38
    low, high = rounded(min(p.low for p in points), max(p.high for p in points))
    low, high = max(low, min(p.low for p in points) - 15), min(high, 100.0)
    scale = (width - left - right) / ((high - low) or 1.0)
    bottom = top + row * len(points)

    def at(value: float) -> float:
        return left + (value - low) * scale

    out = [open_svg(width, height, f"{title}. {_spoken(points)}")]
    for value in ticks(low, high, 4):
        out.append(f'<path class="grid" d="M{at(value):.1f} {top}V{bottom}"/>')
        out.append(
            f'<text class="tick" x="{at(value):.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{short(value)}</text>"
        )
    out.append(f'<path class="reference" d="M{at(points[0].y):.1f} {top}V{bottom}"/>')
    for index, point in enumerate(points):
        y, colour = top + row * (index + 0.5), _colour(point)
        out.append(
            f'<text class="name {colour}" x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">'
            f"{escape(cut(point.name))}</text>"
            f'<path class="whisker {colour}" d="M{at(max(point.low, low)):.1f} {y:.1f}'
            f'H{at(min(point.high, high)):.1f}"/>'
            f'<circle class="dot {colour}" cx="{at(point.y):.1f}" cy="{y:.1f}" r="4"/>'
            f'<text class="tick" x="{width - right + 12}" y="{y + 4:.1f}">{point.y:.1f}</text>'
        )
    centre = (left + width - right) / 2
    out.append(
        f'<text class="axis" x="{centre:.0f}" y="{height - 4}" text-anchor="middle">percent</text>'
    )
    return Markup("".join([*out, "</svg>"]))


def scatter_chart(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> Markup:
    """Runs as dots with their intervals; those that have a colour are named."""
    width, height, right = 420, 250, 118
    x_range = rounded(min(p.x for p in points), max(p.x for p in points))
    y_range = rounded(min(p.low for p in points), max(p.high for p in points))
    axes = Axes(width, height, right, x_range, y_range)
    at = axes.at

    out = [open_svg(width, height, f"{title}. {_spoken(points)}")]
    out += axes.draw(x_label, y_label, 4)
    for point in sorted(points, key=lambda p: -p.colour):  # the named ones on top
        (x, y), colour = at(point.x, point.y), _colour(point)
        _, y_of_low = at(point.x, point.low)
        _, y_of_high = at(point.x, point.high)
        out.append(
            f'<path class="whisker {colour}" d="M{x:.1f} {y_of_low:.1f}V{y_of_high:.1f}"/>'
            f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        )
    named = [point for point in points if point.colour < COLOURS]
    heights = apart([at(p.x, p.y)[1] for p in named], gap=14, low=TOP + 4, high=height - BOTTOM)
    for point, label in zip(named, heights, strict=True):
        out.append(
            f'<text class="name {_colour(point)}" x="{width - right + 10}" y="{label + 4:.1f}">'
            f"{escape(cut(point.name))}</text>"
        )
    return Markup("".join([*out, "</svg>"]))


def _colour(point: Point) -> str:
    return f"s{point.colour}" if point.colour < COLOURS else "rest"


def cut(name: str) -> str:
    """A run's name, shortened in the middle where it would not fit beside a chart."""
    half = LETTERS // 2
    return name if len(name) <= LETTERS else f"{name[:half]}…{name[-half:]}"


def _spoken(points: Sequence[Point]) -> str:
    """The chart in words, for readers who do not see it."""
    return "; ".join(f"{p.name}: {p.y:.1f} ({p.low:.1f} to {p.high:.1f})" for p in points) + "."
