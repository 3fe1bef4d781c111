"""A run's end reaches its record as it was: finished, failed, or killed."""

import json
import os
import signal

import pytest

from trainer import experiment
from trainer.main import main
from trainer.tracking.tracking import Tracker


@pytest.fixture
def command(make_features, tmp_path):
    make_features(tmp_path / "train", videos=8)
    flags = {
        "runs": tmp_path / "runs",
        "name": "tiny",
        "epochs": 1,
        "data.train": tmp_path / "train",
        "data.batch_size": 8,
        "data.order.lanes": 8,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1]",
        "model.width": 16,
        "model.heads": 2,
        "model.queries": 3,
        "tracking.every": 1,
        "tracking.mlflow": "false",
        "tracking.peak_tflops": 1,
    }
    return [f"--{key}={value}" for key, value in flags.items()]


def status(tmp_path):
    return json.loads((tmp_path / "runs" / "tiny" / "tracking.json").read_text())["status"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_was_killed_and_goes_on_with_every_step_once(
    command, tmp_path, monkeypatch, number
):
    original = Tracker.log

    def log(self, kind, step, epoch, **numbers):
        original(self, kind, step, epoch, **numbers)
        if (kind, step) == ("train", 1):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Tracker, "log", log)
    assert main(command) == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    assert status(tmp_path) == "KILLED"
    monkeypatch.setattr(Tracker, "log", original)
    assert main(command) == 0
    assert status(tmp_path) == "FINISHED"
    lines = (tmp_path / "runs" / "tiny" / "metrics.jsonl").open()
    steps = [r["step"] for r in map(json.loads, lines) if r["kind"] == "train"]
    assert steps == [1, 2, 3]


def test_a_run_that_raised_has_failed(command, tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(experiment, "train_epoch", broken)
    with pytest.raises(ZeroDivisionError):
        main(command)
    assert status(tmp_path) == "FAILED"
