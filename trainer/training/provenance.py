"""Where does a run come from: which data, which code, which model?"""

import contextlib
import getpass
import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_pipeline.config import DataConfig
from data_pipeline.features.shards import FeatureSet
from model.interface import GroundingModel
from trainer.config import Config
from trainer.tracking.run_files import UNNAMED


def provenance(config: Config, features: FeatureSet) -> dict[str, str]:
    """What a number of this run measures."""
    return {
        **names_of(config),
        "report": split_of(config.data.report) if config.data.report else "none",
        **({"part": part_of(config.data)} if part_of(config.data) else {}),
        "selection": (
            f"best {' + '.join(config.eval.metric)} on {split_of(config.data.selection)}"
            if config.data.selection
            else "last epoch"
        ),
        "seed": str(config.seed),
        "code": code_revision(),
        **{f"features.{key}": value for key, value in features.provenance.summary().items()},
    }


def names_of(config: Config) -> dict[str, str]:
    """What the data are called, and whose convention they are measured by: two things."""
    return {"dataset": config.data.name or UNNAMED, "convention": config.eval.dataset}


def nesting() -> dict[str, str]:
    """The tag that puts a run under the MLflow run of the sweep that started it, if one did."""
    parent = os.environ.get("MLFLOW_PARENT_RUN_ID")
    return {"mlflow.parentRunId": parent} if parent else {}


def part_of(data: DataConfig) -> str:
    """Which of the splits' videos count, where that is not all of them."""
    domain = f"domain {data.domain}" if data.domain is not None else ""
    fold = f"fold {data.fold} of {data.folds} held out" if data.fold is not None else ""
    return ", ".join(filter(None, (domain, fold)))


def origin() -> dict[str, str]:
    """MLflow's own tags of where a run comes from: program, commit, user."""
    tags = {
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _git("rev-parse", "HEAD") or os.environ.get("SDST_REVISION"),
    }
    with contextlib.suppress(OSError, KeyError):  # a user without a name, as in containers
        tags["mlflow.user"] = getpass.getuser()
    return {name: text for name, text in tags.items() if text}


def as_dataset(role: str, features: FeatureSet) -> dict[str, str]:
    """A feature set as MLflow's records have datasets; `role` is what the run uses it for."""
    manifest = json.dumps(features.manifest, sort_keys=True)
    totals = {key: features.manifest["totals"][key] for key in ("videos", "queries", "clips")}
    return {
        "name": f"{features.manifest['annotations']['name']} ({features.split})"[:500],
        "digest": hashlib.sha256(manifest.encode()).hexdigest()[:32],
        "source": str(features.folder),
        "context": role,
        "profile": json.dumps(totals),
    }


@cache
def split_of(folder: Path) -> str:
    """`stamp` of the features in a folder."""
    return stamp(FeatureSet(folder))


def stamp(features: FeatureSet) -> str:
    """Folder and split of features; that it is a test split is not to be overlooked."""
    split = "THE TEST SPLIT" if features.split == "test" else f"split {features.split}"
    return f"{features.folder} ({split})"


def code_revision() -> str:
    """The commit of the checkout that this file lies in, of the image (SDST_REVISION), or the
    installed version."""
    if revision := _git("describe", "--always", "--dirty", "--abbrev=12"):
        return revision
    if os.environ.get("SDST_REVISION"):
        return os.environ["SDST_REVISION"]
    try:
        return f"sdst {version('sdst')}"
    except PackageNotFoundError:
        return "unknown"


def _git(*words: str) -> str | None:
    """What git says of the checkout that this file lies in, None where there is none."""
    folder = Path(__file__).resolve().parent
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


def trainable_parameters(model: GroundingModel) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
