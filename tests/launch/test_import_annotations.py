"""One command makes rows of published files, and names every fault of rows that people write."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.annotations import read_annotations
from launch import import_annotations

ROW = {"qid": 1, "query": "A dog runs.", "duration": 10, "vid": "v", "relevant_windows": [[2, 6]]}
RATED = {"relevant_clip_ids": [1, 2], "saliency_scores": [[4, 3, 2], [1, 1, 0]]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return path


def test_rows_are_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = write(
        tmp_path / "val_1.json",
        json.dumps({"v_1": {"duration": 9, "timestamps": [[1, 12]], "sentences": ["a dog"]}}),
    )
    given = [str(published), "--format", "activitynet", "--out", str(tmp_path / "val.jsonl")]
    assert import_annotations.main(given) == 0
    printed = capsys.readouterr().out
    assert "1 rows of 1 videos; windows a query 1.00 (at most 1), words 2.00" in printed
    assert "windows past the end 1, reversed 0, empty 0, sentences twice 0" in printed
    assert "(first: " in printed
    [row] = read_annotations(tmp_path / "val.jsonl")
    assert row.windows == ((1.0, 9.0),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (RATED | {"relevant_clip_ids": [-1, 2]}, "clip -1 of 'relevant_clip_ids' lies outside"),
        (RATED | {"relevant_clip_ids": [1, 5]}, "clip 5 of 'relevant_clip_ids' lies outside"),
        (RATED | {"relevant_clip_ids": [1, 1]}, "clip 1 occurs twice"),
        (RATED | {"relevant_clip_ids": [1, 1.5]}, "fractions"),
        (RATED | {"saliency_scores": [[4], [5]]}, "'saliency_scores' (0 to 4) holds 5"),
        (RATED | {"saliency_scores": [[4], [-1]]}, "'saliency_scores' (0 to 4) holds -1"),
        ({"relevant_windows": [[10, 12]]}, "window [10, 12] of 'relevant_windows' lies outside"),
        ({"relevant_windows": [[-3, -1]]}, "lies outside"),
        ({"relevant_windows": [[6, 2]]}, "ends before it begins"),
        ({"relevant_windows": [[2, 2]]}, "is empty"),
        ({"relevant_windows": [[2, 12]]}, "reaches past the video's 10 s"),
        ({"relevant_windows": None, "windows": [[2, 6]]}, "'windows' looks like windows, and"),
        ({"query": "word " * 80}, "at least 82 tokens, the encoder reads 77"),
        ({"qid": 1}, "qid 1 occurs twice (first on line 1)"),
        ({"duration": 11}, "lasts 11.0 s here"),
        ({"vid": "../v"}, "cannot name a file"),
        ({"clip_length": 0}, "'clip_length' must be a positive number"),
        ({"domain": 3}, "'domain' must be a name"),
    ],
)
def test_a_fault_is_named_with_its_line_and_the_rest_is_checked(
    change: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.jsonl", ROW, ROW | {"qid": 2} | change, "{broken\n")
    assert import_annotations.main([str(path), "--check"]) == 1
    first, second, count = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}:2: ")
    assert said in first
    assert second.startswith(f"{path}:3: not valid JSON")
    assert count == f"{path}: 2 faults"


def test_sound_rows_have_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.jsonl", ROW | RATED, ROW | {"qid": 2, "vid": "w", "duration": 9})
    assert import_annotations.main([str(path), "--check"]) == 0
    assert capsys.readouterr().out == f"{path}: no faults\n"


def test_clips_of_another_length_are_counted_by_it(tmp_path: Path) -> None:
    second = ROW | {"clip_length": 1.0, "relevant_clip_ids": [9], "saliency_scores": [[4]]}
    path = write(tmp_path / "mine.jsonl", second)
    assert import_annotations.main([str(path), "--check"]) == 0
    assert read_annotations(path)[0].clip_length == 1.0
    write(path, second | {"relevant_clip_ids": [10]})
    assert import_annotations.main([str(path), "--check"]) == 1
