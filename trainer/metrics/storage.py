"""What every query scored, as a file beside a run's predictions: per_query.json.

{"dataset", "summary", "qids": [...], "vids": [...], "per_query": {name: [fraction or null, ...]}}

Columns, not rows: two hundred runs of 1550 queries are read in a second.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.output import write_text
from data_pipeline.untrusted import read_json, reading, shown
from trainer.metrics.evaluation import Evaluation

DIGITS = 6


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write what each query scored; the file appears complete or not at all."""
    columns = {
        name: [None if np.isnan(value) else round(float(value), DIGITS) for value in values]
        for name, values in evaluation.per_query.items()
    }
    record = {
        "dataset": evaluation.dataset,
        "summary": evaluation.summary,
        "qids": evaluation.qids,
        "vids": evaluation.vids,
        "domains": evaluation.domains,
        "per_query": columns,
    }
    write_text(path, json.dumps(record, allow_nan=False))


def read_evaluation(path: Path) -> Evaluation:
    """The evaluation of a file that `write_evaluation` wrote, its queries sorted by id.

    Runs on the same split may have seen it in another order; sorted, they can be compared query by
    query. Raises InputError naming the file.
    """
    with reading(path, "evaluate the run again"):
        record = read_json(path)
        qids, vids, domains = record["qids"], record["vids"], record["domains"]
        _check(qids, int | str)
        _check(vids, str)
        _check(domains or [], str)
        _check(list(record["summary"].values()), int | float)
        order = sorted(range(len(qids)), key=lambda i: str(qids[i]))
        return Evaluation(
            dataset=record["dataset"],
            summary=record["summary"],
            per_query={
                name: np.array(values, dtype=np.float64)[order]
                for name, values in record["per_query"].items()
            },
            qids=tuple(qids[i] for i in order),
            vids=tuple(vids[i] for i in order),
            domains=None if domains is None else tuple(domains[i] for i in order),
        )


def _check(values: list[Any], kind: Any) -> None:
    """Raises TypeError unless all are of a kind."""
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise TypeError(f"{shown(values)} are not {kind}")
