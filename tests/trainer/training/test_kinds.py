"""Every kind of model is trained, stopped, resumed, scored and used by the same code."""

import json
import re

import pytest

import tests.model.test_kinds as every_kind
from data_pipeline.errors import InputError
from model.kinds import KINDS, Kind
from tests.trainer.training import fifth_kind
from trainer.cli import dump_config, parse_config
from trainer.config import Config
from trainer.inference.pretrained import load_pretrained
from trainer.main import main
from trainer.training import checkpoints

OTHERS = {
    "moment_detr": {"model.feed_forward": 64},
    "qd_detr": {"model.feed_forward": 64},
    "judging": {
        "model.kind": "moment_detr", "model.feed_forward": 64, "model.existence": "true",
    },
    "flash": {"model.kind": "pyramid", "model.dummies": 3, "model.feed_forward": 64},
    "recurrent": {
        "model.kind": "pyramid", "model.encoder": "recurrent", "model.layers": "[-1, -2]",
        "model.feed_forward": 64,
    },
}  # fmt: skip


@pytest.fixture
def kind_command(command):
    """The flags of a tiny run of an entry of `OTHERS`, or of a kind of that name."""

    def build(kind, **changes):
        flags = {"model.kind": kind, "model.layers": "[-1]"} | OTHERS.get(kind, {}) | changes
        line = command(**flags)
        if flags["model.kind"] == "pyramid":
            line = [flag for flag in line if not flag.startswith("--model.queries")]
        return line

    return build


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_that_is_killed_goes_on_to_the_same_weights(
    kind_command, tmp_path, monkeypatch, name
):
    assert main(kind_command(name, name="whole")) == 0
    with monkeypatch.context() as patch:

        def interrupted(*arguments):
            original(*arguments)
            raise KeyboardInterrupt

        original = checkpoints.Checkpoints.save
        patch.setattr(checkpoints.Checkpoints, "save", interrupted)
        assert main(kind_command(name, name="broken")) == 130
    assert main(kind_command(name, name="broken")) == 0
    whole, broken = (
        (tmp_path / "runs" / run / "model" / "model.safetensors").read_bytes()
        for run in ("whole", "broken")
    )
    assert whole == broken
    result = json.loads((tmp_path / "runs" / "whole" / "metrics.json").read_text())
    assert {"R1@0.5", "mAP", "HD-mAP", "HIT@1"} <= set(result["metrics"])
    model, export = load_pretrained(tmp_path / "runs" / "whole")
    assert export.model.kind == KINDS[export.model.kind].config().kind == model.config.kind


@pytest.mark.parametrize("name", OTHERS)
def test_its_checkpoint_is_scored_without_training(kind_command, tmp_path, name):
    assert main(kind_command(name, epochs=1)) == 0
    folder = tmp_path / "runs" / "tiny"
    trained = json.loads((folder / "metrics.json").read_text())["metrics"]
    if name != "judging":  # its windows are calibrated all the same
        fitted = load_pretrained(folder)[1].calibration.fitted
        assert re.search(r"dev \(split dev\): \d+ windows$", fitted)
    arguments = kind_command(name, epochs=1, name="again")
    assert main([*arguments, f"--checkpoint={folder}", "--eval"]) == 0
    scored = tmp_path / "runs" / "again" / "evaluation" / "val" / "metrics.json"
    assert json.loads(scored.read_text())["metrics"] == pytest.approx(trained)


def test_a_model_that_judges_existence_is_calibrated_on_the_selection_split(kind_command, tmp_path):
    assert main(kind_command("judging", epochs=1)) == 0
    folder = tmp_path / "runs" / "tiny"
    _, export = load_pretrained(folder)
    assert export.calibration.fitted.endswith(
        "dev (split dev): 12 present, 0 absent, 12 absent by another video's sentence"
    )
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    for row in rows:
        assert 0 <= row["pred_existence"] <= 1
        assert row["pred_found"] == (row["pred_existence"] >= export.calibration.threshold)
        assert row["pred_relevant_windows"][0][2] <= row["pred_existence"] + 1e-4
    result = json.loads((folder / "metrics.json").read_text())
    assert "AUROC" not in result["metrics"]  # nothing is annotated as absent


def test_a_configuration_survives_its_own_yaml(kind_command, tmp_path):
    for name in OTHERS:
        config = parse_config(Config, kind_command(name))
        path = tmp_path / "config.yaml"
        path.write_text(dump_config(config))
        assert parse_config(Config, ["--config", str(path)]) == config


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model.kind", "qd-detr"],
            "model.kind 'qd-detr' is no kind of model; did you mean 'qd_",
        ),
        (["--model.kind", "x"], "choose from sdst, moment_detr, qd_detr, pyramid"),
        (["--model.anchors", "true"], "unknown key 'model.anchors'"),
        (["--model.kind=qd_detr", "--model.points=3"], "unknown key 'model.points'"),
        (["--model.kind=qd_detr", "--loss.temperature=1"], "unknown key 'loss.temperature'"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(flags, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        parse_config(Config, flags)


def test_the_last_kind_that_is_given_decides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {kind: qd_detr, anchors: false, video_width: 5}\nepochs: 3\n")
    config = parse_config(Config, ["--config", str(path)])
    assert (config.model.kind, config.model.anchors) == ("qd_detr", False)
    flags = ["--config", str(path), "--model.kind=moment_detr"]
    other = parse_config(Config, flags)
    assert (other.model.kind, other.model.video_width, other.epochs) == ("moment_detr", 5, 3)
    path.write_text("model: {points: 2}\nloss: {weights: {l1: 1}}\n")
    assert parse_config(Config, [*flags, "--loss.margin=1"]).loss.margin == 1


@pytest.fixture
def fifth(monkeypatch):
    """The kind of fifth_kind.py is there, under the name `centre`."""
    parts = (f"{fifth_kind.__name__}:{name}" for name in ("Centre", "CentreObjective"))
    kind = Kind(fifth_kind.CentreConfig, fifth_kind.CentreLossConfig, *parts)
    monkeypatch.setitem(KINDS, "centre", kind)


@pytest.mark.parametrize("existence", [False, True])
def test_a_fifth_kind_is_a_model_a_configuration_and_a_line(
    kind_command, tmp_path, fifth, existence
):
    line = kind_command("centre", **{"model.queries": 1, "model.existence": existence})
    line = [flag for flag in line if not flag.startswith(("--model.width", "--model.heads"))]
    line = [flag for flag in line if not flag.startswith(("--model.input_dropout",))]
    assert main([*line, "--loss.span=2"]) == 0
    model, export = load_pretrained(tmp_path / "runs" / "tiny")
    assert type(model) is fifth_kind.Centre
    assert model.span.abs().sum() > 0
    assert export.model.existence == existence
    assert json.loads((tmp_path / "runs" / "tiny" / "metrics.json").read_text())["metrics"]


def test_what_is_tested_of_every_kind_holds_for_the_fifth(fifth, monkeypatch):
    monkeypatch.setitem(every_kind.SMALL, "centre", {"kind": "centre"})
    every_kind.test_a_pair_gives_in_a_batch_what_it_gives_alone("centre")
    every_kind.test_padding_changes_neither_predictions_nor_losses_nor_gradients("centre")
    every_kind.test_every_parameter_has_a_finite_gradient_or_ddp_would_wait_for_it("centre", [9, 1])
