"""What does a run's result say, what does it measure, and where is it kept?"""

import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from data_pipeline.annotations import Annotation, write_annotations
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.stream import PairStream
from model.sdst.sdst import SDST
from trainer.cli import dump_config
from trainer.config import Config
from trainer.inference.pretrained import Export, encoder_of
from trainer.metrics import Evaluation
from trainer.metrics.storage import write_evaluation
from trainer.pictures.report import HEADLINES
from trainer.training import checkpoints


def provenance(config: Config, features: FeatureSet) -> dict[str, str]:
    """What a number of this run measures."""
    return {
        "dataset": config.eval.dataset,
        "report": split_of(config.data.report) if config.data.report else "none",
        "selection": (
            f"best {' + '.join(config.eval.metric)} on {split_of(config.data.selection)}"
            if config.data.selection
            else "last epoch"
        ),
        "seed": str(config.seed),
        "code": code_revision(),
        **{f"features.{key}": value for key, value in features.provenance.summary().items()},
    }


def nesting() -> dict[str, str]:
    """The tag that puts a run under the MLflow run of the sweep that started it, if one did."""
    parent = os.environ.get("MLFLOW_PARENT_RUN_ID")
    return {"mlflow.parentRunId": parent} if parent else {}


@cache
def split_of(folder: Path) -> str:
    """`stamp` of the features in a folder."""
    return stamp(FeatureSet(folder))


def stamp(features: FeatureSet) -> str:
    """Folder and split of features; that it is a test split is not to be overlooked."""
    split = "THE TEST SPLIT" if features.split == "test" else f"split {features.split}"
    return f"{features.folder} ({split})"


def coverage(split: PairStream, scored: int) -> str:
    """How many queries of a split a score is over; missing ones are not to be overlooked."""
    missing = split.annotated - scored
    return f"{scored} of {split.annotated}" + (f", {missing} DAMAGED LEFT OUT" if missing else "")


def code_revision() -> str:
    """The commit of the checkout that this file lies in, of the image (SDST_REVISION), or the
    installed version."""
    folder = Path(__file__).resolve().parent
    try:
        revision = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("SDST_REVISION"):
            return os.environ["SDST_REVISION"]
        try:
            return f"sdst {version('sdst')}"
        except PackageNotFoundError:
            return "unknown"
    return revision


def export(config: Config, features: FeatureSet, model: SDST) -> None:
    """Write the run's model folder: weights, and everything that prediction must know."""
    description = Export(
        model=config.model,
        encoder=encoder_of(features.provenance),
        features=features.provenance,
        postprocess=config.eval.postprocess,
        max_clips=max(sample.clips for sample in features.samples),
        provenance=provenance(config, features),
    )
    checkpoints.export(config.folder / "model", model, dump_config(description))


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write metrics.json, which makes a run a finished one."""
    temporary = folder / ".metrics.json.tmp"
    temporary.write_text(json.dumps(result, indent=2))
    temporary.replace(folder / "metrics.json")


def trainable_parameters(model: SDST) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


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
    for key, value in result["provenance"].items():
        console.print(f"{key}: {value}", highlight=False)
