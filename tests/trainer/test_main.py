import json

import pytest

from trainer import checkpoints
from trainer.main import main


@pytest.fixture(scope="module")
def data(make_features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    for seed, split in enumerate(("train", "dev", "val")):
        make_features(folder / split, videos=16 if split == "train" else 4, seed=seed)
    return folder


@pytest.fixture
def command(data, tmp_path):
    """The flags of a run that takes seconds."""
    flags = {
        "runs": tmp_path / "runs",
        "name": "tiny",
        "epochs": 2,
        "data.train": data / "train",
        "data.selection": data / "dev",
        "data.report": data / "val",
        "data.batch_size": 8,
        "data.order.lanes": 8,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1, -2]",
        "model.width": 32,
        "model.heads": 4,
        "model.queries": 5,
        "model.input_dropout": 0.1,
        "optim.lr": 0.002,
        "optim.warmup": 5,
        "tracking.every": 2,
        "tracking.mlflow": "false",
    }

    def build(**changes):
        return [f"--{key}={value}" for key, value in {**flags, **changes}.items()]

    return build


def test_a_run_leaves_everything_that_its_folder_promises(command, tmp_path, capsys):
    assert main(command()) == 0
    run = tmp_path / "runs" / "tiny"
    result = json.loads((run / "metrics.json").read_text())
    assert set(result["baselines"]) == {"whole video", "random"}
    assert {"R1@0.5", "R1@0.7", "mAP", "HD-mAP", "HIT@1", "mIoU"} <= set(result["metrics"])
    assert result["provenance"]["selection"].startswith("best")
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").open()]
    assert len(predictions) == len({row["qid"] for row in predictions}) == 12
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert {r["kind"] for r in records} == {"train", "usage", "system", "eval", "report"}
    assert (run / "model" / "model.safetensors").is_file()
    assert "whole video" in capsys.readouterr().out


def test_an_interrupted_run_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(
    command, tmp_path, monkeypatch
):
    assert main(command(name="whole")) == 0
    original = checkpoints.save

    def interrupted(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save", interrupted)
    assert main(command(name="broken")) == 130
    monkeypatch.setattr(checkpoints, "save", original)
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
