import json
import os
import threading

import mlflow
import pytest

from data_pipeline.errors import InputError
from trainer.config import TrackingConfig
from trainer.tracking import delivery
from trainer.tracking.delivery import Delivery, follow
from trainer.tracking.tracking import RunRecord, Tracker


@pytest.fixture
def run(tmp_path):
    """The folder of a run, and a tracker that leaves delivery to the test."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder, open_tracker(folder)


def open_tracker(folder, **changes):
    config = TrackingConfig(mlflow=False)
    return Tracker(folder, config, "a run", {"model": {"width": 8}}, {"split": "val"}, **changes)


def deliver(folder):
    found = Delivery(folder, RunRecord.read(folder))
    found.send()
    return found


class Weather:
    """A client whose calls fail: before they reach the store, or with their answer lost."""

    def __init__(self, store, monkeypatch):
        self.store, self.calls, self.fail, self.lose = store, 0, 0, 0
        monkeypatch.setattr(mlflow, "MlflowClient", lambda uri: self)

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.calls += 1
            if self.fail:
                self.fail -= 1
                raise ConnectionError(f"{name}: no answer from https://me:secret@host")
            answer = getattr(self.store, name)(*arguments, **named)
            if self.lose and name in ("log_batch", "create_run"):
                self.lose -= 1
                raise TimeoutError(f"{name}: answer lost")
            return answer

        return call


def steps(store, name="train/loss"):
    [found] = store.search_runs([store.get_experiment_by_name("sdst").experiment_id])
    return [point.step for point in store.get_metric_history(found.info.run_id, name)]


def test_a_record_whose_answer_was_lost_is_neither_lost_nor_doubled(run, store, monkeypatch):
    folder, tracker = run
    weather = Weather(store, monkeypatch)
    found = Delivery(folder, RunRecord.read(folder))
    for step in range(3):
        tracker.log("train", step, 0.0, loss=1.0)
        weather.lose = 1
        with pytest.raises(TimeoutError):
            found.send()
    found.send()
    assert steps(store) == [0, 1, 2]


def test_an_answer_lost_while_the_run_was_made_makes_no_second_run(run, store, monkeypatch):
    folder, tracker = run
    tracker.log("train", 1, 0.0, loss=1.0)
    weather = Weather(store, monkeypatch)
    weather.lose = 1
    with pytest.raises(TimeoutError):
        deliver(folder)
    deliver(folder)
    assert steps(store) == [1]


def test_steps_that_a_killed_run_repeats_stand_once_in_file_and_store(run, store):
    folder, tracker = run
    for step in (1, 2, 3):
        tracker.log("train", step, 0.0, loss=float(step))
    deliver(folder)
    again = open_tracker(folder, step=1)  # the newest checkpoint was that of step 1
    for step in (2, 3, 4):
        again.log("train", step, 0.0, loss=float(step))
    deliver(folder)
    assert steps(store) == [1, 2, 3, 4]
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()] == [1, 2, 3, 4]


def test_a_line_that_a_kill_cut_off_is_taken_out(run, store):
    folder, tracker = run
    tracker.log("train", 1, 0.0, loss=1.0)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    deliver(folder)
    again = open_tracker(folder, step=1)
    again.log("train", 2, 0.0, loss=1.0)
    deliver(folder)
    assert steps(store) == [1, 2]


def test_many_records_go_out_in_few_calls(run, store, monkeypatch):
    folder, tracker = run
    for step in range(300):
        tracker.log("train", step, 0.0, **{f"loss_{number}": 1.0 for number in range(9)})
    weather = Weather(store, monkeypatch)
    deliver(folder)
    assert weather.calls < 15
    assert steps(store, "train/loss_8") == list(range(300))


def test_a_record_of_more_numbers_than_a_call_may_hold_arrives_whole(run, store):
    folder, tracker = run
    tracker.log("system", 5, 0.0, **{f"rank_{rank}/memory_gb": 1.0 for rank in range(1500)})
    deliver(folder)
    assert (
        steps(store, "system/rank_1499/memory_gb") == steps(store, "system/rank_0/memory_gb") == [5]
    )


def test_another_server_gets_the_whole_run(run, store, empty_store, tmp_path, monkeypatch):
    folder, tracker = run
    tracker.log("train", 1, 0.0, loss=1.0)
    deliver(folder)
    (tmp_path / "second.db").write_bytes(empty_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/second.db")
    tracker.log("train", 2, 0.0, loss=1.0)
    deliver(folder)
    assert steps(store) == [1]
    assert steps(mlflow.MlflowClient(f"sqlite:///{tmp_path}/second.db")) == [1, 2]


def following(folder, monkeypatch):
    """`follow` in a thread, and the pipe that the trainer would hold."""
    monkeypatch.setattr(delivery, "POLL", 0.01)
    reader, writer = os.pipe()
    thread = threading.Thread(target=follow, args=(folder, os.fdopen(reader, "rb")), daemon=True)
    thread.start()
    return thread, os.fdopen(writer, "wb")


def status(store):
    [found] = store.search_runs([store.get_experiment_by_name("sdst").experiment_id])
    return found.info.status


@pytest.mark.parametrize("end", ["FINISHED", "FAILED", "KILLED"])
def test_an_outage_of_any_length_costs_no_record_and_the_run_ends_as_it_did(
    run, store, monkeypatch, end
):
    folder, tracker = run
    weather = Weather(store, monkeypatch)
    weather.fail = 3
    thread, pipe = following(folder, monkeypatch)
    for step in range(50):
        tracker.log("train", step, 0.0, loss=1.0)
    tracker.close(end)
    with pipe:
        pipe.write(b"60\n")
    thread.join(60)
    assert steps(store) == list(range(50))
    assert status(store) == end


def test_a_run_whose_trainer_died_without_a_word_has_failed(run, store, monkeypatch):
    folder, tracker = run
    tracker.log("train", 1, 0.0, loss=1.0)
    thread, pipe = following(folder, monkeypatch)
    pipe.close()
    thread.join(60)
    assert (steps(store), status(store)) == ([1], "FAILED")


def test_one_delivery_at_a_time(run):
    folder, _ = run
    with delivery.hold(folder, wait=False), pytest.raises(BlockingIOError):
        delivery.hold(folder, wait=False)


DATASET = {
    "name": "rows.jsonl (train)",
    "digest": "ab" * 16,
    "source": "features/train",
    "context": "training",
    "profile": '{"videos": 3}',
}


def the_run(store):
    [found] = store.search_runs([store.get_experiment_by_name("sdst").experiment_id])
    return store.get_run(found.info.run_id)


def test_no_bookkeeping_is_among_the_metrics(run, store):
    folder, tracker = run
    for kind in ("train", "eval", "checkpoint"):
        tracker.log(kind, 1, 0.5, pause=1.0)
    deliver(folder)
    deliver(folder)
    assert set(the_run(store).data.metrics) == {"train/pause", "eval/pause", "checkpoint/pause"}
    assert steps(store, "train/pause") == [1]


def test_a_run_has_its_description_and_its_data_sets_and_keeps_what_people_wrote(tmp_path, store):
    folder = tmp_path / "described"
    folder.mkdir()
    tracker = open_tracker(folder, datasets=[DATASET])
    tracker.log("train", 1, 0.5, loss=1.0)
    deliver(folder)
    tracker.describe("mAP 41.2 on val; best mAP.")
    tracker.close("FINISHED")
    for _ in range(2):
        Delivery(folder, RunRecord.read(folder)).end()
    found = the_run(store)
    assert found.data.tags["mlflow.note.content"] == "mAP 41.2 on val; best mAP."
    [given] = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == (DATASET["name"], DATASET["digest"])
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    store.set_tag(found.info.run_id, "mlflow.note.content", "mine")
    Delivery(folder, RunRecord.read(folder)).end()
    assert the_run(store).data.tags["mlflow.note.content"] == "mine"


def test_a_data_set_that_is_none_of_ours_is_refused(run):
    folder, _ = run
    record = json.loads((folder / "tracking.json").read_text())
    for odd in ([3], [{"name": "x"}], [{**DATASET, "digest": 3}]):
        (folder / "tracking.json").write_text(json.dumps(record | {"datasets": odd}))
        with pytest.raises(InputError, match=r"tracking.json: malformed"):
            RunRecord.read(folder)


def test_files_that_lie_where_the_store_was_before_it_moved_are_noticed(
    run, store, tmp_path, caplog
):
    folder, tracker = run
    store.create_experiment("sdst", artifact_location=(tmp_path / "gone" / "mlruns" / "1").as_uri())
    tracker.log("train", 1, 0.5, loss=1.0)
    deliver(folder)
    assert f"keeps files in {tmp_path}/gone/mlruns, which is not there" in caplog.text
