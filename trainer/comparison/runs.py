"""What does a comparison know of one finished run? Everything is read from the run's files."""

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
from data_pipeline.untrusted import read_yaml
from trainer.config import CARRIED_OUT
from trainer.metrics import Evaluation
from trainer.metrics.storage import read_evaluation
from trainer.tracking.run_files import Records, is_number, read_records, read_result
from trainer.tracking.tracking import flatten

FILES = (
    "config.yaml",
    "metrics.json",
    "metrics.jsonl",
    "per_query.json",
    "predictions.jsonl",
    "annotations.jsonl",
)
"""The files of a run that a comparison reads."""

NOT_THE_EXPERIMENT = {
    *CARRIED_OUT,
    *("name", "runs", "seed", "videos", "keep", "tracking", "deterministic", "compile"),
}
"""Settings (or their sections) that say where and by what means, not what was learned."""


@dataclass(frozen=True)
class FinishedRun:
    """One run: its `name`, the `folder` that its files lie in, and what they say.

    `source` is how it was found: the folder, or the id of an MLflow run. `parameters` are the
    settings under dotted names; `result` is metrics.json; `evaluation` what each query scored, None
    for a run that kept no per_query.json; `records` its training curves.
    """

    name: str
    source: str
    folder: Path
    parameters: dict[str, str]
    result: dict[str, Any]
    records: Records
    evaluation: Evaluation | None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures on the report split, in percent."""
        return {name: value for name, value in self.result["metrics"].items() if is_number(value)}

    @property
    def provenance(self) -> dict[str, str]:
        """What the figures measure, under flat names."""
        return flatten(self.result["provenance"])

    @property
    def experiment(self) -> dict[str, str]:
        """The settings that decide what is learned: all but the seed, places and rhythms."""
        return {
            name: value
            for name, value in self.parameters.items()
            if not {name, name.partition(".")[0]} & NOT_THE_EXPERIMENT
        }

    @cached_property
    def costs(self) -> dict[str, float]:
        """What training cost, as far as it was recorded; see `COSTS`."""
        return dict(_costs(self.result, self.records["train"]))

    def annotations(self) -> list[Annotation]:
        """The ground truth of the report split; empty where the run kept none."""
        path = self.folder / "annotations.jsonl"
        return read_annotations(path) if path.is_file() else []


COSTS = {
    "trainable parameters": "numbers that training may change",
    "pairs per second": "median over the training records, all ranks together",
    "memory, GB": "most that one rank held while training",
    "wall time, s": "from the first to the last training record",
}


def _costs(result: dict[str, Any], records: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    def column(key: str) -> list[float]:
        return [record[key] for record in records if is_number(record.get(key))]

    if is_number(result.get("trainable_parameters")):
        yield "trainable parameters", result["trainable_parameters"]
    if rates := column("pairs_per_second"):
        yield "pairs per second", statistics.median(rates)
    if memory := column("cuda_peak_gb") or column("memory_gb"):
        yield "memory, GB", max(memory)
    times = column("time")
    if len(times) > 1:
        # A clock that starts anew with each resumption goes back; its reading is then the step.
        yield "wall time, s", sum(b - a if b >= a else b for a, b in itertools.pairwise(times))


def read_run(folder: Path, name: str, source: str) -> FinishedRun:
    """The run whose files lie in `folder`; InputError names what is missing or damaged."""
    config = folder / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config}: no such file; is this a run's folder?")
    settings = read_yaml(config)
    if not isinstance(settings, dict):
        raise InputError(f"{config}: holds no settings; is this a run's folder?")
    evaluation = folder / "per_query.json"
    return FinishedRun(
        name=name,
        source=source,
        folder=folder,
        parameters=flatten(settings),
        result=read_result(folder / "metrics.json"),
        records=read_records(folder / "metrics.jsonl"),
        evaluation=read_evaluation(evaluation) if evaluation.is_file() else None,
    )
