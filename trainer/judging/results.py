"""What does a run's result say, what does it measure, and where is it kept?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.annotations import Annotation, write_annotations
from data_pipeline.features.shards import FeatureSet
from data_pipeline.output import write_text
from data_pipeline.stream.stream import PairStream
from model.interface import GroundingModel
from trainer.cli import dump_config
from trainer.config import Config
from trainer.inference.calibration import Calibration
from trainer.inference.pretrained import Export, encoder_of
from trainer.metrics import HEADLINES, ZERO_SHOT, Evaluation, not_beaten
from trainer.metrics.storage import write_evaluation
from trainer.training import checkpoints
from trainer.training.provenance import provenance


def coverage(split: PairStream, scored: int) -> str:
    """How many queries of a split a score is over; missing ones are not to be overlooked."""
    missing = split.annotated - scored
    return f"{scored} of {split.annotated}" + (f", {missing} DAMAGED LEFT OUT" if missing else "")


def export(
    config: Config,
    features: FeatureSet,
    model: GroundingModel,
    calibration: Calibration,
) -> None:
    """Write the run's model folder: weights, and everything that prediction must know."""
    description = Export(
        model=config.model,
        encoder=encoder_of(features.provenance),
        features=features.provenance,
        postprocess=config.eval.postprocess,
        max_clips=int(features.columns.clips.max()),
        provenance=provenance(config, features),
        calibration=calibration,
    )
    checkpoints.export(config.folder / "model", model, dump_config(description))


def found_from(config: Config, calibration: Calibration) -> dict[str, str]:
    """From where on something counts as found, and who said so; nothing of other models."""
    if not config.model.existence:
        return {}
    return {"found": f"from {calibration.threshold:.4f} on; calibrated on {calibration.fitted}"}


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write metrics.json, which makes a run a finished one."""
    write_text(folder / "metrics.json", json.dumps(result, indent=2))


def write_queries(folder: Path, annotations: Sequence[Annotation], evaluation: Evaluation) -> None:
    """Write what every query asked for and scored, so that runs can be compared without the data.

    annotations.jsonl is the ground truth of the report split, per_query.json the run's figures.
    """
    write_annotations(folder / "annotations.jsonl", annotations)
    write_evaluation(folder / "per_query.json", evaluation)


def print_result(result: dict[str, Any], console: Console) -> None:
    """The reported metrics beside the baselines, and what they measure."""
    columns = {"this model": result["metrics"], **result["baselines"]}
    names = [name for name in HEADLINES if name in result["metrics"]]
    table = Table("", *names, box=None)
    for label, numbers in columns.items():
        table.add_row(label, *(f"{numbers[name]:.2f}" for name in names))
    console.print(table)
    unbeaten = not_beaten(result["metrics"], result["baselines"].get(ZERO_SHOT, {}))
    if unbeaten:
        line = f"this model does not beat {ZERO_SHOT} in {', '.join(unbeaten)}"
        console.print(Text(line, style="bold red"), soft_wrap=True)
    for key, value in result["provenance"].items():
        console.print(f"{key}: {value}")
