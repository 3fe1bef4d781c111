"""How reliable a run's probabilities are is drawn where it judges existence, and only there."""

import json
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation
from trainer.pictures.curves import reliability_chart

TRUTH = [
    Annotation(1, "a dog", "v", 20.0, ((2.0, 6.0),)),
    Annotation(2, "a cat", "v", 20.0, ()),
    Annotation(3, "a bird", "v", 20.0),  # nobody says
]


def predictions(path: Path, existence: list[float | None]) -> Path:
    rows: list[dict[str, Any]] = [
        {"qid": qid, "pred_relevant_windows": [[2.0, 6.0, 0.8]]}
        | ({} if sure is None else {"pred_existence": sure, "pred_found": sure > 0.5})
        for qid, sure in enumerate(existence, start=1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_was_said_is_drawn_beside_what_came_true(tmp_path: Path) -> None:
    chart = reliability_chart(predictions(tmp_path / "p.jsonl", [0.95, 0.05, 0.5]), TRUTH)
    assert chart is not None
    drawn = json.dumps(chart.specification)
    assert "the video shows it" in drawn
    assert "the first window is right" in drawn
    assert "95.0" in drawn  # of the one that is there
    assert '"x": 50.0' not in drawn  # nobody says whether the third is


def test_predictions_that_do_not_judge_have_no_such_chart(tmp_path: Path) -> None:
    assert reliability_chart(predictions(tmp_path / "p.jsonl", [0.9, None, 0.5]), TRUTH) is None
    assert reliability_chart(tmp_path / "none.jsonl", TRUTH) is None
