"""Intervals and trade-offs of several runs as inline SVG, in the manner of trainer.charts."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trainer.charts import apart, rounded, short
from trainer.timeline import ticks

COLOURS = 6  # lines that are told apart by colour; further runs are drawn in grey
LETTERS = 19  # of a run's name beside a chart


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

    out = [_open(width, height, f"{title}. {_spoken(points)}")]
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
    width, height, left, right, top, bottom = 420, 250, 44, 118, 12, 40
    x_low, x_high = rounded(min(p.x for p in points), max(p.x for p in points))
    y_low, y_high = rounded(min(p.low for p in points), max(p.high for p in points))
    x_scale = (width - left - right) / ((x_high - x_low) or 1.0)
    y_scale = (height - top - bottom) / ((y_high - y_low) or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x - x_low) * x_scale, height - bottom - (y - y_low) * y_scale

    out = [_open(width, height, f"{title}. {_spoken(points)}")]
    for value in ticks(y_low, y_high, 5):
        _, y = at(0, value)
        out.append(
            f'<path class="grid" d="M{left} {y:.1f}H{width - right}"/>'
            f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">'
            f"{short(value)}</text>"
        )
    for value in ticks(x_low, x_high, 4):
        x, _ = at(value, 0)
        out.append(
            f'<text class="tick" x="{x:.1f}" y="{height - bottom + 17}" text-anchor="middle">'
            f"{short(value)}</text>"
        )
    centre_x, centre_y = (left + width - right) / 2, (top + height - bottom) / 2
    out.append(
        f'<text class="axis" x="{centre_x:.0f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="axis" transform="translate(11 {centre_y:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y_label)}</text>'
    )
    for point in sorted(points, key=lambda p: -p.colour):  # the named ones on top
        (x, y), colour = at(point.x, point.y), _colour(point)
        _, y_of_low = at(0, point.low)
        _, y_of_high = at(0, point.high)
        out.append(
            f'<path class="whisker {colour}" d="M{x:.1f} {y_of_low:.1f}V{y_of_high:.1f}"/>'
            f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        )
    named = [point for point in points if point.colour < COLOURS]
    heights = apart([at(p.x, p.y)[1] for p in named], gap=14, low=top + 4, high=height - bottom)
    for point, label in zip(named, heights, strict=True):
        out.append(
            f'<text class="name {_colour(point)}" x="{width - right + 10}" y="{label + 4:.1f}">'
            f"{escape(cut(point.name))}</text>"
        )
    return Markup("".join([*out, "</svg>"]))


def _open(width: int, height: int, words: str) -> str:
    label = escape(words)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'


def _colour(point: Point) -> str:
    return f"s{point.colour}" if point.colour < COLOURS else "rest"


def cut(name: str) -> str:
    """A run's name, shortened where it would not fit beside a chart."""
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def _spoken(points: Sequence[Point]) -> str:
    """The chart in words, for readers who do not see it."""
    return "; ".join(f"{p.name}: {p.y:.1f} ({p.low:.1f} to {p.high:.1f})" for p in points) + "."
