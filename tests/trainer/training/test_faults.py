"""What a run does when something goes wrong, in one process."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import trainer.training.loop
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from trainer.main import main
from trainer.training import checkpoints

FEW = {"checkpoints.every": 2, "checkpoints.keep": 9}


@pytest.fixture
def at_step(monkeypatch):
    """Calls functions when a run has the gradient of a step, one for each step."""
    original, planned = trainer.training.loop.gradient, {}

    def install(step, function):
        planned[step] = function

        def changed(learner, criterion, batch, accelerator, config, state):
            measured = original(learner, criterion, batch, accelerator, config, state)
            if state.step in planned:
                planned[state.step](learner)
            return measured

        monkeypatch.setattr(trainer.training.loop, "gradient", changed)

    return install


def send(number):
    return lambda _: os.kill(os.getpid(), number)


def spoil(learner):
    next(p for p in learner.network.parameters() if p.grad is not None).grad.fill_(float("nan"))


def final(folder, name):
    return [
        (folder / name / "model" / "model.safetensors").read_bytes(),
        (folder / name / "checkpoints" / "latest" / "states.safetensors").read_bytes(),
    ]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_between_two_steps_and_loses_none(
    command, tmp_path, at_step, monkeypatch, number, status
):
    assert main(command(name="whole")) == 0
    with monkeypatch.context():
        at_step(7, send(number))
        assert main(command(name="stopped")) == status
    saved = checkpoints.newest(tmp_path / "runs" / "stopped" / "checkpoints")
    assert json.loads((saved / "state.json").read_text())["step"] in (8, 9)
    monkeypatch.undo()
    assert main(command(name="stopped")) == 0
    runs = tmp_path / "runs"
    assert final(runs, "stopped") == final(runs, "whole")


def left_over(folder):
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize(
    ("step", "unwritten", "told"),
    [
        (5, "model/model.safetensors", "step 6 and goes on from step_00000004"),
        (0, "checkpoints/step_00000002", "step 4 and goes on from the beginning"),
    ],
)
def test_a_full_disk_ends_training_with_one_line_and_room_lets_it_go_on(
    command, tmp_path, small_disk, fill, at_step, monkeypatch, capsys, step, unwritten, told
):
    assert main(command(name="whole", **FEW)) == 0
    flags = command(name="full", runs=small_disk, **FEW)
    with monkeypatch.context():
        at_step(step, lambda _: fill())
        capsys.readouterr()
        assert main(flags) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(
        f"error: {small_disk}/full/{unwritten}: cannot be written: No space left on device; make "
        f"room, then run the same command again; training stopped at {told}"
    )
    assert not left_over(small_disk)
    monkeypatch.undo()
    (small_disk / "filler").unlink()
    assert main(flags) == 0
    runs = tmp_path / "runs"
    assert final(small_disk, "full") == final(runs, "whole")


def test_what_a_killed_run_left_half_written_goes_at_its_next_start(command, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    (folder / "model").mkdir(parents=True)
    (folder / "checkpoints" / ".step_00000002.tmp").mkdir(parents=True)
    (folder / "model" / ".model.safetensors.ab.tmp").write_text("half")
    (folder / ".metrics.json.cd.tmp").write_text("half")
    assert left_over(folder)
    assert main(command()) == 0
    assert not left_over(folder)


def test_a_folder_of_runs_that_cannot_be_is_one_line(command, tmp_path, small_disk, capsys):
    (tmp_path / "file").write_text("mine")
    (small_disk / "runs").mkdir()
    os.system(f"mount -o remount,ro {small_disk}")
    for runs, says in (
        (tmp_path / "file", "a part of its path is a file; choose another place"),
        (small_disk / "runs", "Read-only file system; choose a folder that may be written to"),
        (tmp_path / ("x" * 256), "File name too long; it needs another place, a shorter name"),
    ):
        assert main(command(runs=runs)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"error: {runs}/tiny")
        assert says in error
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_between_epochs_is_where_a_crashed_run_goes_on(
    command, tmp_path, at_step, monkeypatch, capsys
):
    def crash(_):
        raise OSError("the machine is gone")

    assert main(command(name="whole", **FEW)) == 0
    at_step(5, crash)
    with pytest.raises(OSError, match="gone"):
        main(command(name="crashed", **FEW))
    monkeypatch.undo()
    capsys.readouterr()
    assert main(command(name="crashed", **FEW)) == 0
    assert "going on from step 4" in capsys.readouterr().out
    assert final(tmp_path / "runs", "crashed") == final(tmp_path / "runs", "whole")


def test_latest_is_mended_where_a_crash_came_before_it_was_pointed_at_the_newest(command, tmp_path):
    assert main(command(**FEW)) == 0
    run = tmp_path / "runs" / "tiny"
    latest = run / "checkpoints" / "latest"
    newest = latest.readlink()
    latest.unlink()
    latest.symlink_to("step_00000002")
    (run / "metrics.json").unlink()
    assert main(command(**FEW)) == 0
    assert latest.readlink() == newest


@pytest.mark.parametrize("damage", ["cut", "gone", "unsealed"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(command, tmp_path, caplog, damage):
    assert main(command(**FEW)) == 0
    folder = tmp_path / "runs" / "tiny" / "checkpoints"
    last, before = sorted(folder.glob("step_*"))[-1:-3:-1]
    if damage == "cut":
        whole = (last / "weights.safetensors").read_bytes()
        (last / "weights.safetensors").write_bytes(whole[:-1])
    else:
        (last / {"gone": "states.safetensors", "unsealed": "checkpoint.json"}[damage]).unlink()
    assert checkpoints.newest(folder) == before
    assert "going on from the one before" in caplog.text
    with pytest.raises(InputError, match=r"checkpoint|damaged"):
        checkpoints.verify(last)


def test_the_newest_checkpoints_and_the_best_one_are_kept(command, tmp_path):
    assert main(command(**{"checkpoints.every": 2, "checkpoints.keep": 2, "epochs": 3})) == 0
    folder = tmp_path / "runs" / "tiny" / "checkpoints"
    kept = {path.name for path in folder.glob("step_*")}
    best = json.loads((folder / "latest" / "state.json").read_text())["best_step"]
    assert kept == {f"step_{best:08d}_evaluated", "step_00000016", "step_00000018_evaluated"}
    assert not list(folder.glob(".*"))


def test_a_run_may_begin_from_the_checkpoint_of_another(command, tmp_path, capsys):
    assert main(command()) == 0
    chosen = tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000006_evaluated"
    assert main(command(name="other", resume=chosen, epochs=3)) == 0
    assert "going on from step 6" in capsys.readouterr().out
    (chosen / "states.safetensors").write_bytes(b"")
    assert main(command(name="third", resume=chosen)) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_run_that_must_not_resume_refuses_its_checkpoints(command, tmp_path, capsys):
    assert main(command()) == 0
    (tmp_path / "runs" / "tiny" / "metrics.json").unlink()
    assert main(command(resume="never")) == 2
    assert "has checkpoints" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_spoilt(
    command, tmp_path, at_step
):
    at_step(7, spoil)
    with pytest.raises(RuntimeError, match="step 7: the gradient is not finite"):
        main(command())
    latest = tmp_path / "runs" / "tiny" / "checkpoints" / "latest"
    assert all(torch.isfinite(w).all() for w in load_file(latest / "weights.safetensors").values())


def test_a_step_that_was_left_out_before_a_crash_is_not_forgotten(
    command, tmp_path, at_step, monkeypatch, capsys
):
    """It is said and counted before anything is saved, though no record is due."""

    def crash(_):
        raise OSError("the machine is gone")

    flags = {**FEW, "optim.skip_not_finite": 1, "optim.averaging": 0.9, "tracking.every": 100}
    at_step(3, spoil)
    assert main(command(name="whole", **flags)) == 0
    at_step(5, crash)
    with pytest.raises(OSError, match="gone"):
        main(command(name="crashed", **flags))
    saved = tmp_path / "runs" / "crashed" / "checkpoints" / "step_00000004" / "state.json"
    assert json.loads(saved.read_text())["skipped"] == 1
    monkeypatch.undo()
    assert main(command(name="crashed", **flags)) == 0
    assert final(tmp_path / "runs", "crashed") == final(tmp_path / "runs", "whole")


def test_the_gradients_after_the_first_that_is_not_finite_are_counted_one_by_one(
    command, at_step, capsys
):
    for step in (4, 5):  # of one record
        at_step(step, spoil)
    with pytest.raises(RuntimeError, match="step 5: the gradient is not finite"):
        main(command(**{"optim.skip_not_finite": 1}))
    assert "step 4: the gradient is not finite" in capsys.readouterr().out


def test_steps_that_are_not_finite_are_left_out_up_to_the_limit(command, tmp_path, at_step, capsys):
    at_step(7, spoil)
    assert main(command(**{"optim.skip_not_finite": 1})) == 0
    assert "the step is left out" in capsys.readouterr().out
    latest = tmp_path / "runs" / "tiny" / "checkpoints" / "latest"
    assert json.loads((latest / "state.json").read_text())["skipped"] == 1


def test_losses_and_pairs_that_are_not_finite_are_named(command, monkeypatch):
    original = trainer.training.loop.PairBatch.split

    def poison(batch, parts):
        batch.video[3] = float("inf")
        poison.qids.append(batch.annotations[3].qid)
        return original(batch, parts)

    poison.qids = []

    monkeypatch.setattr(trainer.training.loop.PairBatch, "split", poison)
    with pytest.raises(RuntimeError) as caught:
        main(command())
    assert "step 0" in str(caught.value)
    assert poison.qids[0] in str(caught.value)
    assert len(poison.qids) == 2  # it is said with the record, after the second step
    assert "l1" in str(caught.value)


def test_scores_say_how_many_damaged_queries_they_leave_out(command, splits, tmp_path, capsys):
    spoilt = FeatureSet(shutil.copytree(splits / "val", tmp_path / "val"))
    place, size = spoilt.samples[0].members["video.npy"]
    with open(str(spoilt.path(0)), "r+b") as tar:
        tar.seek(place + size - 2)
        tar.write(b"\xff\xff")
    own = {"data.selection": tmp_path / "val", "data.report": tmp_path / "val"}
    flags = command(**own, epochs=1, videos=tmp_path, **{"data.skip_damaged": "true"})
    assert main(flags) == 0
    said, run = "9 of 12, 3 DAMAGED LEFT OUT", tmp_path / "runs" / "tiny"
    assert json.loads((run / "metrics.json").read_text())["provenance"]["queries"] == said
    assert capsys.readouterr().out.count(said) == 2  # the epoch's line, the end's table
    assert (run / "report.html").read_text().count(said) == 2  # under the title, in the table
    records = map(json.loads, (run / "metrics.jsonl").open())
    found = {r["kind"]: r["left_out"] for r in records if "left_out" in r}
    assert found == {"eval": 3, "report": 3}
    again = ["--name=again", "--checkpoint", str(run), "--eval"]
    assert main([*flags, *again]) == 0
    scores = tmp_path / "runs" / "again" / "evaluation" / "val" / "metrics.json"
    assert json.loads(scores.read_text())["provenance"]["queries"] == said


def test_averaged_weights_are_what_is_exported_and_the_weights_are_what_is_kept(command, tmp_path):
    off = ["--data.selection=null", "--data.report=null"]
    assert main(command(**{"optim.averaging": 0.9}) + off) == 0
    run = tmp_path / "runs" / "tiny"
    weights = load_file(run / "checkpoints" / "latest" / "weights.safetensors")
    states = load_file(run / "checkpoints" / "latest" / "states.safetensors")
    exported = load_file(run / "model" / "model.safetensors")
    name = "span.0.weight"
    torch.testing.assert_close(exported[name], states[f"average/{name}"], atol=0, rtol=0)
    assert not torch.equal(exported[name], weights[name])
    torch.testing.assert_close(exported[name], weights[name], atol=0.02, rtol=0)


def test_a_batch_in_two_parts_trains_as_many_steps(command, tmp_path):
    assert main(command(**{"optim.accumulate": 2})) == 0
    assert main(command(name="odd", **{"optim.accumulate": 3})) == 2
    records = (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in records) == 12
