"""One self-contained page per run: what was measured, how training went, what the model finds."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation
from data_pipeline.untrusted import read_text, reading
from trainer.metrics import HEADLINES, Evaluation
from trainer.metrics.bootstrap import LEVEL, few_videos, intervals
from trainer.metrics.kinds import Row, by_kind, in_order
from trainer.metrics.storage import read_evaluation
from trainer.pictures.charts import Chart, Series, line_chart
from trainer.pictures.curves import precision_chart, recall_chart, reliability_chart
from trainer.pictures.examples import Pair, draw_example, evenly_spaced, pair_up
from trainer.pictures.pages import write_page
from trainer.pictures.timeline import clock
from trainer.tracking.run_files import Records, is_number, points, read_records, read_result

EXAMPLES = 6
WORST = 10
LISTED = 2000  # queries of the list that can be searched, the worst of them
PLACE = (
    "kind",
    "step",
    "epoch",
    "time",
    "loss",
)  # keys of a training record that get no chart of their own
FASTEST, SLOWEST = "_fastest_rank", "_slowest_rank"  # ends of the keys beside that of the mean


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
    result = read_result(run_folder / "metrics.json")
    records = read_records(run_folder / "metrics.jsonl")
    with reading(run_folder, "evaluate the run again"):  # whatever its files hold
        pairs = pair_up(run_folder / "predictions.jsonl", annotations)
        config = run_folder / "config.yaml"
        kept = run_folder / "per_query.json"
        evaluation = read_evaluation(kept) if kept.is_file() else None
        spread = intervals(evaluation) if evaluation else {}
        ranked = list(enumerate(pairs))
        return write_page(
            "report.html",
            run_folder / output,
            name=run_folder.resolve().name,
            headlines=_headlines(result),
            table=_table(result),
            intervals=spread,
            level=f"{LEVEL:.0%}",
            few=few_videos(evaluation) if evaluation else "",
            kinds=_kinds(evaluation, annotations, run_folder.name),
            curves=_titled(
                [
                    ("Recall over IoU", recall_chart(pairs)),
                    ("Precision over recall", precision_chart(pairs)),
                    (
                        RELIABILITY,
                        reliability_chart(run_folder / "predictions.jsonl", annotations),
                    ),
                ]
            ),
            worst=[draw_example(rank, pair, videos) for rank, pair in ranked[-WORST:][::-1]],
            listed=[_listed(rank, pair) for rank, pair in ranked[-LISTED:][::-1]],
            baselines=list(result["baselines"]),
            charts=_training_charts(records),
            pieces=_pieces(records),
            examples=[
                draw_example(rank, pair, videos) for rank, pair in evenly_spaced(pairs, EXAMPLES)
            ],
            queries=len(pairs),
            spread=_spread_chart(pairs),
            provenance=_flatten(result["provenance"]),
            config=read_text(config) if config.is_file() else None,
        )


# Numbers


def _headlines(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "value": result["metrics"][name],
            "meaning": meaning,
            "baselines": [
                (baseline, numbers[name])
                for baseline, numbers in result["baselines"].items()
                if is_number(numbers.get(name))
            ],
        }
        for name, meaning in HEADLINES.items()
        if is_number(result["metrics"].get(name))
    ]


def _table(result: dict[str, Any]) -> list[tuple[str, list[float | None]]]:
    """(metric, [this run, each baseline]); headline numbers first, then as the run has them."""
    metrics = {name: value for name, value in result["metrics"].items() if is_number(value)}
    names = [name for name in HEADLINES if name in metrics]
    names += [name for name in metrics if name not in HEADLINES]
    columns = [metrics, *result["baselines"].values()]
    return [
        (name, [c[name] if is_number(c.get(name)) else None for c in columns]) for name in names
    ]


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


KINDS = ("length of the moment", "moments asked for", "place of the first moment")


def _kinds(
    evaluation: Evaluation | None, annotations: Sequence[Annotation], name: str
) -> tuple[list[str], dict[str, list[Row]]]:
    """Headline figures by kind of query: their names, and tables with a value for each."""
    metrics = [key for key in HEADLINES if evaluation and key in evaluation.per_query]
    if not evaluation or not metrics:
        return [], {}
    ordered = in_order(evaluation.qids, annotations, name)
    tables = by_kind(ordered, [evaluation.per_query[key] for key in metrics])
    return metrics, {kind: rows for kind, rows in tables.items() if kind in KINDS}


def _listed(rank: int, pair: Pair) -> dict[str, Any]:
    """A row of the list of queries."""
    found = pair.timeline.windows[0] if pair.timeline.windows else None
    return {
        "rank": rank + 1,
        "query": pair.annotation.query,
        "vid": pair.annotation.vid,
        "iou": pair.iou,
        "truth": ", ".join(f"{clock(s)} – {clock(e)}" for s, e in pair.timeline.truth or ()),
        "found": f"{clock(found[0])} – {clock(found[1])}" if found else "nothing",
    }


# Curves


RELIABILITY = "Reliability"
Titled = tuple[str, Chart]


def _titled(charts: Iterable[tuple[str, Chart | None]]) -> list[Titled]:
    """Those for which there is something to draw."""
    return [(title, chart) for title, chart in charts if chart is not None]


def _training_charts(records: Records) -> list[Titled]:
    loss = [Series("loss", points(records["train"], "loss", "step"))]
    metrics = [Series(name, points(records["eval"], name, "epoch")) for name in HEADLINES]
    title, percent = "Validation metrics", (0.0, 100.0)
    return _titled(
        [
            ("Loss", line_chart("Loss", "step", "loss", loss)),
            (title, line_chart(title, "epoch", "percent", metrics, y_range=percent)),
        ]
    )


def _pieces(records: Records) -> list[Titled]:
    """A small chart for everything else that training logged: parts of the loss, rates, norms."""
    train = records["train"]
    keys = dict.fromkeys(key for record in train for key in record if key not in PLACE)
    pieces = []
    for key in keys:
        if key.removesuffix(FASTEST).removesuffix(SLOWEST) in keys.keys() - {key}:
            continue  # stands beside the mean
        name = key.replace("_", " ")
        lines = {name: points(train, key, "step")}
        ranks = {
            "fastest rank": points(train, key + FASTEST, "step"),
            "slowest rank": points(train, key + SLOWEST, "step"),
        }
        if any(line not in ([], lines[name]) for line in ranks.values()):  # of several processes
            lines = {"mean": lines[name]} | ranks
        if key == "pairs_replaced" and not any(y for _, y in lines[name]):
            continue  # nothing was damaged
        series = [Series(*line) for line in lines.items()]
        pieces.append((name, line_chart(name, "step", "", series, height=160)))
    return _titled(pieces)


def _spread_chart(pairs: Sequence[Pair]) -> Chart | None:
    """IoU of the first window of every query, best to worst, the shown examples marked."""
    if len(pairs) < 2:
        return None
    share = 100 / (len(pairs) - 1)
    overlaps = [(rank * share, pair.iou) for rank, pair in enumerate(pairs)]
    return line_chart(
        "Overlap of the first window with the truth, all queries from best to worst",
        "share of queries, %",
        "IoU of the first window",
        [Series("IoU", overlaps)],
        y_range=(0, 1),
        marks=[(rank * share, pair.iou) for rank, pair in evenly_spaced(pairs, EXAMPLES)],
        height=220,
    )
