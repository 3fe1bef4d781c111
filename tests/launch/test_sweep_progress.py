"""While a sweep runs, each trial tells how far it is."""

import json

import pytest

from launch.sweeping import progress
from launch.sweeping.progress import SweepProgress
from trainer.cli import terminal


def record(kind, step, epoch, **numbers):
    return json.dumps({"kind": kind, "step": step, "epoch": epoch, "time": 1.0, **numbers}) + "\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "lr=1-s0").mkdir()
    return tmp_path


def test_a_trial_tells_its_epoch_its_loss_and_its_scores(folder, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINES_EVERY", 0.0)
    records = folder / "lr=1-s0" / "metrics.jsonl"
    with SweepProgress(terminal(), folder, {"lr=1-s0": 4, "lr=2-s0": 4}) as shown:
        shown.look(["lr=1-s0", "lr=2-s0"])
        assert capsys.readouterr().out == ""
        records.write_text(record("train", 10, 0.5, loss=3.25) + '{"kind": "tr')
        shown.look(["lr=1-s0"])
        assert capsys.readouterr().out == "lr=1-s0: epoch 0.5 of 4, loss 3.25\n"
        shown.look(["lr=1-s0"])
        assert capsys.readouterr().out == ""  # nothing new
        evaluated = {"mAP": 41.26, "R1@0.5": 60.0, "mIoU": 5.0}
        records.write_text(record("train", 20, 1.0, loss=2) + record("eval", 20, 1.0, **evaluated))
        shown.look(["lr=1-s0"])
        told = "lr=1-s0: epoch 1.0 of 4, loss 2.00, mAP 41.3, R1@0.5 60.0\n"
        assert capsys.readouterr().out == told
        shown.end("lr=1-s0", "trained")
        assert capsys.readouterr().out == "trained: lr=1-s0\n"


def test_only_the_end_of_long_records_is_read(folder, monkeypatch):
    monkeypatch.setattr(progress, "TAIL", 300)
    path = folder / "lr=1-s0" / "metrics.jsonl"
    path.write_text("".join(record("train", step, step / 10, loss=1) for step in range(1000)))
    assert progress.newest_records(path)["train"]["step"] == 999
