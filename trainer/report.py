"""One self-contained page per run: what was measured, how training went, what the model finds."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from data_pipeline.annotations import Annotation, iter_rows
from data_pipeline.errors import InputError
from trainer.charts import Series, line_chart
from trainer.examples import Pair, draw_example, evenly_spaced, pair_up
from trainer.timeline import clock

HEADLINES = {
    "R1@0.5": "the first window overlaps a true one by at least 50 %",
    "R1@0.7": "the first window overlaps a true one by at least 70 %",
    "mAP": "ranking of all windows, IoU 0.50 to 0.95",
    "mIoU": "overlap of the first window with the truth",
    "HD-mAP": "ranking of clips by saliency",
    "HIT@1": "the most salient clip is a very good one",
}
EXAMPLES = 6
PLACE = (
    "kind",
    "step",
    "epoch",
    "time",
    "loss",
)  # keys of a training record that get no chart of their own


def write_report(
    run_folder: Path,
    annotations: Sequence[Annotation],
    videos: Path | None,
    output: str = "report.html",
) -> Path:
    """Write `run_folder/output` from the run's files and return its path.

    `annotations` are those that the run's predictions were measured against, `videos` the folder of
    their files (`<vid>.mp4`, …), None for a page without pictures. Needs the run's metrics.json;
    where training records, predictions, saliency or a video file are missing, the page says so in
    their place. Raises InputError for a folder that is not a finished run.
    """
    result = _read_result(run_folder / "metrics.json")
    records = _read_records(run_folder / "metrics.jsonl")
    pairs = pair_up(run_folder / "predictions.jsonl", annotations)
    config = run_folder / "config.yaml"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["clock"] = clock
    environment.filters["signed"] = lambda value: f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    page = environment.get_template("report.html").render(
        name=run_folder.resolve().name,
        headlines=_headlines(result),
        table=_table(result),
        baselines=list(result["baselines"]),
        charts=_training_charts(records),
        pieces=_pieces(records),
        examples=[
            draw_example(rank, pair, videos) for rank, pair in evenly_spaced(pairs, EXAMPLES)
        ],
        queries=len(pairs),
        spread=_spread_chart(pairs),
        provenance=_flatten(result["provenance"]),
        config=config.read_text(encoding="utf-8") if config.is_file() else None,
    )
    path = run_folder / output
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


# The run's files


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); finish or evaluate the run"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); evaluate the run again") from error
    if not isinstance(result, dict) or not isinstance(result.get("metrics"), dict):
        raise InputError(f"{path}: holds no 'metrics'; evaluate the run again")
    return {"baselines": {}, "provenance": {}} | result


def _read_records(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Training and evaluation records by step; of a step that a resumed run repeated the later."""
    latest: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    if path.is_file():
        for _, record in iter_rows(path):
            if isinstance(record, dict) and record.get("kind") in latest:
                steps, step = latest[record["kind"]], int(record.get("step", 0))
                steps[step] = steps.get(step, {}) | record
    return {kind: [by_step[step] for step in sorted(by_step)] for kind, by_step in latest.items()}


# Numbers


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _headlines(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "value": result["metrics"][name],
            "meaning": meaning,
            "baselines": [
                (baseline, numbers[name])
                for baseline, numbers in result["baselines"].items()
                if _number(numbers.get(name))
            ],
        }
        for name, meaning in HEADLINES.items()
        if _number(result["metrics"].get(name))
    ]


def _table(result: dict[str, Any]) -> list[tuple[str, list[float | None]]]:
    """(metric, [this run, each baseline]); headline numbers first, then as the run has them."""
    metrics = {name: value for name, value in result["metrics"].items() if _number(value)}
    names = [name for name in HEADLINES if name in metrics]
    names += [name for name in metrics if name not in HEADLINES]
    columns = [metrics, *result["baselines"].values()]
    return [(name, [c[name] if _number(c.get(name)) else None for c in columns]) for name in names]


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as (readable name, value) rows."""
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flatten(value, f"{name} · ")
        else:
            rows.append(
                (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            )
    return rows


# Curves


def _series(records: list[dict[str, Any]], name: str, key: str, x: str) -> Series:
    return Series(
        name, [(r[x], r[key]) for r in records if _number(r.get(x)) and _number(r.get(key))]
    )


def _training_charts(records: dict[str, list[dict[str, Any]]]) -> list[tuple[str, Markup]]:
    metrics = [_series(records["eval"], name, name, "epoch") for name in HEADLINES]
    charts = [
        (
            "Loss",
            line_chart("Loss", "step", "loss", [_series(records["train"], "loss", "loss", "step")]),
        ),
        (
            "Validation metrics",
            line_chart("Validation metrics", "epoch", "percent", metrics, y_range=(0, 100)),
        ),
    ]
    return [(title, chart) for title, chart in charts if chart]


def _pieces(records: dict[str, list[dict[str, Any]]]) -> list[tuple[str, Markup]]:
    """A small chart for everything else that training logged: parts of the loss, rates, norms."""
    keys = dict.fromkeys(key for record in records["train"] for key in record if key not in PLACE)
    pieces = []
    for key in keys:
        name = key.replace("_", " ")
        series = [_series(records["train"], name, key, "step")]
        pieces.append((name, line_chart(name, "step", "", series, size=(280, 170))))
    return [(name, chart) for name, chart in pieces if chart]


def _spread_chart(pairs: Sequence[Pair]) -> Markup:
    """IoU of the first window of every query, best to worst, the shown examples marked."""
    if len(pairs) < 2:
        return Markup("")
    share = 100 / (len(pairs) - 1)
    points = [(rank * share, pair.iou) for rank, pair in enumerate(pairs)]
    return line_chart(
        "Overlap of the first window with the truth, all queries from best to worst",
        "share of queries, %",
        "IoU of the first window",
        [Series("IoU", points)],
        y_range=(0, 1),
        marks=[(rank * share, pair.iou) for rank, pair in evenly_spaced(pairs, EXAMPLES)],
        size=(400, 220),
    )
