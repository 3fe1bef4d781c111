"""A sweep trains what is planned, outlives failures, and goes on where it was."""

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from data_pipeline.errors import InputError
from launch.sweep import main, trainer_flags
from launch.sweeping.plan import Plan, parse_grid, read_plan, trials
from trainer.cli import parse_config
from trainer.config import Config

ABLATIONS = sorted(Path("configs/ablations").glob("*.yaml"))


def names(**fields):
    return [
        trial.name for trial in trials(Plan(**{"config": Path("c.yaml"), "name": "n"} | fields))
    ]


def test_a_grid_is_every_combination_with_every_seed():
    key, values = parse_grid("model.layers=[-1],[-1,-2]")
    assert (key, values) == ("model.layers", [[-1], [-1, -2]])
    grid = {key: values, "model.sparse_attention": ["rdsa", "cross"]}
    made = trials(Plan(Path("c.yaml"), "n", grid=grid, seeds=2))
    assert len(made) == len({trial.name for trial in made}) == 8
    assert made[0].name == "layers=-1-sparse_attention=rdsa-s0"
    assert made[-1].settings == {
        "model.layers": [-1, -2],
        "model.sparse_attention": "cross",
        "seed": 1,
    }


def test_variants_change_several_settings_together():
    variants = {"cls": {"model.video_width": 8}, "mean": {"model.video_width": 9}}
    assert names(variants=variants) == ["cls-s0", "mean-s0"]


def test_samples_are_drawn_from_ranges_and_are_the_same_every_time():
    grid = {"optim.lr": ["1e-4..1e-2"], "epochs": [1, 2]}
    made = trials(Plan(Path("c.yaml"), "n", grid=grid, samples=20))
    assert made == trials(Plan(Path("c.yaml"), "n", grid=grid, samples=20))
    rates = [trial.settings["optim.lr"] for trial in made]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert sum(rate < 1e-3 for rate in rates) in range(4, 17)  # on a log scale
    with pytest.raises(InputError, match="--samples"):
        names(grid=grid)


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_is_a_plan_that_the_trainer_takes(path):
    plan = Plan(**{"config": Path("configs/quickstart.yaml")} | read_plan(path))
    made = trials(plan)
    assert plan.seeds == 3
    configs = [
        parse_config(Config, trainer_flags(plan, trial, Path("runs/x"), [])) for trial in made
    ]
    assert len({config.name for config in configs}) == len(made)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "configs/quickstart.yaml"], "nothing to vary"),
        (["--grid", "epochs=1,2"], "--config is missing"),
        (["--config", "configs/quickstart.yaml", "--grid", "epochs"], "KEY=VALUE,VALUE"),
        (["--config", "configs/quickstart.yaml", "--grid", "epohcs=1"], "did you mean 'epochs'?"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_a_fault_of_the_users_is_one_line_before_anything_runs(args, message, capsys):
    assert main(args) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


QUICK = ["--config", str(Path("configs/quickstart.yaml").absolute()), "--grid", "epochs=1,2"]


def test_a_sweep_lists_its_trials_and_becomes_the_one_that_is_asked_for(
    store, tmp_path, monkeypatch, capsys
):
    sweep = [*QUICK, "--seeds", "2", "--name", "s", "--runs", str(tmp_path)]
    assert main([*sweep, "--list"]) == 0
    names = capsys.readouterr().out.split()
    assert names == ["epochs=1-s0", "epochs=1-s1", "epochs=2-s0", "epochs=2-s1"]
    assert not any(tmp_path.glob("s"))

    class Became(BaseException):
        pass

    def become(words):
        started.append(words)
        raise Became

    monkeypatch.setattr("launch.sweep.become", become)
    parents = set()
    for number, name in enumerate(names):
        started = []
        monkeypatch.delenv("MLFLOW_PARENT_RUN_ID", raising=False)
        with pytest.raises(Became):
            main([*sweep, "--trial", str(number)])
        [words] = started
        assert words[0].endswith("trainer/main.py")
        assert f"--name={name}" in words
        parents.add(os.environ["MLFLOW_PARENT_RUN_ID"])
    assert len(parents) == 1


@pytest.mark.parametrize("number", ["2", "-1"])
def test_a_trial_that_the_sweep_has_not_is_refused(number, tmp_path, capsys):
    assert main([*QUICK, "--runs", str(tmp_path), "--trial", number]) == 2
    assert "the sweep has 2 trials, 0 to 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_outlives_a_failed_trial_and_goes_on_where_it_was(
    make_features, store, tmp_path, monkeypatch, capsys
):
    for seed, split in enumerate(("train", "dev", "val")):
        make_features(tmp_path / split, videos=16 if split == "train" else 4, seed=seed)
    config = {
        "epochs": 1,
        "data": {
            "train": str(tmp_path / "train"),
            "selection": str(tmp_path / "dev"),
            "report": str(tmp_path / "val"),
            "batch_size": 8,
            "order": {"lanes": 8},
        },
        "model": {"video_width": 12, "text_width": 10, "layers": [-1], "width": 32, "heads": 4},
        "tracking": {"every": 2, "peak_tflops": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    plan = {
        "config": str(tmp_path / "c.yaml"),
        "name": "small",
        "variants": {
            "good": {"model.queries": 5},
            "broken": {"data.report": str(tmp_path / "later")},
        },
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("launch.sweeping.progress.LINES_EVERY", 0.0)
    command = [str(tmp_path / "plan.yaml"), "--runs", str(tmp_path / "runs")]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert f"failed: broken-s0: status 2, error: {tmp_path}/later/manifest.json: not found" in shown
    assert "1 of 2 trials are finished" in shown
    assert re.search(r"best: good-s0, R1@0.5 [\d.]+ \[[\d.]+, [\d.]+\]", shown)
    assert re.search(r"good-s0: epoch [\d.]+ of 1, loss", shown)
    folder = tmp_path / "runs" / "small"
    assert (folder / "comparison" / "comparison.html").is_file()

    parent = json.loads((folder / "sweep.json").read_text())["mlflow_run"]
    owner = store.get_experiment_by_name("small").experiment_id
    [child] = store.search_runs([owner], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert child.info.run_name == "good-s0"
    described = store.get_run(parent)
    assert described.info.status == "FAILED"
    assert described.data.params["variants.good"] == "{'model.queries': 5}"
    assert described.data.params["seeds"] == "1"
    assert described.data.tags["best_trial"] == "good-s0"
    assert described.data.metrics["best/R1_at_0.5"] >= 0
    assert described.data.tags["mlflow.note.content"].startswith("Best: good-s0, R1@0.5")

    made = (folder / "good-s0" / "metrics.json").stat().st_mtime_ns
    make_features(tmp_path / "later", videos=4, seed=3)
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "finished before: good-s0" in shown
    assert "NOT COMPARABLE" in shown
    assert (folder / "good-s0" / "metrics.json").stat().st_mtime_ns == made
    assert store.get_run(parent).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": {"a": [1, 2]}, "seeds": 5001}, "more than 10000 trials"),
        ({"grid": {"a": ["-1..2"]}, "samples": 3}, "must go from a positive number to a larger"),
        ({"grid": {"a": ["2..1"]}, "samples": 3}, "must go from a positive number to a larger"),
        ({"grid": {"a": [1]}, "name": "../x"}, "cannot name a file"),
    ],
)
def test_a_plan_is_bounded(given, message):
    with pytest.raises(InputError, match=message):
        Plan(**({"config": Path("c.yaml"), "name": "n"} | given))
