"""A chart says what it was given, whatever the numbers and whatever the names."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from trainer.comparison.charts import Point, interval_chart, scatter_chart
from trainer.pictures.charts import MAX_POINTS, Chart, Series, cut, library, line_chart

HOSTILE = '</script> datum.x ${1} $a$ [0].b {{c}} "q"\'s'


def draw(*series: Series) -> Chart:
    chart = line_chart("Loss", "step", "loss", series)
    assert chart is not None
    return chart


def rows(chart: Chart, name: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = chart.specification["datasets"][name]
    return table


def test_chart_without_finite_points_is_left_out() -> None:
    empty = [Series("a", []), Series("b", [(1, float("nan"))])]
    assert line_chart("Loss", "step", "loss", empty) is None


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.0], [7.0], [1e-4, 5e-4], [2e6, 3e6], [-1.0, 1.0], [1e-9, 2e-9], [9e299] * 999],
)
def test_every_value_lies_within_the_axis(values: list[float]) -> None:
    chart = draw(Series("a", list(enumerate(values))))
    low, high = next(
        layer["encoding"]["y"]["scale"]["domain"]
        for layer in chart.specification["layer"]
        if "scale" in layer["encoding"].get("y", {})
    )
    assert low < high
    assert all(low <= row["low"] <= row["high"] <= high for row in rows(chart, "lines"))
    json.dumps(chart.specification, allow_nan=False)


def test_many_points_become_means_in_a_band_of_extremes() -> None:
    bins = rows(draw(Series("a", [(i, i % 2) for i in range(1000)])), "lines")
    assert len(bins) == MAX_POINTS
    assert {(row["y"], row["low"], row["high"]) for row in bins} == {(0.4, 0, 1), (0.6, 0, 1)}


def test_a_line_keeps_its_colour_where_others_have_no_points() -> None:
    chart = draw(Series("a", []), Series("b", [(0, 1), (1, 2)]))
    assert {row["line"] for row in rows(chart, "lines")} == {1}


def test_what_is_told_at_a_place_is_where_all_lines_are_there() -> None:
    chart = draw(
        Series("long", [(step, 0.5 * step) for step in range(5)]),
        Series("short", [(1, 12345.678), (3, 1.23456)]),
    )
    assert [row["told"] for row in rows(chart, "told")] == [
        [("step", "0"), ("long", "0")],
        [("step", "1"), ("long", "0.5"), ("short", "12,346")],
        [("step", "2"), ("long", "1"), ("short", "12,346")],
        [("step", "3"), ("long", "1.5"), ("short", "1.235")],
        [("step", "4"), ("long", "2")],
    ]


def test_a_chart_is_also_in_words() -> None:
    assert draw(Series("a", [(0, 3), (1, 1.25)])).words == "Loss over step. a: from 3 to 1.25."


LINES = [Series(HOSTILE, [(0, 1), (1, 2)]), Series("b", [(0, 1), (1, 2)])]
POINTS = [Point(HOSTILE, 0, 50.0, 40.0, 60.0, 1.0), Point("b", 7, 40.0, 40.0, 40.0, 2.0)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: draw(*LINES),
        lambda: interval_chart("mAP", POINTS),
        lambda: scatter_chart("mAP and cost", "cost", "mAP", POINTS),
    ],
    ids=["lines", "intervals", "scatter"],
)
def test_a_name_is_in_a_chart_as_data_only(make: Callable[[], Chart]) -> None:
    chart = make()
    code = {**chart.specification, "datasets": {}}
    names = [param for param in code["params"] if param["name"] == "names"]
    assert names[0]["value"][0] == cut(HOSTILE)
    told = [value for row in rows(chart, "told") for pair in row["told"] for value in pair]
    assert HOSTILE in told
    names[0]["value"] = []
    assert not any(part in json.dumps(code) for part in (HOSTILE, cut(HOSTILE), "script"))


def test_the_library_leaves_one_name() -> None:
    assert re.findall(r"window\.(\w+)=(?!=)", library()) == ["vegaEmbed"]
    assert library().startswith("(() => {")


def test_nothing_in_the_library_ends_the_script_that_it_stands_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda _: "a = '</Script><!--<script>'")
    script = library.__wrapped__()
    assert script == r"(() => {a = '\x3C/Script>\x3C!--\x3Cscript>'" + "\n})();"
