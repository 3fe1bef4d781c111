"""A tar of samples is read once, in order; what is wrong with it or a sample is told."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.extraction.pictures import Pictures
from data_pipeline.extraction.tars import TarSample, Video, read_tar
from data_pipeline.features.writing import Failure
from data_pipeline.storage import Location
from data_pipeline.video.opening import VideoError
from tests.data_pipeline.extraction.archives import picture, write_tar


def samples(path: Path) -> list[TarSample]:
    return list(read_tar(Location(path), "part"))


def test_videos_captions_and_pictures_become_samples(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        [
            ("000.mp4", b"video"),
            ("000.json", b'{"duration": 2}'),
            ("000.txt", b" A dog. \n"),
            ("deep/001.MKV", b"other"),
            ("002.10.jpg", b"ten"),
            ("002.9.jpg", b"nine"),
            ("002.json", b'{"fps": 4}'),
            ("003.0.png", b"alone"),
        ],
    )
    assert samples(tar) == [
        TarSample("part/000", Video(b"video", f"{tar}: 000"), "A dog."),
        TarSample("part/deep/001", Video(b"other", f"{tar}: deep/001")),
        TarSample("part/002", Pictures([b"nine", b"ten"], 4.0, f"{tar}: 002")),
        TarSample("part/003", Pictures([b"alone"], 1.0, f"{tar}: 003")),
    ]


def test_odd_samples_are_failures_and_the_rest_is_read(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        [
            ("../../evil.mp4", b"x"),
            ("none.txt", b"no video"),
            ("same.mp4", b"first"),
            ("other.mp4", b"x"),
            ("same.mp4", b"second"),
            ("back\\slash.mp4", b"x"),
            ("last.mp4", b"x"),
            ("last.mp4", b"y"),
        ],
    )
    found = samples(tar)
    failures = [each.shows for each in found if isinstance(each.shows, Failure)]
    assert [(each.vid, each.kind) for each in failures] == [
        ("part/sample 1", "unfit name"),
        ("part/none", "no video"),
        ("part/sample 5", "unfit name"),
        ("part/sample 6", "unfit name"),
        ("part/double 1", "unfit name"),
    ]
    assert "twice" in failures[2].cause
    videos = [each.shows.data for each in found if isinstance(each.shows, Video)]
    assert videos == [b"first", b"x", b"x"]


@pytest.mark.parametrize("rate", [b"", b"[", b'{"fps": "4"}', b'{"fps": 0}', b'{"fps": 1e9}', b"7"])
def test_pictures_of_no_known_rate_are_one_a_second(tmp_path: Path, rate: bytes) -> None:
    tar = write_tar(tmp_path / "a.tar", [("0.0.jpg", b"x"), ("0.json", rate)])
    (sample,) = samples(tar)
    assert isinstance(sample.shows, Pictures)
    assert sample.shows.rate == 1.0


@pytest.mark.parametrize("kept", [512 + 700, 1536, 2048, 5000])
def test_a_tar_that_was_cut_off_is_told_and_what_came_before_is_read(
    tmp_path: Path, kept: int
) -> None:
    whole = write_tar(tmp_path / "whole.tar", [(f"{n}.mp4", b"v" * 1000) for n in range(4)])
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:kept])
    *read, last = samples(cut)
    assert isinstance(last.shows, Failure)
    assert (last.vid, last.shows.kind) == ("part", "damaged tar")
    assert "\n" not in last.shows.cause
    assert len(read) == kept // 1536
    assert all(isinstance(each.shows, Video) for each in read)


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_one_failure(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    (only,) = samples(path)
    assert isinstance(only.shows, Failure)
    (missing,) = read_tar(Location(tmp_path / "none.tar"), "part")
    assert isinstance(missing.shows, Failure)


def test_nothing_is_read_ahead_of_what_is_taken(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", [(f"{n}.mp4", b"v" * 10**6) for n in range(5)])
    with open(tar, "r+b") as file:
        file.truncate(3 * 10**6)
    reading = read_tar(Location(tar), "part")
    assert isinstance(next(reading).shows, Video)  # the fault behind it is not met yet


def test_pictures_are_shown_at_the_centres_of_equal_parts() -> None:
    shades = ["#000000", "#404040", "#808080", "#c0c0c0"]
    sequence = Pictures([picture(each, kind="PNG") for each in shades], 2.0, "s")
    assert sequence.duration == 2.0
    (piece,) = sequence.clips(1.0, 2, 16, None)
    assert piece.shape == (2, 2, 16, 16, 3)
    assert piece[:, :, 8, 8, 0].tolist() == [[0, 64], [128, 192]]
    (sparse,) = sequence.clips(0.5, 1, 16, None)
    assert sparse[:, 0, 8, 8, 0].tolist() == [0, 64, 128, 192]
    (single,) = Pictures([picture("white")], 0.25, "s").clips(2.0, 1, 16, None)
    assert single.shape == (2, 1, 16, 16, 3)


def test_pictures_are_cropped_as_videos_are() -> None:
    wide = Image.new("RGB", (96, 32))
    wide.paste((255, 255, 255), (32, 0, 64, 32))
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    (piece,) = Pictures([buffer.getvalue()], 1.0, "s").clips(1.0, 1, 32, 1.0)
    assert piece.min() > 200
    (squeezed,) = Pictures([buffer.getvalue()], 1.0, "s").clips(1.0, 1, 32, None)
    assert np.mean(squeezed) < 100


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", picture("red")[:200], b"GIF89a" + b"0" * 99]
)
def test_a_picture_that_cannot_be_decoded_names_itself(data: bytes) -> None:
    sequence = Pictures([picture("red"), data], 1.0, "a.tar: 7")
    with pytest.raises(VideoError, match=r"a\.tar: 7: picture 2 of 2") as raised:
        list(sequence.clips(1.0, 1, 16, None))
    assert "\n" not in str(raised.value)
