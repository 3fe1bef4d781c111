"""The configurations of the published data sets train, on features generated over the real rows."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from launch.sweep import trainer_flags
from launch.sweeping.plan import Plan, read_plan, trials
from model.kinds import KINDS
from tests.benchmarks import generated_features
from trainer.cli import load_config, parse_config
from trainer.config import RULES, Config
from trainer.main import main
from trainer.metrics import DATASETS

ROOT = Path(__file__).parents[2]
FILES = {
    "qvhighlights": ("highlight_train_release", "highlight_val_release", "highlight_test_with_gt"),
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


@pytest.mark.parametrize(
    ("name", "preset", "width"),
    [
        ("activitynet", "activitynet-slowfast-clip", 2816),
        ("nlq", "nlq-slowfast-bert", 2304),
        ("tvsum", "tvsum-i3d", 2048),
        ("youtube", "youtube-slowfast-clip", 2816),
    ],
)
def test_experiments_on_released_features_name_their_preset_and_its_width(name, preset, width):
    path = ROOT / "configs" / name / "sdst.yaml"
    config = load_config(Config, path)
    assert f"--preset {preset} " in path.read_text()
    assert (ROOT / "configs" / "import" / f"{preset}.yaml").is_file()
    assert config.model.video_width == width
    assert config.model.layers == (-1, -1, -1, -1)
    assert config.eval.dataset == name
    assert config.eval.metric == RULES[name]


@pytest.mark.parametrize(("plan", "runs"), [("tvsum/folds", 50), ("youtube/domains", 6)])
def test_one_command_trains_a_model_for_each_part_and_scores_them_together(plan, runs):
    planned = Plan(**read_plan(ROOT / "configs" / f"{plan}.yaml"))
    assert planned.pool
    found = [
        parse_config(Config, trainer_flags(planned, trial, Path("runs"), []))
        for trial in trials(planned)
    ]
    parts = {(config.data.domain, config.data.fold) for config in found}
    assert len(found) == len(parts) == runs
    assert len({domain for domain, _ in parts}) == DATASETS[found[0].eval.dataset].domains


@pytest.mark.parametrize("kind", ["moment_detr", "qd_detr", "pyramid"])
@pytest.mark.parametrize("name", ["qvhighlights", "charades", "tacos"])
def test_the_other_models_differ_from_each_other_in_the_model_alone(name, kind):
    config = load_config(Config, ROOT / "configs" / name / f"{kind}.yaml")
    assert config.model.kind == kind
    assert config.loss.levels == (12 if name == "qvhighlights" else 1)
    other = load_config(Config, ROOT / "configs" / name / "qd_detr.yaml")
    alike = replace(other, name=config.name, model=config.model, loss=config.loss)
    assert config == alike
    assert config.data.selection != f"features/{name}_slowfast_clip/test"


def test_one_sweep_has_every_kind_of_model_on_the_same_data():
    plan = Plan(**read_plan(ROOT / "configs" / "ablations" / "models.yaml"))
    lines = [trainer_flags(plan, trial, Path("runs"), []) for trial in trials(plan)]
    configs = [parse_config(Config, line) for line in lines]
    assert {config.model.kind for config in configs} == set(KINDS)
    assert all(config.data == configs[0].data for config in configs)
    assert {config.model.video_width for config in configs} == {512}


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
