"""`--checkpoint P --eval` scores a model without training it, and dumps what a server takes."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.annotations import write_annotations
from data_pipeline.features.samples import StoredQuery
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import ShardWriter, write_manifest
from launch.evaluate import main as evaluate
from model.config import SDSTConfig
from model.sdst.sdst import SDST
from trainer.cli import dump_config, parse_config
from trainer.config import Config
from trainer.inference.pretrained import Export, encoder_of
from trainer.main import main
from trainer.training.checkpoints import export

MODEL = SDSTConfig(
    video_width=12, text_width=10, layers=(-1, -2), width=32, heads=4, queries=5, points=2
)


@pytest.fixture(scope="module")
def data(make_features, tmp_path_factory):
    """The splits val and test, and in qvhighlights/ the same by names like QVHighlights'."""
    folder = tmp_path_factory.mktemp("features")
    for seed, split in enumerate(("val", "test")):
        features = make_features(folder / split, videos=4, seed=seed)
        store(features, folder / "qvhighlights" / split, called="NUsG9BgSe{}_60.0_{}.0".format)
        store(features, folder / "withheld" / split, "NUsG9BgSe{}_60.0_{}.0".format, secret=True)
    return folder


def store(features: FeatureSet, folder: Path, called, secret: bool = False) -> None:
    """The same features under other names; `secret`: without ground truth, as QVHighlights' test
    split was published."""
    folder.mkdir(parents=True)
    with ShardWriter(folder, "00000") as writer:
        for index in range(len(features.samples)):
            sample = features.read(index)
            vid = called(f"{index:02d}", 210)
            queries = []
            for query in sample.queries:
                a = replace(query.annotation, vid=vid)
                if secret:
                    a = replace(a, windows=None, saliency=None)
                queries.append(StoredQuery(a, query.tokens))
            writer.add(replace(sample, vid=vid, queries=tuple(queries)))
        index = writer.commit()
    names = {"name": "generated", "sha256": "", "videos": 0, "queries": 0}
    write_manifest(folder, features.split, features.provenance, names, [index])


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """An exported model."""
    torch.manual_seed(0)
    features = FeatureSet(data / "val").provenance
    described = Export(
        MODEL, encoder_of(features), features, provenance={"selection": "best mAP", "code": "abc"}
    )
    folder = tmp_path_factory.mktemp("run") / "model"
    export(folder, SDST(MODEL), dump_config(described))
    return folder


@pytest.fixture
def command(data, trained, tmp_path):
    flags = {
        "runs": tmp_path / "runs",
        "name": "tiny",
        "data.train": "/nowhere",
        "data.selection": data / "val",
        "data.report": data / "test",
        "data.order.lanes": 8,
        "data.eval_batch_size": 8,
        **{
            f"model.{name}": getattr(MODEL, name)
            for name in ("video_width", "text_width", "width", "heads", "queries", "points")
        },
        "model.layers": "[-1, -2]",
    }

    def build(*extra, checkpoint=trained, **changes):
        given = {**flags, **changes}
        configured = [f"--{key}={value}" for key, value in given.items() if value is not None]
        return [*configured, "--checkpoint", str(checkpoint), "--eval", *extra]

    return build


def read(path):
    return [json.loads(line) for line in path.open()]


def truth(data, split, tmp_path):
    features = FeatureSet(data / split)
    path = tmp_path / f"{split}.jsonl"
    samples = (features.read(index) for index in range(len(features.samples)))
    write_annotations(path, [query.annotation for s in samples for query in s.queries])
    return path


def test_both_splits_are_scored_and_the_scores_say_what_they_measure(command, tmp_path, capsys):
    assert main(command()) == 0
    folder = tmp_path / "runs" / "tiny" / "evaluation"
    for split in ("val", "test"):
        result = json.loads((folder / split / "metrics.json").read_text())
        assert {"mAP", "R1@0.5", "HD-mAP"} <= set(result["metrics"])
        assert "whole video" in result["baselines"]
        assert result["provenance"]["selection"] == "best mAP"
        assert len(result["provenance"]["weights"]) == 64
    assert "THE TEST SPLIT" in result["provenance"]["split"]
    assert not list(folder.rglob("*.jsonl"))
    assert "THE TEST SPLIT" in capsys.readouterr().out


def own(data):
    """The splits by names like QVHighlights'."""
    return {"data.selection": data / "val", "data.report": data / "test"}


def test_a_dump_of_qvhighlights_is_a_submission_without_fault(command, data, tmp_path, capsys):
    data = data / "qvhighlights"
    assert main(command("--dump", **own(data))) == 0
    folder = tmp_path / "runs" / "tiny" / "evaluation"
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        names = ["hl_test_submission.jsonl", "hl_val_submission.jsonl"]
        assert sorted(archive.namelist()) == names
        for name in names:
            assert archive.read(name) == (folder / name).read_bytes()
    files = [str(truth(data, split, tmp_path)) for split in ("val", "test")]
    given = ["--check", str(folder / "submission.zip"), "--annotations", *files]
    assert evaluate(given) == 0
    assert "no fault found" in capsys.readouterr().out
    predictions = ["--predictions", str(folder / "hl_val_submission.jsonl")]
    out = tmp_path / "o.json"
    assert evaluate([*predictions, "--annotations", files[0], "--json", str(out)]) == 0
    scores = json.loads((folder / "val" / "metrics.json").read_text())["metrics"]
    assert json.loads(out.read_text())["metrics"] == scores


def test_a_test_split_without_ground_truth_is_dumped_and_not_scored(
    command, data, tmp_path, capsys
):
    splits = own(data / "qvhighlights") | {"data.report": data / "withheld" / "test"}
    assert main(command("--dump", **splits)) == 0
    assert "ground truth withheld" in capsys.readouterr().out
    folder = tmp_path / "runs" / "tiny" / "evaluation"
    assert len(read(folder / "hl_test_submission.jsonl")) == 12
    assert (folder / "val" / "metrics.json").is_file()
    assert not (folder / "test" / "metrics.json").exists()


@pytest.mark.parametrize("convention", ["tacos", "qvhighlights"])
def test_other_data_sets_dump_predictions_and_no_submission(command, data, tmp_path, convention):
    assert main(command("--dump", **{"eval.dataset": convention})) == 0
    folder = tmp_path / "runs" / "tiny" / "evaluation"
    for split in ("val", "test"):
        rows = read(folder / split / "predictions.jsonl")
        expected = {json.loads(line)["qid"] for line in truth(data, split, tmp_path).open()}
        assert {row["qid"] for row in rows} == expected
        assert len(rows) == len(expected)
    assert not (folder / "submission.zip").exists()


def test_one_split_alone_is_dumped_with_a_word_about_the_other(command, data, tmp_path, capsys):
    report = data / "qvhighlights" / "test"
    assert main(command("--dump", **{"data.selection": None, "data.report": report})) == 0
    assert "no split 'val' is set" in " ".join(capsys.readouterr().out.split())
    folder = tmp_path / "runs" / "tiny" / "evaluation"
    assert not (folder / "hl_val_submission.jsonl").exists()


@pytest.mark.parametrize(
    ("extra", "changes", "message"),
    [
        ((), {"checkpoint": "/nowhere"}, "/nowhere: no such folder"),
        ((), {"data.selection": None, "data.report": None}, "set data.selection or data.report"),
        ((), {"model.queries": 6}, "was trained with model.queries 5, the configuration has 6"),
        ((), {"model.layers": "[-1]"}, "was trained with model.layers"),
        (("--dump=1",), {}, "--dump: ignored explicit argument '1'"),
        (("--name", "../x"), {}, "name '../x' cannot name a file"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_status_2(
    command, capsys, extra, changes, message
):
    assert main(command(*extra, **changes)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_features_of_another_encoder_are_refused(command, trained, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    text = (trained / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("video_encoder: generated", "video_encoder: x"))
    (other / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())
    assert main(command(checkpoint=other)) == 2
    assert "other features than the model was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--eval"], "--eval needs --checkpoint"), (["--dump"], "go with --eval")],
)
def test_modes_that_do_not_go_together_are_told(flags, message, capsys):
    assert main(flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("part", ["", "model", "checkpoints/step_0000012"])
def test_a_run_is_evaluated_by_the_configuration_that_lies_in_it(
    command, trained, tmp_path, monkeypatch, capsys, part
):
    run = tmp_path / "elsewhere" / "moved"
    (run / "checkpoints").mkdir(parents=True)
    flags = [flag for flag in command() if "checkpoint" not in flag and flag != "--eval"]
    config = parse_config(Config, [flag for flag in flags if flag.startswith("--")])
    (run / "config.yaml").write_text(dump_config(config))
    (run / "metrics.jsonl").touch()
    shutil.copytree(trained, run / "model")
    shutil.copytree(trained, run / "checkpoints" / "step_0000012")
    monkeypatch.chdir(tmp_path)
    given = ["--checkpoint", f"elsewhere/moved/{part}".rstrip("/"), "--eval"]
    assert main([*given, "--data.selection", "null"]) == 0
    scored = sorted(path.parent.name for path in (run / "evaluation").rglob("metrics.json"))
    assert scored == ["test"]


def test_a_checkpoint_that_was_altered_is_not_evaluated(command, data, tiny_run, tmp_path, capsys):
    flags = tiny_run | {"runs": tmp_path / "runs", "name": "short", "epochs": 1}
    assert main([f"--{key}={value}" for key, value in flags.items()]) == 0
    path = sorted((tmp_path / "runs" / "short" / "checkpoints").glob("step_*"))[-1]
    changes = {"model.points": None, "data.eval_batch_size": 8, "checkpoint": path}
    assert main(command(**changes)) == 0
    weights = bytearray((path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (path / "weights.safetensors").write_bytes(weights)
    capsys.readouterr()
    assert main(command(**changes)) == 2
    assert "weights.safetensors: missing or damaged since it was written" in capsys.readouterr().err


def test_a_checkpoint_is_not_scored_nor_gone_on_with_on_features_in_another_order(
    command, data, tiny_run, tmp_path, capsys
):
    flags = tiny_run | {"runs": tmp_path / "runs", "name": "trained", "epochs": 1}
    assert main([f"--{key}={value}" for key, value in flags.items()]) == 0
    swapped = tmp_path / "val"
    shutil.copytree(data / "val", swapped)
    manifest = json.loads((swapped / "manifest.json").read_text())
    manifest["provenance"]["options"] = {"video": {"streams": [{"name": "b"}, {"name": "a"}]}}
    (swapped / "manifest.json").write_text(json.dumps(manifest))
    checkpoint = tmp_path / "runs" / "trained" / "checkpoints" / "latest"
    capsys.readouterr()
    for again in (
        [
            *(f"--{key}={value}" for key, value in flags.items()),
            *(f"--data.selection={swapped}", "--data.report=null"),
            *("--checkpoint", str(checkpoint), "--eval"),
        ],
        [
            *(f"--{key}={value}" for key, value in flags.items()),
            *(f"--data.train={swapped}", "--data.selection=null", "--data.report=null"),
            *("--name=other", f"--resume={checkpoint}"),
        ],
    ):
        assert main(again) == 2
        error = capsys.readouterr().err
        assert "other features than the model was trained on (video streams: b + a" in error
        assert error.count("\n") == 1


def test_answers_that_are_not_finite_are_not_scored(command, trained, tmp_path, capsys):
    model = SDST(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e38)  # finite, unlike what it computes
    export(tmp_path / "model", model, (trained / "config.yaml").read_text())
    assert main(command(checkpoint=tmp_path / "model")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the answer is not finite")
    assert error.count("\n") == 1
