"""A chart can be read: labelled, within its frame, whatever the numbers."""

import itertools
import re

import pytest

from trainer.pictures.charts import Series, line_chart


def draw(*series: Series) -> str:
    return str(line_chart("Loss", "step", "loss", series))


def test_chart_without_finite_points_is_left_out() -> None:
    assert draw(Series("a", []), Series("b", [(1, float("nan"))])) == ""


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [7.0], [1e-4, 5e-4], [2e6, 3e6], [-1.0, 1.0], [1e-9, 2e-9]]
)
def test_every_line_stays_within_the_frame(values: list[float]) -> None:
    svg = draw(Series("a", list(enumerate(values))))
    width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    circles = re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', svg)
    assert circles
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in circles)


def test_many_points_become_means_in_a_band_of_extremes() -> None:
    svg = draw(Series("a", [(i, i % 2) for i in range(1000)]))
    assert 'class="band s0"' in svg
    assert svg.count("L") < 1000


def test_names_of_lines_that_end_together_do_not_overlap() -> None:
    svg = draw(*(Series(f"line {i}", [(0, 0), (1, 5 + i / 100)]) for i in range(6)))
    heights = sorted(float(y) for y in re.findall(r'class="name s\d" x="[\d.]+" y="([\d.]+)"', svg))
    assert all(b - a >= 12.9 for a, b in itertools.pairwise(heights))


def test_names_are_escaped() -> None:
    svg = draw(Series("<b>", [(0, 1), (1, 2)]), Series("c", [(0, 1), (1, 2)]))
    assert "<b>" not in svg
    assert "&lt;b&gt;" in svg


def test_small_and_large_ticks_are_short() -> None:
    assert ">4e-4<" in draw(Series("a", [(0, 0), (20000, 1e-3)]))
    assert ">20k<" in draw(Series("a", [(0, 0), (20000, 1e-3)]))
