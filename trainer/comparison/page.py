"""The comparison as one page that needs no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation
from trainer.comparison.breakdown import breakdown
from trainer.comparison.charts import Point, interval_chart, scatter_chart
from trainer.comparison.compare import Comparison, Group
from trainer.comparison.runs import COSTS, FinishedRun
from trainer.comparison.versus import versus
from trainer.metrics import HEADLINES
from trainer.pictures.charts import COLOURS, Chart, Series, line_chart
from trainer.pictures.pages import write_page
from trainer.tracking.run_files import points

ROWS_DRAWN = 20  # runs in a chart of intervals; the tables have all
OPPONENTS = 3  # groups whose queries are compared one by one with the baseline's
CURVES = ("R1@0.7", "mAP", "HIT@1")  # figures whose course is drawn
BROKEN_DOWN = 6  # columns of a breakdown


def write_comparison_page(comparison: Comparison, path: Path) -> Path:
    """Write the page at `path` and return it."""
    groups = comparison.groups
    measured = [g for g in groups if _same_queries(g, comparison.baseline)]
    annotations = comparison.baseline.runs[0].annotations()
    return write_page(
        "compare.html",
        path,
        title=_title(comparison),
        comparison=comparison,
        meanings=HEADLINES,
        figures=_figure_charts(comparison),
        curves=_curves(comparison),
        tradeoffs=_tradeoffs(comparison),
        costs=[name for name in COSTS if any(name in g.costs for g in groups)],
        broken_down=measured[:BROKEN_DOWN],
        breakdown=_breakdown(measured[:BROKEN_DOWN], annotations, comparison),
        breakdown_metric=comparison.metrics[0],
        duels=_duels(measured, annotations),
    )


def _title(comparison: Comparison) -> str:
    others = comparison.groups[1:]
    what = others[0].name if len(others) == 1 else f"{len(others)} experiments"
    return f"{what} against {comparison.baseline.name}" if others else comparison.baseline.name


def _same_queries(group: Group, baseline: Group) -> bool:
    mine, theirs = group.runs[0].evaluation, baseline.runs[0].evaluation
    return mine is not None and theirs is not None and mine.qids == theirs.qids


def _breakdown(
    groups: Sequence[Group], annotations: Sequence[Annotation], comparison: Comparison
) -> dict[str, Any]:
    if not groups or not annotations:
        return {}
    return breakdown(groups, annotations, comparison.metrics[0])


def _duels(groups: Sequence[Group], annotations: Sequence[Annotation]) -> list[Any]:
    opponents = groups[1 : 1 + OPPONENTS] if annotations else []
    duels = [versus(groups[0], opponent, annotations) for opponent in opponents]
    return [duel for duel in duels if duel is not None]


# Charts


def _figure_charts(comparison: Comparison) -> list[tuple[str, Chart]]:
    charts = []
    for name in comparison.metrics:
        rows = [_point(i, group, name) for i, group in enumerate(comparison.groups[:ROWS_DRAWN])]
        charts.append((name, interval_chart(name, rows)))
    return charts


def _point(index: int, group: Group, metric: str, x: float = 0.0) -> Point:
    figure = group.figures[metric]
    low, high = figure.interval or (figure.value, figure.value)
    return Point(group.name, index, figure.value, low, high, x)


def _tradeoffs(comparison: Comparison) -> list[tuple[str, Chart]]:
    """The first headline figure against what it costs."""
    metric = comparison.metrics[0]
    charts = []
    for cost in ("trainable parameters", "pairs per second"):
        dots = [
            _point(index, group, metric, group.costs[cost])
            for index, group in enumerate(comparison.groups)
            if cost in group.costs
        ]
        if len({dot.x for dot in dots}) > 1:
            title = f"{metric} and {cost}"
            charts.append((title, scatter_chart(title, cost, f"{metric}, percent", dots)))
    return charts


def _curves(comparison: Comparison) -> list[tuple[str, Chart]]:
    """Training curves of the first groups laid over each other."""
    wanted: list[tuple[str, str, str, str, str, tuple[float, float] | None]] = [
        ("Training loss", "train", "loss", "step", "loss", None)
    ]
    wanted += [
        (f"{name} on the selection split", "eval", name, "epoch", "percent", (0.0, 100.0))
        for name in comparison.metrics
        if name in CURVES
    ]
    charts = []
    for title, kind, key, x, unit, span in wanted:
        lines = [
            Series(group.name, _mean_curve(group.runs, kind, key, x))
            for group in comparison.groups[:COLOURS]
        ]
        chart = line_chart(title, x, unit, lines, y_range=span)
        if chart is not None:
            charts.append((title, chart))
    return charts


def _mean_curve(
    runs: Sequence[FinishedRun], kind: str, key: str, x: str
) -> list[tuple[float, float]]:
    """The mean over a group's seeds, as far as all of them have come."""
    curves = [dict(points(run.records[kind], key, x)) for run in runs]
    shared = [place for place in curves[0] if all(place in curve for curve in curves)]
    return [(place, sum(curve[place] for curve in curves) / len(curves)) for place in shared]
