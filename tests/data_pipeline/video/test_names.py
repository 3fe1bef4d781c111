"""Files of videos are found by their ids, whatever suffix they have, and named in one line."""

from pathlib import Path

import pytest

from data_pipeline.storage import Location
from data_pipeline.video.names import SUFFIXES, find_video, is_video


def test_a_video_is_found_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "a.b_0.0_9.0.mkv").touch()
    assert find_video(tmp_path, "a.b_0.0_9.0") == Location(tmp_path) / "a.b_0.0_9.0.mkv"
    assert find_video(tmp_path, "a") is None


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".MP4", ".Mts", ".WebM", ".RMVB"])
def test_a_video_is_found_by_every_suffix(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in").mkdir()
    for name in ("A [x].txt", "A [x].y.mp4", "A [x"):
        (tmp_path / "in" / name).touch()
    path = tmp_path / "in" / f"A [x]{suffix}"
    path.touch()
    assert is_video(path.name)
    assert find_video(tmp_path, "in/A [x]") == Location(path)
    assert find_video(tmp_path / "in", path.name) == Location(path)


def test_a_store_is_asked_for_capitals_too(bucket: str) -> None:
    for name in ("b.MP4", "c.Rmvb", "d.txt"):
        (Location(bucket) / "v" / name).write_bytes(b"x")
    assert find_video(f"{bucket}/v", "b") == Location(bucket) / "v" / "b.MP4"
    assert find_video(bucket, "v/c") == Location(bucket) / "v" / "c.Rmvb"
    assert find_video(f"{bucket}/v", "d") is None
