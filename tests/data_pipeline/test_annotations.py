import json
import os
from pathlib import Path

import pytest

from data_pipeline.annotations import read_annotations, write_annotations
from data_pipeline.errors import InputError

ROW = {
    "qid": 1,
    "query": "A dog runs.",
    "duration": 150,
    "vid": "abc",
    "relevant_windows": [[2, 6]],
}


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
