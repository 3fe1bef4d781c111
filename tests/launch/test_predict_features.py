"""`launch.predict FEATURES --model M` answers the sentences of a feature set."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.features.shards import FeatureSet, Provenance
from launch.import_checkpoint import main as import_checkpoint
from launch.import_features import main as import_features
from launch.predict import main
from model.kinds import build
from tests.launch.released_layouts import write as write_features
from tests.launch.test_import_checkpoint import GOLDENS, write
from tests.trainer.archive.conftest import CONFIG
from trainer.cli import dump_config
from trainer.inference.calibration import Calibration
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export

SMALL = GOLDENS / "features_moment_detr" / "small"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the originals' layout, and a checkpoint that was trained on such."""
    folder = tmp_path_factory.mktemp("imported")
    import_features([
        "--preset=moment-detr", f"--features={SMALL}", f"--output={folder / 'val'}",
        f"--annotations={SMALL / 'annotations.jsonl'}",
    ])  # fmt: skip
    path = write(folder / "best.ckpt", "moment_detr")
    flags = [str(path), "--kind=moment_detr", "--heads=4"]
    assert import_checkpoint([*flags, f"--output={folder / 'model'}"]) == 0
    assert import_checkpoint(
        [*flags, "--release=lighthouse", f"--output={folder / 'other'}"]
    ) == 0  # fmt: skip
    return folder


def test_every_sentence_of_a_feature_set_is_answered(imported, tmp_path):
    flags = [str(imported / "val"), "--model", str(imported / "model"), "--top", "2"]
    table = tmp_path / "t.csv"
    assert main([*flags, "--output", str(tmp_path / "found"), "--csv", str(table)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "found" / "predictions.jsonl").open()]
    assert [row["qid"] for row in rows] == [9001, 9002]
    with table.open(encoding="utf-8-sig") as file:
        cells = list(csv.DictReader(file))
    assert [cell["rank"] for cell in cells] == ["1", "2"] * 2
    assert float(cells[0]["score"]) == pytest.approx(rows[0]["pred_relevant_windows"][0][2])
    assert cells[0]["video"] == rows[0]["vid"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--queries", "words.txt"], "holds features and their sentences; leave the sentence out"),
        (["--json", "x.json"], "--json, --plot and --clips are for a video"),
        (["--model", "zero-shot"], "which a model answers for; name it by --model"),
        (["--output", "/dev/null/x"], "/dev/null"),
        (["--model", "other"], "slowfast + clip-b32, not clip-b32 + slowfast"),
    ],
)
def test_what_cannot_be_answered_is_one_line(imported, tmp_path, capsys, extra, message):
    out = tmp_path / "found"
    extra = [str(imported / "other") if each == "other" else each for each in extra]
    flags = ["--model", str(imported / "model"), "--output", str(out)]
    (tmp_path / "words.txt").write_text("a dog")
    extra = [str(tmp_path / each) if each == "words.txt" else each for each in extra]
    assert main([str(imported / "val"), *flags, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_r2_tuning_s_features_keep_all_patches_where_that_is_asked_for(tmp_path):
    rows = write_features(tmp_path / "released", "r2-tuning")
    given = [f"--features={tmp_path / 'released'}", f"--annotations={rows}"]
    for name, pooling in (("whole", "none"), ("first", "cls")):
        out = f"--output={tmp_path / name}"
        assert import_features(["--preset=r2-tuning", f"--pooling={pooling}", *given, out]) == 0
    assert FeatureSet(tmp_path / "whole").video_shape == (4, 36)
    assert FeatureSet(tmp_path / "first").video_shape == (4, 12)


def test_a_model_that_judges_existence_answers_by_its_calibration(
    tmp_path: Path, provenance: Provenance, make_features: Callable[..., FeatureSet]
) -> None:
    features = make_features(tmp_path / "features", videos=4, queries=2)
    config = replace(CONFIG, existence=True)
    sure = Calibration(existence_offset=20.0, threshold=0.4)
    judged = {}
    for name, calibration in {
        "sure": sure,
        "unsure": replace(sure, existence_offset=-20.0),
    }.items():
        torch.manual_seed(0)
        described = Export(config, encoder_of(provenance), provenance, calibration=calibration)
        export(tmp_path / name / "model", build(config), dump_config(described))
        flags = [str(features.folder), "--model", str(tmp_path / name)]
        assert main([*flags, "--output", str(tmp_path / "found" / name)]) == 0
        rows = (tmp_path / "found" / name / "predictions.jsonl").read_text().splitlines()
        judged[name] = {json.loads(row)["pred_found"] for row in rows}
    assert judged == {"sure": {True}, "unsure": {False}}
