"""What do the files of a run's folder say? Read for reports and comparisons."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.annotations import iter_rows
from data_pipeline.errors import InputError

Records = dict[str, list[dict[str, Any]]]


def read_result(path: Path) -> dict[str, Any]:
    """A run's metrics.json: `metrics`, `baselines`, `provenance`; InputError if it is none."""
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


def read_records(path: Path) -> Records:
    """Training and evaluation records by step; of a step that a resumed run repeated the later."""
    latest: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    if path.is_file():
        for _, record in iter_rows(path):
            if isinstance(record, dict) and record.get("kind") in latest:
                steps, step = latest[record["kind"]], int(record.get("step", 0))
                steps[step] = steps.get(step, {}) | record
    return {kind: [by_step[step] for step in sorted(by_step)] for kind, by_step in latest.items()}


def is_number(value: Any) -> bool:
    """Whether a value of a record can be drawn."""
    # Whole numbers in JSON have no bound, and floats beyond this one no sum or difference.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def points(records: list[dict[str, Any]], key: str, x: str) -> list[tuple[float, float]]:
    """(x, key) of the records that hold both."""
    return [(r[x], r[key]) for r in records if is_number(r.get(x)) and is_number(r.get(key))]
