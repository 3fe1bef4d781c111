"""A server that is away is waited for; what waiting cannot mend is said with what does."""

import http.server
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator

import pytest

from data_pipeline.errors import InputError
from launch import track
from trainer.config import TrackingConfig
from trainer.tracking import delivery
from trainer.tracking.delivery import UNDELIVERED, follow
from trainer.tracking.outages import fault_of, proxy_of
from trainer.tracking.tracking import Tracker

PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy but a test's own."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    tracker = Tracker(folder, TrackingConfig(mlflow=False), "a run", {}, {})
    tracker.log("train", 1, 0.0, loss=1.0)
    tracker.artifact("config.yaml")
    tracker.artifact("metrics.jsonl")
    return folder, tracker


def finish(tracker):
    """The trainer's pipe of a run that has ended."""
    tracker.close("FINISHED")
    return io.BytesIO(b"30\n")


def told(caplog):
    return [record.getMessage() for record in caplog.records]


def the_run(store):
    experiment = store.get_experiment_by_name("sdst").experiment_id
    [found] = store.search_runs([experiment])
    return found


def test_a_deleted_experiment_is_said_once_with_the_command_that_restores_it(
    run, store, monkeypatch, caplog
):
    folder, tracker = run
    number = store.create_experiment("sdst")
    store.delete_experiment(number)
    monkeypatch.setattr(delivery, "POLL", 0.01)
    reader, writer = os.pipe()
    thread = threading.Thread(target=follow, args=(folder, os.fdopen(reader, "rb")), daemon=True)
    thread.start()
    for _ in range(100):
        thread.join(0.1)
        if told(caplog):
            break
    [line] = told(caplog)
    assert "the experiment 'sdst' was deleted; restore it with: mlflow experiments restore " in line
    assert f"--experiment-id {number}, or name another one" in line
    assert "cannot be used now" not in line
    store.restore_experiment(number)  # and then it goes on by itself
    tracker.close("FINISHED")
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(b"30\n")
    thread.join(30)
    assert the_run(store).info.status == "FINISHED"


def test_at_the_end_what_waiting_would_not_mend_is_not_waited_for(run, store, caplog):
    folder, tracker = run
    store.delete_experiment(store.create_experiment("sdst"))
    assert follow(folder, finish(tracker)) == UNDELIVERED
    first, last = told(caplog)
    assert "was deleted" in first
    assert "1 records and the end of the run are missing" in last
    assert f"python -m launch.track {folder}" in last


def test_a_deleted_run_is_said_with_the_command_that_restores_it(run, store, caplog):
    folder, tracker = run
    run_id = store.create_run(store.create_experiment("sdst")).info.run_id
    store.delete_run(run_id)
    tracker._record.run_id = run_id
    assert follow(folder, finish(tracker)) == UNDELIVERED
    assert f"restore it with: mlflow runs restore --run-id {run_id}" in told(caplog)[0]


@pytest.fixture
def store_without_files(store, tmp_path):
    """A store whose files cannot be written; the store."""
    (tmp_path / "file").write_text("in the way")
    store.create_experiment("sdst", artifact_location=f"file://{tmp_path}/file/below")
    return store


def test_a_run_ends_as_it_did_where_its_files_cannot_be_kept(
    run, store_without_files, caplog, tmp_path
):
    folder, tracker = run
    assert follow(folder, finish(tracker)) == UNDELIVERED
    assert the_run(store_without_files).info.status == "FINISHED"
    assert the_run(store_without_files).data.metrics["train/loss"] == 1.0
    line = told(caplog)[0]
    assert f"takes records, and cannot keep files in file://{tmp_path}/file/below" in line
    assert "make that writable from here, or have the server take them" in line
    assert "(the run's files are missing); metrics.jsonl has all of it" in told(caplog)[-1]


def test_a_store_of_files_that_cannot_be_written_is_known_from_the_first_minute(
    run, store_without_files, monkeypatch, caplog
):
    folder, _ = run
    monkeypatch.setattr(delivery, "POLL", 0.01)
    reader, writer = os.pipe()
    thread = threading.Thread(target=follow, args=(folder, os.fdopen(reader, "rb")), daemon=True)
    thread.start()
    for _ in range(100):
        thread.join(0.1)
        if told(caplog):
            break
    [line] = told(caplog)
    assert "cannot keep files" in line
    assert the_run(store_without_files).data.metrics["train/loss"] == 1.0
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(b"30\n")
    thread.join(30)


def test_a_store_of_files_that_does_not_answer_holds_up_no_record(run, store, monkeypatch, caplog):
    folder, _ = run
    monkeypatch.setattr(delivery, "FILES_WAIT", 0.1)
    silent, asked = threading.Event(), threading.Event()

    def wait(*_):
        asked.set()
        silent.wait(30)

    monkeypatch.setattr("mlflow.MlflowClient.log_artifact", wait)
    sender = delivery.Delivery(folder, delivery.RunRecord.read(folder))
    sender.send()
    assert asked.wait(10)
    for _ in range(100):
        if told(caplog):
            break
        silent.wait(0.05)
    silent.set()
    assert "no answer in 0 s" in told(caplog)[0]
    assert the_run(store).data.metrics["train/loss"] == 1.0


def test_launch_track_sends_the_status_and_says_that_files_are_missing(
    run, store_without_files, capsys
):
    folder, tracker = run
    tracker.close("FINISHED")
    assert track.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert "cannot keep files" in error
    assert error.count("\n") == 1
    assert the_run(store_without_files).info.status == "FINISHED"


def test_launch_track_of_a_run_on_a_disk_that_is_read_only_is_one_line(
    run, store, small_disk, capsys
):
    folder, tracker = run
    tracker.close("FINISHED")
    shutil.copytree(folder, small_disk / "run")
    os.system(f"mount -o remount,ro {small_disk}")
    assert track.main([str(small_disk / "run")]) == 2
    error = capsys.readouterr().err
    assert "cannot be written: Read-only file system" in error
    assert error.count("\n") == 1


class Answers(http.server.BaseHTTPRequestHandler):
    """A proxy, or a server, that has one answer to everything."""

    code, body = 502, b"<html>\n<h1>Bad Gateway</h1>\n</html>"

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fault_at(folder, monkeypatch, uri):
    """What delivering to a server gives."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name, value in delivery.PATIENCE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever MLflow raises
        delivery.Delivery(folder, delivery.RunRecord.read(folder)).send()
    fault = fault_of(caught.value)
    assert "\n" not in fault.line
    return fault


def test_a_proxy_that_stands_between_is_named_with_the_way_around_it(run, monkeypatch, answering):
    folder, _ = run
    monkeypatch.setenv("http_proxy", f"http://me:secret@{answering}")
    fault = fault_at(folder, monkeypatch, "http://mlflow.example:5000")
    assert f"cannot be reached through the proxy http://{answering} (" in fault.line
    assert fault.line.endswith("if none is to stand between, set no_proxy=mlflow.example")
    assert "secret" not in fault.line
    assert fault.outage


def test_a_proxy_that_is_passed_by_is_not_blamed(run, monkeypatch):
    folder, _ = run
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fault = fault_at(folder, monkeypatch, "http://127.0.0.1:9")
    assert "cannot be used now" in fault.line
    assert fault.outage
    assert proxy_of("sqlite:///mlflow.db") is None


def test_a_store_in_a_folder_that_is_not_there_is_no_outage(run, monkeypatch, tmp_path):
    folder, _ = run
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for place in ("file/mlflow.db", "folder", "x" * 300):
        fault = fault_at(folder, monkeypatch, f"sqlite:///{tmp_path}/{place}?timeout=5")
        assert f"{tmp_path}/{place}: cannot be written: " in fault.line
        assert "; set MLFLOW_TRACKING_URI to a place that may be written to" in fault.line
        assert not fault.outage


@pytest.mark.parametrize(
    ("code", "says", "outage"),
    [
        (401, "does not let us in (", False),
        (403, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD", False),
        (404, "does MLFLOW_TRACKING_URI name an MLflow server?", False),
        (503, "cannot be used now", True),
    ],
)
def test_what_answers_and_refuses_is_no_outage(run, monkeypatch, answering, code, says, outage):
    folder, _ = run
    monkeypatch.setattr(Answers, "code", code)
    fault = fault_at(folder, monkeypatch, f"http://{answering}")
    assert says in fault.line
    assert fault.outage is outage


def test_a_file_of_the_runs_own_is_not_blamed_on_the_server(run, store, monkeypatch):
    folder, _ = run
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    fault = fault_of(InputError("run/mlflow_run: cannot be written: No space left on device"))
    assert fault.line == "run/mlflow_run: cannot be written: No space left on device"
    fault = fault_of(PermissionError(13, "Permission denied", str(folder / "metrics.jsonl")))
    assert f"up to date: {folder / 'metrics.jsonl'}: Permission denied; it needs" in fault.line
    assert not fault.outage


def test_what_mlflow_itself_refuses_is_not_the_proxys(run, monkeypatch, answering):
    folder, _ = run
    body = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "too long a name"})
    monkeypatch.setattr(Answers, "code", 400)
    monkeypatch.setattr(Answers, "body", body.encode())
    monkeypatch.setenv("http_proxy", f"http://{answering}")
    fault = fault_at(folder, monkeypatch, "http://mlflow.example:5000")
    assert "too long a name" in fault.line
    assert "proxy" not in fault.line
