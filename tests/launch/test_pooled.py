"""Runs that report parts of one split are scored as one."""

import json
from pathlib import Path

import pytest

from data_pipeline.annotations import Annotation, write_annotations
from data_pipeline.errors import InputError
from launch.sweeping.pooled import pool


def run(folder: Path, vid: str, domain: str, dataset: str = "youtube", right: bool = True) -> Path:
    folder.mkdir()
    labels = {0: (4.0,), 1: (0.0,)}
    row = Annotation(vid, "q", vid, 4.0, saliency=labels, domain=domain)
    write_annotations(folder / "annotations.jsonl", [row])
    scores = [1.0, 0.0] if right else [0.0, 1.0]
    prediction = {"qid": vid, "pred_saliency_scores": scores}
    (folder / "predictions.jsonl").write_text(json.dumps(prediction) + "\n")
    origin = {"dataset": dataset, "selection": "last epoch", "part": f"domain {domain}"}
    (folder / "metrics.json").write_text(json.dumps({"provenance": origin}))
    return folder


def test_the_figure_is_that_of_all_predictions_together(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", "v1", "dog"),
        run(tmp_path / "b", "v2", "dog", right=False),
        run(tmp_path / "c", "v3", "ski"),
    ]
    result = pool(runs, tmp_path / "pooled")
    # A highlight that is ranked second of two: half of the trapezium from 0 to 1/2.
    assert result["metrics"] == {"mAP": 81.25, "mAP/dog": 62.5, "mAP/ski": 100.0}
    assert result["provenance"]["parts"] == ["domain dog", "domain dog", "domain ski"]
    assert result["provenance"]["selection"] == "last epoch"
    assert json.loads((tmp_path / "pooled" / "metrics.json").read_text()) == result
    assert len((tmp_path / "pooled" / "predictions.jsonl").read_text().splitlines()) == 3


def test_runs_that_answer_one_query_twice_or_are_of_two_sets_are_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "a", "v1", "dog")
    with pytest.raises(InputError, match="'v1' occurs twice"):
        pool([first, run(tmp_path / "b", "v1", "dog")], tmp_path / "pooled")
    with pytest.raises(InputError, match="tvsum"):
        pool([first, run(tmp_path / "c", "v2", "BK", dataset="tvsum")], tmp_path / "pooled")
    assert not (tmp_path / "pooled").exists()
