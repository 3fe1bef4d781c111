"""What do the files of a run's folder say? Read for reports and comparisons."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.untrusted import parse_json, read_json

UNNAMED = "not named"
"""The data of a run that does not say what they are called."""

Records = dict[str, list[dict[str, Any]]]


def read_result(path: Path) -> dict[str, Any]:
    """A run's metrics.json: `metrics`, `baselines`, `provenance`; InputError if it is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; finish or evaluate the run")
    result = read_json(path, nan=True)
    whole = isinstance(result, dict) and _are_figures(result.get("metrics"))
    if whole:
        result = {"baselines": {}, "provenance": {}} | result
        baselines = result["baselines"]
        whole = isinstance(baselines, dict) and all(map(_are_figures, baselines.values()))
        whole = whole and isinstance(result["provenance"], dict)
    if not whole:
        raise InputError(f"{path}: holds no 'metrics' as we write them; evaluate the run again")
    return dict(result) | {"provenance": told_apart(result["provenance"])}


def told_apart(provenance: dict[str, Any]) -> dict[str, Any]:
    """A provenance in which `dataset` is the data's name and `convention` that of the metrics.

    Earlier versions called the convention `dataset`, and did not name the data.
    """
    if "dataset" not in provenance or "convention" in provenance:
        return provenance
    names = {"dataset": UNNAMED, "convention": provenance["dataset"]}
    return names | {key: value for key, value in provenance.items() if key != "dataset"}


def _are_figures(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def read_records(path: Path) -> Records:
    """Training and evaluation records by step; of a step that a resumed run repeated the later."""
    latest: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    if path.is_file():
        for record in whole_records(path):
            if record["kind"] in latest:
                steps, step = latest[record["kind"]], record["step"]
                steps[step] = steps.get(step, {}) | record
    return {kind: [by_step[step] for step in sorted(by_step)] for kind, by_step in latest.items()}


def whole_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl that name their kind and step; a damaged line costs itself."""
    with open(path, "rb") as file:
        for line in file:
            record = parse_record(line)
            if record is not None:
                yield record


def parse_record(line: bytes) -> dict[str, Any] | None:
    """A line of a metrics.jsonl, None if it was cut off or altered."""
    try:
        record = parse_json(line, "record", nan=True)
    except InputError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    whole = 0 <= record["step"] < 2**53 and all(
        isinstance(value, str) if key == "kind" else type(value) in (int, float)
        for key, value in record.items()
    )
    return record if whole and "kind" in record else None


def is_number(value: Any) -> bool:
    """Whether a value of a record can be drawn."""
    # Whole numbers in JSON have no bound, and floats beyond this one no sum or difference.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def points(records: list[dict[str, Any]], key: str, x: str) -> list[tuple[float, float]]:
    """(x, key) of the records that hold both."""
    return [(r[x], r[key]) for r in records if is_number(r.get(x)) and is_number(r.get(key))]
