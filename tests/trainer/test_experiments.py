"""The configurations of the published data sets train, on features generated over the real rows."""

import itertools
import json
import os
from pathlib import Path

import pytest

from tests.benchmarks import generated_features
from trainer.cli import load_config
from trainer.config import Config
from trainer.main import main

ROOT = Path(__file__).parents[2]
FILES = {
    "qvhighlights": ("highlight_train_release", "highlight_val_release", "highlight_val_release"),
    "charades": ("charades_train", None, "charades_test"),
    "tacos": ("tacos_train", "tacos_val", "tacos_test"),
}
CLIP_LENGTH = {"qvhighlights": 2.0, "charades": 1.0, "tacos": 2.0}
ROWS = {"train": 40, "selection": 8, "report": 8}


@pytest.fixture(scope="module")
def annotations():
    given = os.environ.get("SDST_ANNOTATIONS")
    candidates = [Path(given)] if given else []
    candidates += [folder / "shared" / "annotations" for folder in ROOT.parents]
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        pytest.skip("the annotations are not here; set SDST_ANNOTATIONS to their folder")
    return found


@pytest.mark.parametrize("name", FILES)
def test_published_settings_are_read_and_name_their_features(name):
    config = load_config(Config, ROOT / "configs" / name / "sdst.yaml")
    assert config.data.train == f"features/{name}/train"
    assert config.eval.dataset == name
    assert config.data.selection != f"features/{name}/test"


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("name", FILES)
def test_each_experiment_trains_selects_and_reports(name, annotations, tmp_path):
    flags = []
    for role, file in zip(("train", "selection", "report"), FILES[name], strict=True):
        if file is None:
            continue
        folder, rows = tmp_path / role, tmp_path / f"{role}.jsonl"
        with open(annotations / name / f"{file}.jsonl", encoding="utf-8") as whole:
            rows.write_text("".join(itertools.islice(whole, ROWS[role])), encoding="utf-8")
        command = {
            "annotations": rows,
            "output": folder,
            "split": role,
            "features.clip_length": CLIP_LENGTH[name],
        }
        assert not generated_features.main([f"--{k}={v}" for k, v in command.items()])
        flags.append(f"--data.{role}={folder}")
    smaller = {
        "runs": tmp_path,
        "name": "small",
        "epochs": 1,
        "data.batch_size": 16,
        "data.workers": 0,
        "model.width": 32,
        "tracking.every": 1,
        "tracking.mlflow": "false",
        "eval.every": 1,
    }
    flags += [f"--{key}={value}" for key, value in smaller.items()]
    config = ROOT / "configs" / name / "sdst.yaml"
    assert main(["--config", str(config), *flags]) == 0
    result = json.loads((tmp_path / "small" / "metrics.json").read_text())
    assert {"R1@0.5", "R1@0.7", "mIoU"} <= set(result["metrics"])
    assert result["provenance"]["dataset"] == name
    assert result["provenance"]["convention"] == name
    records = [json.loads(line) for line in (tmp_path / "small" / "metrics.jsonl").open()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert len(losses) >= 2
