import json

import pytest

from data_pipeline.annotations import Annotation, write_annotations
from launch.evaluate import main

ANNOTATIONS = [
    Annotation(i, f"query {i}", f"v{i}", 20.0, ((2.0, 8.0),), {1: (4, 4, 4), 2: (3, 4, 2)})
    for i in range(12)
]


def rows_for(annotations, end=8.0):
    return [
        {
            "qid": a.qid,
            "query": a.query,
            "vid": a.vid,
            "pred_relevant_windows": [[2.0, end + (a.qid % 3), 0.9]],
            "pred_saliency_scores": [0, 9, 1, 0, 0, 0, 0, 0, 0, 0],
        }
        for a in annotations
    ]


@pytest.fixture
def files(tmp_path):
    write_annotations(tmp_path / "a.jsonl", ANNOTATIONS)
    for name, end in (("p", 8.0), ("q", 14.0)):
        lines = [json.dumps(row) + "\n" for row in rows_for(ANNOTATIONS, end)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def call(folder, *extra, predictions="p.jsonl"):
    given = ["--predictions", f"{folder / predictions}", "--annotations", f"{folder / 'a.jsonl'}"]
    return main([*given, *map(str, extra)])


def test_a_table_shows_every_headline_with_its_interval(files, capsys):
    assert call(files) == 0
    shown = capsys.readouterr().out
    for name in ("R1@0.5", "R5@0.7", "mAP-short", "mIoU", "HD-mAP", "HIT@1"):
        assert name in shown
    assert "95% interval" in shown
    assert "12 queries, 12 videos" in shown
    assert "only 12 videos" in shown


def test_provenance_is_printed_a_line_for_each_part(files, capsys):
    origin = {"code": "abc", "features": {"video": "clip [b32]", "layers": [1, 2]}}
    (files / "metrics.json").write_text(json.dumps({"provenance": origin}))
    assert call(files) == 0
    lines = capsys.readouterr().out.splitlines()
    told = ["code: abc", "features.video: clip [b32]", "features.layers: [1, 2]"]
    assert [line for line in lines if line in told] == told


def test_json_holds_the_published_keys_and_ours(files):
    (files / "metrics.json").write_text('{"provenance": {"seed": 3}}')
    assert call(files, "--json", files / "o.json") == 0
    record = json.loads((files / "o.json").read_text())
    assert record["brief"]["MR-full-R1@0.7"] == record["metrics"]["R1@0.7"] == 100.0
    assert record["full"]["MR-mAP"]["average"] == record["metrics"]["mAP"]
    assert set(record["intervals"]) == set(record["metrics"])
    assert record["provenance"] == {"seed": 3}
    assert len(record["predictions"]["sha256"]) == 64


def test_a_comparison_gives_the_difference_and_its_interval(files, capsys):
    assert call(files, "--versus", files / "q.jsonl", "--json", files / "o.json") == 0
    assert "difference" in capsys.readouterr().out
    record = json.loads((files / "o.json").read_text())
    gap = record["versus"]["differences"]["mIoU"]
    assert gap["value"] > 0
    assert gap["interval"][0] <= gap["value"] <= gap["interval"][1]
    assert record["versus"]["differences"]["HIT@1"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_a_query_without_windows_is_warned_of_and_official_follows_the_script(files, capsys):
    rows = rows_for(ANNOTATIONS)
    rows[0]["pred_relevant_windows"] = []
    (files / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = []
    for extra in ((), ("--official",)):
        assert call(files, *extra, "--json", files / "o.json") == 0
        assert "no predicted window" in capsys.readouterr().err
        figures.append(json.loads((files / "o.json").read_text())["brief"]["MR-full-mAP@0.5"])
    assert figures == [91.67, 100.0]


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (3, {"qid": 99}, "p.jsonl:3: qid 99 is not in the annotations"),
        (3, {"qid": 0}, "p.jsonl:3: qid 0 occurs twice (first at 1)"),
        (3, {"pred_relevant_windows": [[0, 1]]}, "p.jsonl:3: 'pred_relevant_windows' holds [0, 1]"),
        (3, {"pred_saliency_scores": None}, "p.jsonl:3: 'pred_saliency_scores' is missing here"),
        (12, None, "p.jsonl: has no row for qid 11 (annotation 12); predict every query"),
        (4, "{", "p.jsonl:4: not valid JSON"),
    ],
)
def test_a_bad_row_is_one_line_and_status_2(files, capsys, line, change, message):
    rows = rows_for(ANNOTATIONS)
    lines = [json.dumps(row) for row in rows]
    if change is None:
        del lines[line - 1]
    else:
        bad = change if isinstance(change, str) else json.dumps(rows[line - 1] | change)
        lines[line - 1] = bad
    (files / "p.jsonl").write_text("\n".join(lines) + "\n")
    assert call(files) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_absent_files_and_missing_options_are_one_line_and_status_2(files, capsys):
    assert call(files, predictions="none.jsonl") == 2
    assert "none.jsonl: cannot be read" in capsys.readouterr().err
    assert main(["--predictions", str(files / "p.jsonl")]) == 2
    assert "--annotations" in capsys.readouterr().err
    assert call(files, "--json", files / "absent" / "o.json") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_checked_submission_gives_status_1_and_its_faults(files, capsys):
    given = ["--check", str(files / "p.jsonl"), "--annotations", str(files / "a.jsonl")]
    assert main(given) == 0
    assert "no fault found" in capsys.readouterr().out
    rows = rows_for(ANNOTATIONS)
    rows[4]["pred_saliency_scores"].pop()
    (files / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(given) == 1
    shown = capsys.readouterr().out
    assert "p.jsonl:5: 'pred_saliency_scores' holds 9 scores, not 10" in shown
    assert "1 fault\n" in shown


def test_other_data_sets_are_measured_by_their_own_figures(tmp_path, capsys):
    row = {
        "qid": "a",
        "query": "t",
        "vid": "v",
        "duration": 3,
        "domain": "dog",
        "match": [1, -1, 0],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    prediction = {"qid": "a", "pred_saliency_scores": [0.9, 0.1, 0.2]}
    (tmp_path / "p.jsonl").write_text(json.dumps(prediction))
    assert call(tmp_path, "--dataset", "youtube", "--json", tmp_path / "o.json") == 0
    assert json.loads((tmp_path / "o.json").read_text())["metrics"] == {
        "mAP": 100.0,
        "mAP/dog": 100.0,
    }
    assert "1 domains, not the 6" in capsys.readouterr().err
