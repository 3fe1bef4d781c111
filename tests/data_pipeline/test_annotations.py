import json
import os
from pathlib import Path

import pytest

from data_pipeline.annotations import (
    doubts,
    misnamed_windows,
    read_annotations,
    write_annotations,
)
from data_pipeline.errors import InputError

ROW = {
    "qid": 1,
    "query": "A dog runs.",
    "duration": 150,
    "vid": "abc",
    "relevant_windows": [[2, 6]],
}
RATED = {"relevant_clip_ids": [1], "saliency_scores": [[4, 3, 2]]}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


def test_rows_survive_writing_and_reading(tmp_path):
    full = {**ROW, "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 3, 2], [0, 1, 1]]}
    bare = {"qid": "s30_0", "query": "A cat.", "duration": 30.9, "vid": "x.y"}
    annotations = read_annotations(write(tmp_path, full, bare))
    write_annotations(tmp_path / "again.jsonl", annotations)
    assert read_annotations(tmp_path / "again.jsonl") == annotations
    assert annotations[0].saliency == {1: (4, 3, 2), 2: (0, 1, 1)}
    assert annotations[1].windows is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in ROW.items() if k != "vid"}, "key 'vid' is missing"),
        ({**ROW, "duration": 0}, "'duration' must be a positive number"),
        ({**ROW, "duration": True}, "'duration' has the wrong type"),
        ({**ROW, "query": "  "}, "must not be empty"),
        ({**ROW, "relevant_windows": [[1]]}, "list of [start, end]"),
        ({**ROW, "relevant_windows": [[1, float("nan")]]}, "NaN is no number"),
        ({**ROW, "relevant_clip_ids": [1], "saliency_scores": []}, "lists of one length"),
        (ROW, "qid 1 occurs twice (first on line 1)"),
        ({**ROW, "qid": 2, "duration": 30}, "lasts 30.0 s here and 150.0 s"),
        ({**ROW, "qid": 2, "relevant_windows": [[150, 152]]}, "lies outside the video's 150 s"),
        ({**ROW, "qid": 2, **RATED, "relevant_clip_ids": [-1]}, "clip -1 of"),
        ({**ROW, "qid": 2, **RATED, "relevant_clip_ids": [75]}, "clip 75 of"),
        ({**ROW, "qid": 2, **RATED, "relevant_clip_ids": [1.5]}, "fractions"),
        ({**ROW, "qid": 2, **RATED, "saliency_scores": [[5, 0, 0]]}, "(0 to 4) holds 5"),
        ("{not json}\n", "not valid JSON"),
        ("[1, 2]\n", "expected a JSON object"),
    ],
)
def test_a_malformed_row_is_named_with_its_file_and_line(tmp_path, row, message):
    path = write(tmp_path, ROW, row)
    with pytest.raises(InputError) as caught:
        read_annotations(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_degenerate_windows_are_left_to_the_reader(tmp_path):
    [annotation] = read_annotations(write(tmp_path, {**ROW, "relevant_windows": [[9, 3], [4, 4]]}))
    assert annotation.windows == ((9.0, 3.0), (4.0, 4.0))


def test_the_real_annotation_files_are_read_whole():
    folder = Path(os.environ.get("SDST_ANNOTATIONS", "../shared/annotations"))
    if not folder.is_dir():
        pytest.skip("the real annotation files are not here; set SDST_ANNOTATIONS to their folder")
    rows = {path.name: len(read_annotations(path)) for path in folder.glob("*/*.jsonl")}
    assert rows["highlight_val_release.jsonl"] == 1550
    assert rows["tacos_test.jsonl"] == 4001
    assert rows["charades_train.jsonl"] == 12404


def test_rows_from_windows_editors_read_as_others_do(tmp_path):
    odd = {**ROW, "query": "two\u2028parts", "qid": 2}
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(ROW), json.dumps(odd, ensure_ascii=False), ""]
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert [row.query for row in read_annotations(path)] == ["A dog runs.", "two\u2028parts"]


def test_windows_that_nobody_means_are_counted(tmp_path):
    windows = [[[2, 6]], [[6, 2]], [[4, 4], [5, 9]], [[140, 150.4]], [[140, 170]], [[-3, 4]], []]
    rows = [{**ROW, "qid": n, "relevant_windows": each} for n, each in enumerate(windows)]
    path = write(tmp_path, *rows)
    backward, after, before = doubts(read_annotations(path))
    assert backward == (
        "2 of 6 rows have a window that ends before it begins (first qid 1: [[6.0, 2.0]] of 150 s)"
    )
    assert after.startswith("1 of 6 rows has a window that ends after its video (first qid 4: ")
    assert before.startswith("1 of 6 rows has a window that begins before its video (first qid 5")
    assert misnamed_windows(path) == []


def test_windows_under_another_name_are_told(tmp_path):
    bare = {key: value for key, value in ROW.items() if key != "relevant_windows"}
    others = [{"windows": [[2, 6]]}, {"windows": [[1, 2], [3, 4]]}, {"timestamp": [2, 6]}, {"x": 3}]
    path = write(
        tmp_path, *({**bare, **other, "qid": n} for n, other in enumerate(others)), ROW | {"qid": 9}
    )
    told = misnamed_windows(path)
    assert [line.partition(" rows")[0] for line in told] == ["2 of 5", "1 of 5"]
    assert "have 'windows' and no 'relevant_windows'" in told[0]
    assert "'timestamp'" in told[1]
