"""On what a model is chosen, when training gives up, and that results say so."""

import json

import pytest

from data_pipeline.errors import InputError
from trainer.judging.evaluation import selection_value
from trainer.main import main


@pytest.fixture
def command(make_features, tmp_path):
    """The flags of a run that selects on a test split and hardly learns."""
    make_features(tmp_path / "train", videos=8)
    make_features(tmp_path / "test", videos=2, seed=1)
    flags = {
        "runs": tmp_path / "runs",
        "name": "tiny",
        "epochs": 9,
        "data.train": tmp_path / "train",
        "data.selection": tmp_path / "test",
        "data.report": tmp_path / "test",
        "data.batch_size": 8,
        "data.order.lanes": 8,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1, -2]",
        "model.width": 16,
        "model.heads": 2,
        "model.queries": 3,
        "optim.lr": 1e-12,
        "tracking.mlflow": "false",
    }

    def build(**changes):
        return [f"--{key}={value}" for key, value in {**flags, **changes}.items()]

    return build


def test_choosing_a_model_on_the_test_split_is_refused(command, capsys):
    assert main(command()) == 2
    error = capsys.readouterr().err
    assert "is a test split" in error
    assert "eval.select_on_test" in error


def test_patience_ends_training_and_a_forced_test_split_is_on_the_results(command, tmp_path):
    assert main(command(**{"eval.select_on_test": "true", "eval.patience": 2})) == 0
    records = [json.loads(line) for line in (tmp_path / "runs/tiny/metrics.jsonl").open()]
    epochs = [r["epoch"] for r in records if r["kind"] == "eval" and "mAP" in r]
    assert epochs == [1, 2, 3]
    result = json.loads((tmp_path / "runs/tiny/metrics.json").read_text())
    for stamp in ("selection", "report"):
        assert "THE TEST SPLIT" in result["provenance"][stamp]


def test_patience_without_a_split_to_evaluate_on_is_refused(command, capsys):
    given = [flag for flag in command(**{"eval.patience": 2}) if "data.selection" not in flag]
    assert main(given) == 2
    assert "set data.selection" in capsys.readouterr().err


def test_a_metric_that_the_split_cannot_give_is_named():
    with pytest.raises(InputError, match=r"'HD-mAP' cannot be measured .* it has mAP, mIoU"):
        selection_value({"mAP": 1.0, "mIoU": 2.0}, ["mAP", "HD-mAP"])
    assert selection_value({"mAP": 1.0, "mIoU": 2.0}, ["mAP", "mIoU"]) == 1.5
