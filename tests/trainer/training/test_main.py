import json

import pytest

from data_pipeline.annotations import read_annotations
from trainer.main import main
from trainer.metrics.storage import read_evaluation
from trainer.training import checkpoints


def test_a_run_leaves_everything_that_its_folder_promises(command, tmp_path, capsys):
    assert main(command(**{"tracking.peak_tflops": "null"})) == 0
    run = tmp_path / "runs" / "tiny"
    result = json.loads((run / "metrics.json").read_text())
    assert set(result["baselines"]) == {"whole video", "random"}
    assert {"R1@0.5", "R1@0.7", "mAP", "HD-mAP", "HIT@1", "mIoU"} <= set(result["metrics"])
    assert result["provenance"]["selection"].startswith("best")
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert len(predictions) == len({row["qid"] for row in predictions}) == 12
    kept = read_evaluation(run / "per_query.json")
    assert kept.summary == result["metrics"]
    assert {row.qid for row in read_annotations(run / "annotations.jsonl")} == set(kept.qids)
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    kinds = {"train", "usage", "system", "eval", "report", "checkpoint"}
    assert {record["kind"] for record in records} == kinds
    assert (run / "model" / "model.safetensors").is_file()
    assert "whole video" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(
    command, tmp_path, monkeypatch
):
    assert main(command(name="whole")) == 0
    with monkeypatch.context() as patch:

        def interrupted(*arguments):
            original(*arguments)
            raise KeyboardInterrupt

        original = checkpoints.Checkpoints.save
        patch.setattr(checkpoints.Checkpoints, "save", interrupted)
        assert main(command(name="broken")) == 130
    assert main(command(name="broken")) == 0
    weights = [
        (tmp_path / "runs" / name / "model" / "model.safetensors").read_bytes()
        for name in ("whole", "broken")
    ]
    assert weights[0] == weights[1]


def test_a_finished_run_is_not_trained_again(command, tmp_path):
    assert main(command()) == 0
    records = (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text()
    assert main(command()) == 0
    assert (tmp_path / "runs" / "tiny" / "metrics.jsonl").read_text() == records


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("model.widht", "3", "did you mean 'model.width'?"),
        ("loss.weights.saliancy", "3", "did you mean 'loss.weights.saliency'?"),
        ("model.video_width", "13", "set model.video_width"),
        ("data.train", "/nowhere", "/nowhere/manifest.json: not found"),
        ("eval.metric", "[speed]", "eval.metric 'speed' is unknown"),
        ("data.batch_size", "4000", "lower data.batch_size"),
        ("model.layers", "[-9]", "use indices from -2 to 1"),
    ],
)
def test_a_fault_of_the_users_is_one_line_and_status_2(command, capsys, flag, value, message):
    assert main(command(**{flag: value})) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_another_configuration_under_a_used_name_is_refused(command, capsys):
    assert main(command()) == 0
    assert main(command(seed=5)) == 2
    assert "choose another --name" in capsys.readouterr().err


def test_weights_of_another_model_are_refused_in_one_line(command, tmp_path, capsys):
    assert main(command()) == 0
    checkpoint = checkpoints.newest(tmp_path / "runs" / "tiny" / "checkpoints")
    target = tmp_path / "runs" / "other" / "checkpoints" / checkpoint.name
    target.parent.mkdir(parents=True)
    checkpoint.rename(target)
    assert main(command(name="other", **{"model.width": 48})) == 2
    assert "made by another model" in capsys.readouterr().err
