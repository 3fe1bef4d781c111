"""`python -m launch.predict` shows and writes what was found, or says in one line why not."""

import csv
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from launch import predict
from launch.answers.batch import find_videos, read_queries
from trainer.inference.grounding import Grounding, Groundings


class FakeGrounder:
    """Finds everything in seconds 1 to 3 of any video that is not called broken."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.judged: dict[str, float] = {}

    def predict(self, video: Path, sentences: list[str]) -> Groundings:
        self.seen.append(video.name)
        if "broken" in video.name:
            raise InputError(f"{video}: cannot be decoded")
        saliency = np.array([0.0, 1.0, 0.5], np.float32)
        windows = ((1.0, 3.0, 0.9), (0.0, 6.0, 0.2))
        return Groundings(
            Grounding(sentence, 6.0, 2.0, windows, saliency, **self.judged)
            for sentence in sentences
        )


@pytest.fixture
def grounder(monkeypatch: pytest.MonkeyPatch) -> FakeGrounder:
    fake = FakeGrounder()
    monkeypatch.setattr(predict, "load", lambda options: fake)
    return fake


def test_words_and_paths_come_out_as_they_were_typed(
    grounder: FakeGrounder, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = film.rename(tmp_path / "a [bold] :dog: [x].mp4")
    sentence = "[red]stop[/red] at :cat: for $5 [/no] \\[end]"
    out = tmp_path / "[found] :tv:.json"
    assert predict.main([str(odd), sentence, "--json", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert sentence in shown
    assert str(out) in shown
    assert json.loads(out.read_text())["results"][0]["query"] == sentence


def test_table_shows_windows_scores_and_saliency(
    grounder: FakeGrounder, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(film), "a dog", "a cat", "--top", "1"]) == 0
    shown = capsys.readouterr().out
    for text in ("a dog", "a cat", "1 s", "3 s", "0.90", "▁█▅"):
        assert text in shown
    assert "0.20" not in shown


def test_json_picture_and_clips_are_written(
    grounder: FakeGrounder, film: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [
        "--json",
        str(out / "f.json"),
        "--plot",
        str(out / "f.png"),
        "--clips",
        str(out / "c"),
    ]
    assert predict.main([str(film), "a dog", *options]) == 0
    result = json.loads((out / "f.json").read_text())
    assert result["duration"] == 6
    assert result["results"] == [
        {
            "query": "a dog",
            "found": True,
            "windows": [[1, 3, 0.9], [0, 6, 0.2]],
            "saliency": [0, 1, 0.5],
            "clip_length": 2,
        }
    ]
    with Image.open(out / "f.png") as picture:
        assert picture.format == "PNG"
    assert sorted(path.name for path in (out / "c").iterdir()) == ["film-1-1.mp4", "film-1-2.mp4"]
    with av.open(str(out / "c" / "film-1-1.mp4")) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == pytest.approx(10, abs=1)


def test_json_on_the_terminal_is_nothing_but_json(
    grounder: FakeGrounder, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(film), "a dog", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["query"] == "a dog"


@pytest.fixture
def batch(tmp_path: Path) -> list[str]:
    """Arguments of a batch of three videos, one of them broken."""
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mkv", "broken.mp4", "notes.md"):
        (tmp_path / "videos" / name).touch()
    (tmp_path / "queries.txt").write_text("a dog\n\na cat\n")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    (tmp_path / "config.yaml").touch()
    options = ["--queries", str(tmp_path / "queries.txt"), "--output", str(tmp_path / "found")]
    return [str(tmp_path / "videos"), *options, "--model", str(tmp_path)]


def test_batch_writes_a_file_per_video_and_records_the_broken_one(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    assert predict.main(batch) == 1
    found = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert found == ["a.mp4.json", "b.mkv.json", "failures.jsonl", "found.html"]
    failure = json.loads((tmp_path / "found" / "failures.jsonl").read_text())
    assert failure["error"].endswith("broken.mp4: cannot be decoded")
    results = json.loads((tmp_path / "found" / "a.mp4.json").read_text())["results"]
    assert [result["query"] for result in results] == ["a dog", "a cat"]


def test_batch_goes_on_where_it_stopped(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    predict.main(batch)
    (tmp_path / "found" / "a.mp4.json").write_text("half a fi")
    grounder.seen.clear()
    predict.main(batch)
    assert grounder.seen == ["a.mp4", "broken.mp4"]


def test_batch_is_done_anew_for_another_model_or_other_sentences(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    predict.main(batch)
    changes = {"model.safetensors": "others", "config.yaml": "k: v", "queries.txt": "a bird"}
    for changed, text in changes.items():
        (tmp_path / changed).write_text(text)
        grounder.seen.clear()
        predict.main(batch)
        assert grounder.seen == ["a.mp4", "b.mkv", "broken.mp4"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_sentences_are_the_lines_of_a_file_whoever_wrote_it(tmp_path: Path, end: str) -> None:
    lines = ["#1 of the race", "two\u2028parts", "  a dog ", "", "\u4e00\u53ea\u72d7"]
    path = tmp_path / "q.txt"
    path.write_bytes(("\ufeff" + end.join(lines) + end).encode())
    assert read_queries(path) == ["#1 of the race", "two\u2028parts", "a dog", "\u4e00\u53ea\u72d7"]


def test_a_list_of_videos_has_comments_unless_a_video_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "#1.mp4").touch()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf# ours\r\n#1.mp4\r\nb.mp4\r\n")
    assert list(find_videos(tmp_path / "list.txt")) == ["#1.mp4", "b.mp4"]


def test_threshold_and_top_choose_what_is_shown_written_and_tabulated(
    grounder: FakeGrounder, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--json", str(tmp_path / "f.json"), "--csv", str(tmp_path / "f.csv")]
    assert predict.main([str(film), "a, dog", "--threshold", "0.5", *out]) == 0
    assert "0.20" not in capsys.readouterr().out
    [result] = json.loads((tmp_path / "f.json").read_text())["results"]
    assert result["windows"] == [[1, 3, 0.9]]
    header, row = (tmp_path / "f.csv").read_text("utf-8-sig").splitlines()
    assert header == "video,query,rank,start,end,score"
    assert row == f'{film},"a, dog",1,1.000,3.000,0.9000'
    assert predict.main([str(film), "a dog", "--threshold", "0.95"]) == 0
    assert "not found: no window with a score of 0.95 or more" in capsys.readouterr().out


def test_what_is_not_found_is_guessed_on_request_and_said_to_be(
    grounder: FakeGrounder, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [f"--json={tmp_path / 'f.json'}", f"--csv={tmp_path / 'f.csv'}", f"--clips={tmp_path}/c"]
    grounder.judged = {"existence": 0.2}
    assert predict.main([str(film), "a dog", *out]) == 0
    shown = capsys.readouterr().out
    assert "not found: 20.0% sure that the video shows it" in shown
    assert "0.90" not in shown
    [result] = json.loads((tmp_path / "f.json").read_text())["results"]
    assert (result["found"], result["existence"], result["windows"]) == (False, 0.2, [])
    assert "guess" not in result
    assert len((tmp_path / "f.csv").read_text("utf-8-sig").splitlines()) == 1
    assert not list((tmp_path / "c").iterdir())
    assert predict.main([str(film), "a dog", "--guess", *out]) == 0
    shown = capsys.readouterr().out
    assert "not found" in shown
    assert shown.count("a guess") == 2
    assert "0.90" in shown
    [result] = json.loads((tmp_path / "f.json").read_text())["results"]
    assert (result["windows"], result["guess"]) == ([], [[1, 3, 0.9], [0, 6, 0.2]])


def test_a_batch_says_where_nothing_is_found_and_guesses_on_request(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grounder.judged = {"existence": 0.2}
    page, table = tmp_path / "found" / "found.html", tmp_path / "f.csv"
    for flags, articles in ([], 0), (["--guess"], 4):
        assert predict.main([*batch, *flags, "--csv", str(table)]) == 1
        assert "found in 0 of 3 videos" in capsys.readouterr().out
        assert page.read_text().count("<article") == articles
        assert page.read_text().count("not found: a guess") == articles
        assert len(table.read_text("utf-8-sig").splitlines()) == 1
    assert grounder.seen == ["a.mp4", "b.mkv", "broken.mp4", "broken.mp4"]  # the files hold both


def test_results_of_earlier_versions_are_shown(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main(batch)
    path = tmp_path / "found" / "a.mp4.json"
    found = json.loads(path.read_text())
    for row in found["results"]:
        del row["found"]
    path.write_text(json.dumps(found))
    capsys.readouterr()
    assert predict.main([*batch, "--guess"]) == 1
    assert "found in 2 of 3 videos" in capsys.readouterr().out


def test_a_batch_ends_in_a_table_a_page_and_a_csv_file(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "queries.txt").write_text("<b>a dog</b> [x]\na cat\n")
    assert predict.main([*batch, "--threshold=0.5", "--csv", str(tmp_path / "all.csv")]) == 1
    shown = capsys.readouterr().out
    for text in ("“<b>a dog</b> [x]”", "found in 2 of 3 videos", "a.mp4", "b.mkv", "0.90"):
        assert text in shown
    page = (tmp_path / "found" / "found.html").read_text()
    assert "&lt;b&gt;a dog&lt;/b&gt; [x]" in page
    assert page.count("<article") == 4
    rows = list(csv.DictReader((tmp_path / "all.csv").open(encoding="utf-8-sig")))
    assert [(row["video"][-5:], row["query"], row["rank"]) for row in rows] == [
        (name, query, "1") for name in ("a.mp4", "b.mkv") for query in ("<b>a dog</b> [x]", "a cat")
    ]
    # The files hold all windows: another threshold needs no video.
    grounder.seen.clear()
    assert predict.main([*batch, "--threshold", "0"]) == 1
    assert grounder.seen == ["broken.mp4"]


def test_subfolders_are_searched_where_that_is_asked_for(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "videos" / "deep" / "er").mkdir(parents=True)
    for name in ("deep/a.MP4", "deep/er/a.mp4"):
        (tmp_path / "videos" / name).touch()
    predict.main(batch)
    assert not (tmp_path / "found" / "deep").exists()
    predict.main([*batch, "--recursive"])
    found = (tmp_path / "found" / "deep").rglob("*.json")
    assert sorted(path.name for path in found) == ["a.MP4.json", "a.mp4.json"]
    assert "deep/er/a.mp4" in capsys.readouterr().out
    (tmp_path / "above").mkdir()
    (tmp_path / "videos").rename(tmp_path / "above" / "videos")
    assert predict.main([str(tmp_path / "above"), *batch[1:]]) == 2
    assert "--recursive looks into subfolders" in capsys.readouterr().err


def test_threads_are_left_to_whom_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for load, threads in ((0.1, 8), (2.6, 5), (30.0, 1)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert predict.spare_threads() == threads


def test_list_of_videos_is_relative_to_itself_and_so_are_the_results(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("videos/a.mp4\n./videos/a.mp4\nvideos/b.mkv\n")
    assert predict.main([str(tmp_path / "list.txt"), *batch[1:]]) == 0
    assert grounder.seen == ["a.mp4", "b.mkv"]
    assert (tmp_path / "found" / "videos" / "a.mp4.json").is_file()


def results(folder: Path) -> dict[str, str]:
    """The video that each result is of, by the result's name."""
    return {
        str(path.relative_to(folder)): json.loads(path.read_text())["video"]
        for path in sorted(folder.rglob("*.json"))
    }


def test_videos_of_one_name_in_several_folders_have_an_answer_each(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "IMG_1.mp4").write_text(folder)
        (tmp_path / "list.txt").write_text(f"{folder}/IMG_1.mp4\n")
        assert predict.main([str(tmp_path / "list.txt"), *batch[1:]]) == 0
    (tmp_path / "list.txt").write_text(f"A/IMG_1.mp4\n{tmp_path}/B/IMG_1.mp4\n")
    assert predict.main([str(tmp_path / "list.txt"), *batch[1:]]) == 0
    assert len(grounder.seen) == 2
    assert results(tmp_path / "found") == {
        f"{folder}/IMG_1.mp4.json": str(tmp_path / folder / "IMG_1.mp4") for folder in "AB"
    }


def test_a_folder_with_other_videos_of_the_same_names_is_not_done_from_before(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("A", "B"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "IMG_1.mp4").write_text(f"the video of {folder}")
        assert predict.main([str(tmp_path / folder), *batch[1:]]) == 0
        assert "0 of them from before" in " ".join(capsys.readouterr().err.split())
    assert results(tmp_path / "found") == {"IMG_1.mp4.json": str(tmp_path / "B" / "IMG_1.mp4")}


def test_a_video_outside_of_the_folder_of_the_list_keeps_its_whole_path(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    lists, video = tmp_path / "lists", tmp_path / "videos" / "a.mp4"
    lists.mkdir()
    (lists / "list.txt").write_text("../videos/a.mp4\n")
    assert predict.main([str(lists / "list.txt"), *batch[1:]]) == 0
    assert (tmp_path / "found" / video.relative_to("/")).with_name("a.mp4.json").is_file()


def test_a_video_that_changed_is_done_again(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path
) -> None:
    predict.main(batch)
    video = tmp_path / "videos" / "a.mp4"
    video.write_text("longer")
    status = video.stat()
    grounder.seen.clear()
    predict.main(batch)
    os.utime(video, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    predict.main(batch)
    predict.main(batch)
    assert grounder.seen == ["a.mp4", "broken.mp4", "a.mp4", "broken.mp4", "broken.mp4"]


def test_a_video_that_is_gone_is_a_failure_even_if_it_was_there_before(
    grounder: FakeGrounder, batch: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text("videos/a.mp4\nvideos/b.mkv\nnever.mp4\n")
    command = [str(tmp_path / "list.txt"), *batch[1:]]
    assert predict.main(command) == 1
    (tmp_path / "videos" / "a.mp4").unlink()
    capsys.readouterr()
    assert predict.main(command) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 3 videos" in said
    assert "1 of them from before; 2 skipped" in said
    rows = [json.loads(row) for row in (tmp_path / "found" / "failures.jsonl").open()]
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "never.mp4"]
    assert all("No such file" in row["error"] for row in rows)
    page = (tmp_path / "found" / "found.html").read_text()
    assert "b.mkv" in page
    assert "a.mp4" not in page  # whose file of the first batch is still there


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["{film}"], "nothing to look for"),
        (["{folder}/none.mp4", "a dog"], "none.mp4: no such file or folder"),
        (["{film}", "a dog", "--top", "0"], "--top must be at least 1"),
        (["{film}", "a dog", "--recursive"], "--recursive is for a folder"),
        (["{film}", "a dog", "--output", "x"], "--output is for several videos"),
        (["{folder}", "a dog"], "name a folder with --output"),
        (["{folder}", "a dog", "--output", "x", "--plot", "p.png"], "for a single video"),
        (["{film}", "a dog", "--queries", "{folder}/none.txt"], "none.txt: cannot be read"),
        (["{folder}/nul.txt", "a dog", "--output", "x"], "holds a zero byte"),
        (["{film}", "a dog", "--modle", "x"], "did you mean 'model'"),
        (["{film}", "a dog", "--model", "{folder}/none"], "none: no such folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], fault: str, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (film.parent / "nul.txt").write_text("a\0b.mp4\n")
    given = [argument.format(film=film, folder=film.parent) for argument in arguments]
    assert predict.main(given) == 2
    message = capsys.readouterr().err
    assert fault in message
    assert message.count("\n") == 1
