"""Line charts as inline SVG; colours and fonts come from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trainer.pictures.timeline import ticks

MAX_POINTS = 120  # more would not be told apart at the width of a chart


LEFT, TOP, BOTTOM = 44, 12, 40  # room for ticks and labels around the plot, in units of the drawing


@dataclass(frozen=True)
class Axes:
    """The plot of a drawing of `width` x `height`, with `right` units beside it for names.

    `x` and `y` are the (least, greatest) values that it spans.
    """

    width: int
    height: int
    right: int
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the drawing."""
        (x_low, x_high), (y_low, y_high) = self.x, self.y
        x_scale = (self.width - LEFT - self.right) / ((x_high - x_low) or 1.0)
        y_scale = (self.height - TOP - BOTTOM) / ((y_high - y_low) or 1.0)
        return LEFT + (x - x_low) * x_scale, self.height - BOTTOM - (y - y_low) * y_scale

    def draw(self, x_label: str, y_label: str, x_ticks: int) -> list[str]:
        """Grid, about `x_ticks` ticks below and five on the left, and the labels."""
        out = []
        for value in ticks(*self.y, 5):
            _, y = self.at(self.x[0], value)
            out.append(
                f'<path class="grid" d="M{LEFT} {y:.1f}H{self.width - self.right}"/>'
                f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">'
                f"{short(value)}</text>"
            )
        for value in ticks(*self.x, x_ticks):
            x, _ = self.at(value, self.y[0])
            out.append(
                f'<text class="tick" x="{x:.1f}" y="{self.height - BOTTOM + 17}" '
                f'text-anchor="middle">{short(value)}</text>'
            )
        centre_x = (LEFT + self.width - self.right) / 2
        centre_y = (TOP + self.height - BOTTOM) / 2
        out.append(
            f'<text class="axis" x="{centre_x:.0f}" y="{self.height - 6}" text-anchor="middle">'
            f"{escape(x_label)}</text>"
            f'<text class="axis" transform="translate(11 {centre_y:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(y_label)}</text>'
        )
        return out


def open_svg(width: int, height: int, words: str) -> str:
    """The beginning of a drawing that screen readers read as `words`."""
    label = escape(words)
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'


@dataclass(frozen=True)
class Series:
    """One named line; points without a finite y are left out."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, float]] = (),
    size: tuple[int, int] = (400, 250),
) -> Markup:
    """An accessible <svg> with axes, grid and the lines' names at their ends.

    A series of more than `MAX_POINTS` points is drawn as means of equal parts over a pale band from
    the least to the greatest value of each part. `marks` are points drawn as dots.
    """
    drawn = [(line.name, _binned(line.points)) for line in series]
    drawn = [(name, bins) for name, bins in drawn if bins]
    if not drawn:
        return Markup("")
    xs = [x for _, bins in drawn for x, *_ in bins]
    x_low, x_high = min(0.0, min(xs)), max(xs)
    lows = [low for _, bins in drawn for *_, low, _ in bins]
    highs = [high for _, bins in drawn for *_, high in bins]
    y_low, y_high = y_range or rounded(min(lows), max(highs))
    named = len(drawn) > 1
    width, height = size
    longest = max(len(name) for name, _ in drawn)
    right = max(76, 20 + 7 * longest) if named else 14
    axes = Axes(width, height, right, (x_low, x_high), (y_low, y_high))
    at = axes.at

    out = [open_svg(width, height, _spoken(title, x_label, drawn))]
    out += axes.draw(x_label, y_label, (width - LEFT - right) // 55)
    label_heights = apart(
        [at(*bins[-1][:2])[1] for _, bins in drawn], gap=13, low=TOP, high=height - BOTTOM
    )
    for index, (name, bins) in enumerate(drawn):
        colour = f"s{index % 6}"
        if any(low < high for *_, low, high in bins):
            upper = [at(x, high) for x, _, _, high in bins]
            lower = [at(x, low) for x, _, low, _ in reversed(bins)]
            out.append(f'<path class="band {colour}" d="{_path(upper + lower)}Z"/>')
        out.append(f'<path class="line {colour}" d="{_path([at(x, y) for x, y, *_ in bins])}"/>')
        end_x, end_y = at(*bins[-1][:2])
        out.append(f'<circle class="dot {colour}" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3"/>')
        if named:
            out.append(
                f'<text class="name {colour}" x="{end_x + 8:.1f}" '
                f'y="{label_heights[index] + 4:.1f}">{escape(name)}</text>'
            )
    for x, y in (at(*mark) for mark in marks):
        out.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    out.append("</svg>")
    return Markup("".join(out))


def _binned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """(x, mean, least, greatest) of at most MAX_POINTS consecutive equal parts of the points."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    parts = min(len(finite), MAX_POINTS)
    bins = []
    for part in range(parts):
        chunk = finite[part * len(finite) // parts : (part + 1) * len(finite) // parts]
        ys = [y for _, y in chunk]
        bins.append((sum(x for x, _ in chunk) / len(chunk), sum(ys) / len(ys), min(ys), max(ys)))
    return bins


def rounded(low: float, high: float) -> tuple[float, float]:
    """A range that begins and ends on a tick; from 0 unless that would flatten the line."""
    if 0 <= low < 0.6 * high:
        low = 0.0
    if low == high:
        low, high = low - (abs(low) or 1.0), high + (abs(high) or 1.0)
    marks = ticks(low, high, 5)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights, moved as little as keeps labels `gap` apart and within [low, high]."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for rank, i in enumerate(order):
        floor = moved[order[rank - 1]] + gap if rank else low
        moved[i] = max(moved[i], floor)
    ceiling = high
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def short(value: float) -> str:
    """20000 -> '20k', 0.0004 -> '4e-4': tick labels that fit beside a small chart."""
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.005:
        exponent = math.floor(math.log10(abs(value)))
        return f"{value / 10**exponent:g}e{exponent}"
    return f"{value:g}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _spoken(
    title: str, x_label: str, drawn: Sequence[tuple[str, list[tuple[float, float, float, float]]]]
) -> str:
    """The chart in words, for readers who do not see it."""
    lines = [f"{name}: from {bins[0][1]:.3g} to {bins[-1][1]:.3g}" for name, bins in drawn]
    return f"{title} over {x_label}. " + "; ".join(lines) + "."
