"""Results that cannot be written are found before the work, and are one line in any case."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from launch import compare, convert_internvideo2, evaluate, predict, sweep
from trainer.inference.grounding import Grounding, Groundings


class FakeGrounder:
    """Finds everything in seconds 1 to 3 of any video; counts, and does what a test asks for."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.at: dict[str, Callable[[], object]] = {}

    def predict(self, video: Path, sentences: list[str]) -> Groundings:
        self.seen.append(video.name)
        self.at.get(video.name, lambda: None)()
        saliency = np.array([0.0, 1.0, 0.5], np.float32)
        windows = ((1.0, 3.0, 0.9), (0.0, 6.0, 0.2))
        return Groundings(
            Grounding(sentence, 6.0, 2.0, windows, saliency) for sentence in sentences
        )


@pytest.fixture
def grounder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGrounder:
    fake = FakeGrounder()
    monkeypatch.setattr(predict, "load", lambda options: fake)
    (tmp_path / "model").mkdir()
    for name in ("config.yaml", "model.safetensors"):
        (tmp_path / "model" / name).write_text("a model")
    return fake


def bad_places(folder: Path) -> dict[str, Path]:
    (folder / "folder").mkdir()
    (folder / "file").write_text("mine")
    return {
        "a folder in the way": folder / "folder",
        "below a file": folder / "file" / "result",
        "a long name": folder / ("x" * 256),
        "proc": Path("/proc/result"),
    }


@pytest.mark.parametrize("place", ["a folder in the way", "below a file", "a long name", "proc"])
@pytest.mark.parametrize("flag", ["--json", "--plot", "--clips"])
def test_a_result_that_cannot_be_is_refused_before_the_model_is_asked(
    grounder: FakeGrounder,
    film: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    place: str,
) -> None:
    path = bad_places(tmp_path)[place]
    if flag == "--plot":
        path = path.with_name(f"{path.name}.png")
        (tmp_path / "folder").rename(tmp_path / "folder.png")
    if flag == "--clips" and place == "a folder in the way":
        path = tmp_path / "file"
    assert predict.main([str(film), "rain", flag, str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1
    assert grounder.seen == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_picture_is_a_png(
    grounder: FakeGrounder, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x.nosuchsuffix", "x", "x.svg"):
        assert predict.main([str(film), "rain", "--plot", str(tmp_path / name)]) == 2
        assert "pictures are written as PNG; name a .png file" in capsys.readouterr().err
    assert grounder.seen == []
    assert predict.main([str(film), "rain", "--plot", str(tmp_path / "x.PNG")]) == 0
    assert (tmp_path / "x.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("flag", ["--json", "--plot", "--clips"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_no_file(
    grounder: FakeGrounder,
    film: Path,
    small_disk: Path,
    fill: Callable[[], Path],
    capsys: pytest.CaptureFixture[str],
    flag: str,
) -> None:
    grounder.at["film.mp4"] = fill
    name = {"--json": "a.json", "--plot": "a.png", "--clips": "clips"}[flag]
    words = 100 if flag == "--plot" else 2000  # more than 8 kB; a picture is it sooner
    asked = [str(film), *["rain " * words] * 3, flag, str(small_disk / name)]
    assert predict.main(asked) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {small_disk}/{name}")
    assert "No space left on device; make room" in error
    assert error.count("\n") == 1
    assert not [path for path in small_disk.rglob("*") if path.name.endswith(".tmp")]
    assert not list(small_disk.rglob("a*"))


def batch(tmp_path: Path, *names: str) -> list[str]:
    (tmp_path / "videos").mkdir(exist_ok=True)
    for name in names:
        (tmp_path / "videos" / name).write_bytes(b"a video")
    (tmp_path / "queries.txt").write_text("rain\n")
    return [
        str(tmp_path / "videos"),
        f"--queries={tmp_path / 'queries.txt'}",
        f"--model={tmp_path / 'model'}",
    ]


def failures(folder: Path) -> dict[str, str]:
    rows = map(json.loads, (folder / "failures.jsonl").read_text().splitlines())
    return {Path(row["video"]).name: row["error"] for row in rows}


def test_whatever_a_video_raises_is_recorded_with_its_cause_and_the_batch_goes_on(
    grounder: FakeGrounder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_text() -> None:
        b"\xff".decode()

    def no_codec() -> None:
        raise AttributeError("'NoneType' object has no attribute 'name'\nand more")

    def no_memory() -> None:
        raise MemoryError

    grounder.at = {"a.mp4": no_text, "c.mp4": no_codec, "e.mp4": no_memory}
    long = "é" * 125 + ".mp4"  # with ".json" behind it, no file could be called so
    asked = batch(tmp_path, "a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", long)
    out = tmp_path / "found"
    assert predict.main([*asked, f"--output={out}"]) == 1
    found = failures(out)
    assert found.keys() == {"a.mp4", "c.mp4", "e.mp4"}
    assert found["a.mp4"].startswith("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff")
    assert found["c.mp4"] == "AttributeError: 'NoneType' object has no attribute 'name' and more"
    assert found["e.mp4"] == "MemoryError"
    assert (out / "b.mp4.json").is_file()
    assert (out / "d.mp4.json").is_file()
    (kept,) = out.glob("é*.json")
    assert json.loads(kept.read_text())["video"].endswith(long)
    assert "3 of 6 videos" in " ".join(capsys.readouterr().err.split())


def test_a_batch_removes_what_a_killed_one_left(grounder: FakeGrounder, tmp_path: Path) -> None:
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos" / "deep" / "a.mp4").touch()
    left = tmp_path / "found" / "deep" / f".a.mp4.json.{'0' * 32}.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    words = [tmp_path / "videos", "a dog", "--recursive", f"--output={tmp_path / 'found'}"]
    assert predict.main([*map(str, words), f"--model={tmp_path / 'model'}"]) == 0
    assert os.listdir(left.parent) == ["a.mp4.json"]


def test_a_batch_stops_where_the_disk_is_full_and_the_same_command_goes_on(
    grounder: FakeGrounder,
    tmp_path: Path,
    small_disk: Path,
    fill: Callable[[], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    grounder.at["b.mp4"] = fill
    asked = [*batch(tmp_path, "a.mp4", "b.mp4", "c.mp4"), f"--output={small_disk / 'found'}"]
    (tmp_path / "queries.txt").write_text("rain " * 3000)
    assert predict.main(asked) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {small_disk}/found/b.mp4.json: cannot be written: No space")
    assert grounder.seen == ["a.mp4", "b.mp4"]
    assert sorted(os.listdir(small_disk / "found")) == ["a.mp4.json", "failures.jsonl"]
    (small_disk / "filler").unlink()
    grounder.at.clear()
    assert predict.main(asked) == 0
    assert grounder.seen == ["a.mp4", "b.mp4", "b.mp4", "c.mp4"]


def test_a_batch_into_a_file_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert predict.main([*batch(tmp_path, "a.mp4"), f"--output={tmp_path / 'file'}"]) == 2
    assert f"error: {tmp_path / 'file'}: " in capsys.readouterr().err


def test_other_commands_find_it_out_before_they_read_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "plan.yaml").write_text("epochs: 1\n")
    below = tmp_path / "file" / "below"
    for main, asked in (
        (compare.main, ["nosuchrun", f"--output={below}"]),
        (evaluate.main, ["--predictions=no", "--annotations", "no", f"--json={below}"]),
        (
            convert_internvideo2.main,
            ["--checkpoint=no", "--vocabulary=no", f"--output={below}"],
        ),
    ):
        assert main(asked) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {below}"), error
        assert "choose another place" in error
        assert error.count("\n") == 1
    experiment = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")
    asked = ["--config", experiment, "--name=s", f"--runs={tmp_path / 'file'}"]
    assert sweep.main([*asked, "--grid=seed=1,2"]) == 2
    assert "choose another place" in capsys.readouterr().err
