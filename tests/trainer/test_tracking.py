import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import mlflow
import pytest

from trainer.tracking import Tracker, TrackingConfig, redact


def track(folder, run_id=None, **changes):
    config = TrackingConfig(**{"close_wait": 30.0, **changes})
    return Tracker(folder, config, "a run", {"model": {"width": 8}}, {"split": "val"}, run_id)


@pytest.fixture
def store(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return mlflow.MlflowClient(uri)


def test_records_reach_the_file_and_mlflow_and_the_run_ends_as_told(tmp_path, store):
    (tmp_path / "note.txt").write_text("kept")
    tracker = track(tmp_path)
    tracker.log("train", 10, 0.5, loss=2.0)
    tracker.log("eval", 20, 1.0, **{"R1@0.5": 40.0})
    tracker.artifact(tmp_path / "note.txt")
    tracker.close("KILLED")
    run = store.get_run(tracker.run_id)
    assert run.info.status == "KILLED"
    assert run.data.params == {"model.width": "8"}
    assert run.data.metrics == {"train/loss": 2.0, "eval/R1_at_0.5": 40.0}
    assert [item.path for item in store.list_artifacts(tracker.run_id)] == ["note.txt"]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [(r["kind"], r["step"]) for r in records] == [("train", 10), ("eval", 20)]


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tmp_path, store):
    first = track(tmp_path)
    first.log("train", 1, 0.1, loss=3.0)
    first.close("FAILED")
    second = track(tmp_path, run_id=first.run_id)
    second.log("train", 2, 0.2, loss=2.0)
    second.close("FINISHED")
    history = store.get_metric_history(first.run_id, "train/loss")
    assert [point.step for point in history] == [1, 2]
    assert store.get_run(first.run_id).info.status == "FINISHED"


class _Silent(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(60)


def test_a_server_that_never_answers_neither_stops_nor_slows_the_training(
    tmp_path, monkeypatch, caplog
):
    server = HTTPServer(("127.0.0.1", 0), _Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    tracker = track(tmp_path, close_wait=0.5)
    begin = time.perf_counter()
    for step in range(1000):
        tracker.log("train", step, 0.0, loss=1.0)
    tracker.close("FINISHED")
    assert time.perf_counter() - begin < 10
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1000
    assert "metrics.jsonl has all of it" in caplog.text


def test_credentials_of_a_store_are_not_shown():
    assert redact("https://me:secret@host/path") == "https://host/path"
    assert redact("sqlite:///mlflow.db") == "sqlite:///mlflow.db"
