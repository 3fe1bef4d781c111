"""From feature sets to moments on a page, by the commands that people type."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.features.shards import FeatureSet
from launch import evaluate, index, search
from tests.data_pipeline.conftest import write_video
from tests.trainer.archive.conftest import (  # noqa: F401 - fixtures
    features,
    index_of,
    indexed,
    judging_run,
    run,
)
from trainer.archive.archive import Answer
from trainer.archive.index import Index


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(12):
        write_video(folder / f"s3v{number}.mp4", frames=36, rate=1)
    return folder


def test_sets_are_indexed_added_and_removed(
    tmp_path: Path,
    run: Path,  # noqa: F811
    features: FeatureSet,  # noqa: F811
    make_features: Callable[..., FeatureSet],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, more = tmp_path / "index", make_features(tmp_path / "more", videos=3, seed=9)
    begin = [str(features.folder), "--model", str(run), "--output", str(folder)]
    assert index.main(begin) == 0
    assert "12 videos added" in capsys.readouterr().out
    assert index.main(begin) == 0
    assert "0 videos added, 0 clips, 12 were there already; 12 videos" in capsys.readouterr().out
    assert index.main(["--output", str(folder), "--add", str(more.folder)]) == 0
    assert "15 videos in all" in capsys.readouterr().out
    assert index.main(begin) == 2  # it would not be an index of that set alone
    assert f"--add {features.folder}" in capsys.readouterr().err
    assert index.main(["--output", str(folder), "--remove", str(features.folder)]) == 0
    assert "12 videos taken out, 3 are left" in capsys.readouterr().out
    assert len(Index(folder).videos) == 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give feature sets"),
        (["{set}", "--add", "{set}"], "give feature sets"),
        (["{set}"], "name its model with --model"),
        (["--add", "{set}"], "holds no index"),
        (["--remove", "x"], "holds no index"),
        (["{set}", "--model", "nowhere"], "nowhere"),
        (["nowhere", "--model", "{run}"], "nowhere"),
        (["{set}", "--model", "{run}", "--vectors", "joint"], "share no space"),
        (["{set}", "--model", "{run}", "--vectors", "other"], "other"),
        (["{set}", "--model", "{run}", "--videos", "nowhere"], "no such folder"),
    ],
)
def test_what_cannot_be_indexed_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    run: Path,  # noqa: F811
    features: FeatureSet,  # noqa: F811
    flags: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [flag.format(set=features.folder, run=run) for flag in flags]
    assert index.main([*given, "--output", str(tmp_path / "index")]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "index").exists()


def test_answers_come_as_table_file_page_and_clips(
    tmp_path: Path,
    run: Path,  # noqa: F811
    features: FeatureSet,  # noqa: F811
    videos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "index"
    index.main([str(features.folder), f"--model={run}", f"--output={folder}", f"--videos={videos}"])
    out = [f"--json={tmp_path}/f.json", f"--page={tmp_path}/f.html", f"--clips={tmp_path}/clips"]
    asked = [str(folder), "topic 1", "topic 4", "--top", "3"]
    assert search.main([*asked, *out]) == 0
    shown = capsys.readouterr().out
    assert "“topic 4”" in shown
    assert "search p50" in shown
    results = json.loads((tmp_path / "f.json").read_text())["results"]
    found = [moment for row in results for moment in row["pred_moments"]]
    assert len(found) == 6
    page = (tmp_path / "f.html").read_text()
    assert page.count("data:image/jpeg") >= 6
    for video, start, end, _ in found:
        assert video in shown
        assert f'href="videos/{video}.mp4#t={start:.3f},{end:.3f}"' in page
    cut = sorted(path.name for path in (tmp_path / "clips").glob("*.mp4"))
    assert cut == sorted(f"{i // 3 + 1}-{i % 3 + 1}-{m[0]}.mp4" for i, m in enumerate(found))


def test_a_video_that_is_gone_costs_its_pictures_alone(
    tmp_path: Path,
    run: Path,  # noqa: F811
    features: FeatureSet,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, empty = tmp_path / "index", tmp_path / "empty"
    empty.mkdir()
    index.main([str(features.folder), f"--model={run}", f"--output={folder}", f"--videos={empty}"])
    out = [f"--page={tmp_path}/f.html", f"--clips={tmp_path}/clips"]
    assert search.main([str(folder), "topic 1", "--top", "2", *out]) == 0
    assert capsys.readouterr().out.count("no clip") == 2
    page = (tmp_path / "f.html").read_text()
    assert page.count("no such video file") == 2
    assert "Play from" not in page


def test_what_is_not_found_is_said_and_guessed_on_request(
    tmp_path: Path,
    judging_run: Path,  # noqa: F811
    features: FeatureSet,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = index_of(tmp_path / "judged", judging_run, features)
    monkeypatch.setattr(Answer, "listed", ())
    asked = [str(folder), "topic 1", "--top", "2", f"--page={tmp_path}/f.html"]
    assert search.main(asked) == 0
    assert "not found: " in capsys.readouterr().out
    assert "Play from" not in (page := (tmp_path / "f.html").read_text())
    assert "a guess" not in page
    assert search.main([*asked, "--guess", f"--json={tmp_path}/f.json"]) == 0
    assert capsys.readouterr().out.count("a guess") == 2
    assert (tmp_path / "f.html").read_text().count("What follows is a guess.") == 1
    (row,) = json.loads((tmp_path / "f.json").read_text())["results"]
    assert row["found"] is False
    assert 0 < row["existence"] < 1


def test_annotated_sentences_are_answered_and_scored(
    tmp_path: Path,
    indexed: Path,  # noqa: F811
    features: FeatureSet,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [query.annotation for sample in features for query in sample.queries]
    truth = tmp_path / "rows.jsonl"
    truth.write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows))
    answers = tmp_path / "answers.jsonl"
    asked = [str(indexed), "--queries", str(truth), "--json", str(answers), "--top", "100"]
    search.main([*asked, "--candidates", "99"])
    given = ["--task", "vcmr", "--predictions", str(answers), "--annotations", str(truth)]
    assert evaluate.main([*given, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["queries"] == 24
    assert figures["metrics"]["VR@100"] == 100
    assert 0 < figures["metrics"]["R@100 IoU=0.5"] <= 100
    assert "NDCG@40" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{}\n", "1: malformed"),
        ('{"qid": 1, "query": 3}\n', "no text"),
        ('{"qid": 1, "query": " "}\n', "the query is empty"),
        ('{"qid": 1, "query": "a"}\n{"qid": 1, "query": "b"}\n', "q.jsonl:2: malformed"),
        ("", "no sentences"),
    ],
)
def test_rows_that_ask_nothing_are_one_line(
    tmp_path: Path, rows: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.jsonl").write_text(rows)
    assert search.main([str(tmp_path), "--queries", str(tmp_path / "q.jsonl")]) == 2
    assert said in capsys.readouterr().err
