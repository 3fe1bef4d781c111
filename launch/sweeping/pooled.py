"""What do runs that each report a part of one split score together?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipeline.annotations import Annotation, write_annotations
from data_pipeline.errors import InputError
from data_pipeline.output import write_text
from data_pipeline.untrusted import read_json, reading
from trainer.cli import terminal
from trainer.metrics import evaluate, read_ground_truth, read_predictions
from trainer.metrics.rows import Row
from trainer.tracking.run_files import told_apart

SAME = ("dataset", "convention", "selection", "code", "features.video", "features.text")
"""What a provenance of all of them must say alike to be said of the whole."""


def pool(runs: Sequence[Path], output: Path) -> dict[str, Any]:
    """Put the predictions of `runs` together, score them as one, and write all of it to `output`.

    Every model is judged on queries that it has not seen, and every query once: a domain's figure
    is the mean over its folds, the headline the mean over domains. Raises InputError where two runs
    answer the same query, or are scored by two conventions.
    """
    rows: list[Row] = []
    annotations: list[Annotation] = []
    origins: list[dict[str, Any]] = []
    for run in runs:
        with reading(run / "metrics.json", "is it a run that ended?"):
            origins.append(told_apart(dict(read_json(run / "metrics.json")["provenance"])))
        convention = origins[-1].get("convention")
        if convention != origins[0].get("convention"):
            raise InputError(f"{run}: is scored as {convention}, {runs[0]} otherwise")
        theirs = read_ground_truth(run / "annotations.jsonl", str(convention))
        rows += read_predictions(run / "predictions.jsonl", theirs)
        annotations += theirs
    evaluation = evaluate(rows, annotations, dataset=str(origins[0]["convention"]))
    values = {name: {str(origin.get(name)) for origin in origins} for name in SAME}
    result = {
        "metrics": evaluation.summary,
        "provenance": {
            **{name: " | ".join(sorted(found)) for name, found in values.items()},
            "report": f"{len(annotations)} queries, each by the one of {len(runs)} runs that did "
            "not learn from its video",
            "parts": [
                str(origin.get("part", run.name)) for run, origin in zip(runs, origins, strict=True)
            ],
        },
        "warnings": list(evaluation.warnings),
    }
    write_text(output / "predictions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_annotations(output / "annotations.jsonl", annotations)
    write_text(output / "metrics.json", json.dumps(result, indent=2) + "\n")
    return result


def tell(result: dict[str, Any], output: Path) -> None:
    """Print the figures and what they measure."""
    console = terminal(soft_wrap=True)
    table = Table(*result["metrics"], box=None)
    table.add_row(*(f"{figure:.2f}" for figure in result["metrics"].values()))
    console.print(table)
    for key in ("dataset", "convention", "selection", "report"):
        console.print(f"{key}: {result['provenance'][key]}")
    for warning in result["warnings"]:
        console.print(f"note: {warning}", style="yellow")
    console.print(f"all of it: {output}")
