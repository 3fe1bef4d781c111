import json
import logging
import socket
import time

import pytest

from trainer.config import TrackingConfig
from trainer.tracking.delivery import Redacting
from trainer.tracking.tracking import Tracker, redact


def track(folder, **changes):
    config = TrackingConfig(close_wait=changes.pop("close_wait", 90.0))
    return Tracker(folder, config, "a run", {"model": {"width": 8}}, {"split": "val"}, **changes)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_records_and_files_reach_mlflow_and_a_resumed_run_goes_on_in_the_same_one(tmp_path, store):
    (tmp_path / "config.yaml").write_text("kept")
    tracker = track(tmp_path)
    tracker.log("train", 10, 0.5, loss=2.0)
    tracker.log("eval", 20, 1.0, **{"R1@0.5": 40.0})
    tracker.artifact("config.yaml")
    tracker.close("FAILED")
    first = tracker.run_id
    again = track(tmp_path, step=20)
    again.log("train", 30, 1.5, loss=1.0)
    again.close("FINISHED")
    assert again.run_id == first is not None
    run = store.get_run(first)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.width": "8"}
    assert run.data.metrics["eval/R1_at_0.5"] == 40.0
    history = store.get_metric_history(first, "train/loss")
    assert [point.step for point in history] == [10, 30]
    assert [item.path for item in store.list_artifacts(first)] == ["config.yaml"]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [(r["kind"], r["step"]) for r in records] == [("train", 10), ("eval", 20), ("train", 30)]


@pytest.fixture(params=["silent", "refusing"])
def server(request):
    """The address of a server that takes connections and never answers, or of none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        yield f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_does_not_answer_costs_the_training_nothing(
    tmp_path, monkeypatch, capfd, server
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = track(tmp_path, close_wait=0.5)
    begin = time.perf_counter()
    for step in range(1000):
        tracker.log("train", step, 0.0, loss=1.0)
    assert time.perf_counter() - begin < 2
    begin = time.perf_counter()
    tracker.close("FINISHED")
    assert time.perf_counter() - begin < 10.4  # the wait, and at most ten seconds to take leave
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1000
    said = capfd.readouterr().err
    assert "secret" not in said
    if said:  # on a busy machine the other process may have had no time to begin
        assert "1000 records" in said
        assert f"python -m launch.track {tmp_path}" in said


def test_credentials_are_not_shown():
    assert redact("https://me:secret@host/path") == "https://host/path"
    assert redact("https://me:sec/r@et@host/path failed") == "https://host/path failed"
    assert (
        redact("postgresql://host/db?password=hush&x=1") == "postgresql://host/db?password=***&x=1"
    )
    assert redact("sqlite:///mlflow.db") == "sqlite:///mlflow.db"


def test_tokens_are_not_shown_in_whatever_a_library_logs(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc123")
    record = logging.LogRecord("mlflow", logging.WARNING, "", 1, "401 for %s", ("abc123",), None)
    assert Redacting("%(message)s").format(record) == "401 for ***"
