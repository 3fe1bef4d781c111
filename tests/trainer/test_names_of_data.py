"""What the data are called, and by whose convention they are scored, are two things everywhere."""

import json

from launch.evaluate import main as evaluate
from trainer.cli import load_config
from trainer.comparison.compare import compare
from trainer.comparison.runs import read_run
from trainer.inference.model_card import model_card
from trainer.inference.pretrained import Export
from trainer.main import main
from trainer.tracking.run_files import read_result
from trainer.tracking.tracking import RunRecord


def test_a_runs_records_name_the_data_and_the_convention(command, splits, tmp_path, capsys):
    assert main(command(epochs=1, **{"data.name": "holiday films"})) == 0
    said = capsys.readouterr().out
    run = tmp_path / "runs" / "tiny"
    named = {"dataset": "holiday films", "convention": "qvhighlights"}
    export = load_config(Export, run / "model" / "config.yaml")
    origins = [read_result(run / "metrics.json")["provenance"], export.provenance]
    for origin in (*origins, RunRecord.read(run).tags):
        assert {key: origin[key] for key in named} == named
    for text in (said, model_card("tiny", export, run), model_card("tiny", export, None)):
        assert "dataset: holiday films" in text
        assert "convention: qvhighlights" in text
    capsys.readouterr()
    flags = ["--checkpoint", str(run), "--eval", "--data.name", "other films"]
    assert main([*command(), *flags]) == 0
    said = capsys.readouterr().out
    assert "dataset: other films" in said
    assert "convention: qvhighlights" in said
    other = {"name": "other", "eval.dataset": "charades", "eval.metric": "[mIoU]"}
    assert main(command(epochs=1, **other)) == 0
    run = tmp_path / "runs" / "other"
    result = json.loads((run / "metrics.json").read_text())
    assert result["provenance"]["dataset"] == "not named"
    assert result["provenance"]["convention"] == "charades"
    runs = [read_run(tmp_path / "runs" / name, name, "folder") for name in ("tiny", "other")]
    [warning] = compare(runs, runs[0]).warnings
    assert "convention charades, not qvhighlights" in warning
    truth, out = run / "annotations.jsonl", tmp_path / "figures.json"
    files = ["--predictions", str(run / "predictions.jsonl"), "--annotations", str(truth)]
    assert evaluate([*files, "--dataset", "charades", "--json", str(out)]) == 0
    assert "by the convention of charades" in " ".join(capsys.readouterr().out.split())
    assert json.loads(out.read_text())["convention"] == "charades"


def test_the_name_of_the_data_may_be_given_to_a_run_that_was_begun_without(command, capsys):
    assert main(command(epochs=1)) == 0
    assert main(command(epochs=1, **{"data.name": "holiday films"})) == 0
    assert "is finished" in capsys.readouterr().out


def test_what_earlier_versions_called_the_data_set_is_the_convention(tmp_path):
    origin = {"dataset": "qvhighlights", "report": "mine/val (split val)"}
    (tmp_path / "metrics.json").write_text(
        json.dumps({"metrics": {"mAP": 1.0}, "provenance": origin})
    )
    found = read_result(tmp_path / "metrics.json")["provenance"]
    assert found["dataset"] == "not named"
    assert found["convention"] == "qvhighlights"
    assert found["report"] == origin["report"]
