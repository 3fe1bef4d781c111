"""Measure answers of a whole archive against annotations, for `launch.evaluate --task vcmr`."""

import json
from pathlib import Path

from rich import box
from rich.table import Table

from data_pipeline.output import write_text
from trainer import cli
from trainer.metrics.corpus import CorpusEvaluation, evaluate_corpus, read_answers, read_questions


def measure_archive(predictions: Path, annotations: Path, output: Path | None) -> None:
    """Print the figures, and write them to `output` if that is named."""
    questions = read_questions(annotations)
    evaluation = evaluate_corpus(read_answers(predictions, questions), questions)
    cli.terminal().print(_table(evaluation, predictions, annotations))
    if output is None:
        return
    record = {
        "task": "vcmr",
        "predictions": str(predictions),
        "annotations": str(annotations),
        "queries": len(evaluation.qids),
        "left_out": evaluation.left_out,
        "metrics": evaluation.summary,
        "per_query": {name: list(values) for name, values in evaluation.per_query.items()},
    }
    write_text(output, json.dumps(record, indent=1, allow_nan=False) + "\n")


def _table(evaluation: CorpusEvaluation, predictions: Path, annotations: Path) -> Table:
    left_out = evaluation.left_out
    table = Table(
        title=f"{predictions} on {annotations}, moments of an archive",
        caption=f"{len(evaluation.qids)} questions, percent"
        + (f"; {left_out} that no video answers are left out" if left_out else ""),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("score", justify="right")
    for name, figure in evaluation.summary.items():
        table.add_row(name, f"{figure:.2f}")
    return table
