import dataclasses
import json

import pytest

from data_pipeline.annotations import read_annotations
from data_pipeline.features.samples import StoredQuery
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import ShardWriter, write_manifest
from trainer.cli import parse_config
from trainer.config import Config
from trainer.judging import judging
from trainer.judging.judging import check_metric
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
    steps = [record for record in records if record["kind"] == "train"]
    assert all(0 < step["padded_clips"] < 1 and 0 < step["padded_tokens"] < 1 for step in steps)
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


def test_features_that_stay_in_memory_train_the_same_weights_and_are_scored_alike(
    command, tmp_path
):
    for name, resident in (("read", "false"), ("held", "true")):
        flags = {"data.resident": resident, "data.clip_dropout": 0.2}
        assert main(command(name=name, **flags)) == 0
    for file in ("model/model.safetensors", "predictions.jsonl"):
        read, held = ((tmp_path / "runs" / name / file).read_bytes() for name in ("read", "held"))
        assert read == held


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
        ("resume", "/nowhere", "/nowhere: not a complete checkpoint"),
        ("model.queries", "1000000000", "queries is 1000000000: make it at most 65536"),
        ("model.width", "1e400", "width"),
        ("model.layers", f"[{'-1,' * 65}]", "layers"),
        ("data.batch_size", "99999999999999999999", "data.batch_size: 99999999999999999999 is out"),
        ("data.batch_size", "99999999", "data.batch_size must be at most"),
        ("data.workers", "1000000", "data.workers must be at most"),
        ("data.order.lanes", "100000000", "data.order.lanes must be at most"),
        ("data.train", "a\0b", "holds a zero byte"),
        ("runs", "a\0b", "holds a zero byte"),
        ("optim.lr", ".nan", "optim.lr: nan is out of all bounds"),
        ("optim.lr", ".inf", "optim.lr: inf is out of all bounds"),
        ("timeout", "1e300", "timeout: 1e+300 is out of all bounds"),
        ("seed", "-1", "seed -1 must be from 0"),
        ("data.batch_size", "4000", "lower data.batch_size"),
        ("model.layers", "[-9]", "use indices from -2 to 1"),
    ],
)
def test_a_fault_of_the_users_is_one_line_and_status_2_and_burns_no_name(
    command, tmp_path, capsys, flag, value, message
):
    assert main(command(**{flag: value})) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs" / "tiny").exists()  # the name is as free as before


def test_another_configuration_under_a_used_name_is_refused_by_the_keys_that_differ(
    command, capsys
):
    assert main(command()) == 0
    assert main(command(seed=5, **{"optim.lr": 0.1})) == 2
    error = capsys.readouterr().err
    assert "seed 0, now 5; optim.lr 0.002, now 0.1" in error
    assert "choose another --name" in error
    many = {f"loss.weights.{name}": 9 for name in ("l1", "iou", "actionness", "saliency")}
    assert main(command(seed=5, epochs=7, **many)) == 2
    assert "; 1 more)" in capsys.readouterr().err


def test_a_run_of_a_version_with_fewer_settings_goes_on(command, tmp_path, capsys):
    assert main(command()) == 0
    path = tmp_path / "runs" / "tiny" / "config.yaml"
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "text_dropout" not in line and "accumulate" not in line]
    assert len(kept) == len(lines) - 2
    path.write_text("".join(kept))
    assert main(command()) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(command(**{"data.text_dropout": 0.5})) == 2
    assert "data.text_dropout 0.0, now 0.5" in capsys.readouterr().err


def without(features, folder, **changes):
    """The same features, all annotations changed."""
    folder.mkdir()
    with ShardWriter(folder, "00000") as writer:
        for index in range(len(features.samples)):
            sample = features.read(index)
            queries = [
                StoredQuery(dataclasses.replace(query.annotation, **changes), query.tokens)
                for query in sample.queries
            ]
            writer.add(dataclasses.replace(sample, queries=tuple(queries)))
        index = writer.commit()
    write_manifest(folder, folder.name, features.provenance, {"name": "generated"}, [index])
    return folder


@pytest.mark.parametrize(
    ("changes", "metric", "message"),
    [
        ({"saliency": None}, "[mAP, HD-mAP]", "eval.metric 'HD-mAP' cannot be measured"),
        ({"windows": None}, "[mIoU]", "eval.metric 'mIoU' cannot be measured"),
        ({"windows": None, "saliency": None}, "[mAP]", "eval.metric 'mAP' cannot be measured"),
    ],
)
def test_a_metric_that_the_data_cannot_give_is_refused_before_the_first_step(
    command, splits, store, tmp_path, capsys, changes, metric, message
):
    dev = without(FeatureSet(splits / "dev"), tmp_path / "dev", **changes)
    flags = {"data.selection": dev, "eval.metric": metric, "tracking.mlflow": "true"}
    assert main(command(**flags)) == 2
    error = capsys.readouterr().err
    assert f"{dev}: {message}" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs" / "tiny").exists()
    assert store.get_experiment_by_name("sdst") is None


def test_a_metric_that_few_videos_can_give_is_measured(command, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "LOOKED_AT", 1)
    features = FeatureSet(splits / "dev")
    bare = without(features, tmp_path / "bare", saliency=None)
    one, rest = features.read(3), [FeatureSet(bare).read(index) for index in range(3)]
    dev = tmp_path / "dev"
    dev.mkdir()
    with ShardWriter(dev, "00000") as writer:
        for sample in (*rest, one):
            writer.add(sample)
        index = writer.commit()
    write_manifest(dev, "dev", features.provenance, {"name": "generated"}, [index])
    config = parse_config(Config, command(**{"data.selection": dev, "eval.metric": "[HD-mAP]"}))
    check_metric(FeatureSet(dev), config)


def test_weights_of_another_model_are_refused_in_one_line(command, tmp_path, capsys):
    assert main(command()) == 0
    checkpoint = checkpoints.newest(tmp_path / "runs" / "tiny" / "checkpoints")
    target = tmp_path / "runs" / "other" / "checkpoints" / checkpoint.name
    target.parent.mkdir(parents=True)
    checkpoint.rename(target)
    assert main(command(name="other", **{"model.width": 48})) == 2
    assert "made by another model" in capsys.readouterr().err
