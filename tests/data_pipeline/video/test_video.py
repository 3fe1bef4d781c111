"""Frames at exact times, and one clear line for every file that has none."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.video.opening import VideoError
from data_pipeline.video.video import VideoFile, clip_count, decode_clips, probe

MakeVideo = Callable[..., Path]


def number_of(pixels: Any) -> int:
    """Which frame of `make_video` a picture shows."""
    return round((float(np.mean(pixels)) - 20) / 5)


def shown(path: Path, clip: float, frames: int, *where: float) -> list[list[int]]:
    pieces = list(decode_clips(path, clip, frames, 32, *where))
    return [[number_of(frame) for frame in clip] for piece in pieces for clip in piece]


def test_frames_are_those_shown_at_the_centres_of_equal_parts(video: Path) -> None:
    assert shown(video, 2.0, 2) == [[5, 15], [25, 35]]
    assert shown(video, 1.0, 1) == [[5], [15], [25], [35]]


def test_a_frame_is_shown_until_the_next_one_begins(video: Path) -> None:
    # instants 0.125 + 0.25 n: never at the start of a frame
    assert shown(video, 1.0, 4)[0] == [1, 3, 6, 8]


def test_containers_agree(tmp_path: Path, video: Path, make_video: MakeVideo) -> None:
    for name, codec in (("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx")):
        path = make_video(tmp_path / name, codec=codec, b="4M")
        assert shown(path, 1.0, 2) == shown(video, 1.0, 2), name
        assert probe(path).duration == pytest.approx(4.0, abs=0.11), name


def test_a_range_gives_the_same_pixels_as_the_whole(video: Path) -> None:
    whole = np.concatenate(list(decode_clips(video, 0.5, 2, 32)))
    part = np.concatenate(list(decode_clips(video, 0.5, 2, 32, 2.5, 3.5)))
    assert np.array_equal(part, whole[5:7])


def test_clips_cover_the_end_and_a_sliver_makes_none(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "odd.mp4", frames=43)
    assert shown(path, 2.0, 1) == [[10], [30], [42]]  # instant 5.0 lies beyond: the last frame
    assert [clip_count(d, 2.0) for d in (0.1, 4.0, 4.01, 4.3)] == [1, 2, 2, 3]


def test_long_videos_come_in_pieces(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.video.video.PIECE_BYTES", 3 * 32 * 32 * 3)
    pieces = list(decode_clips(video, 0.5, 1, 32))
    assert [len(piece) for piece in pieces] == [3, 3, 2]


def test_pictures_that_start_late_keep_their_place_in_time(
    tmp_path: Path, make_video: MakeVideo
) -> None:
    path = make_video(tmp_path / "late.mp4", first=10, audio_seconds=5.0)
    assert probe(path).duration == pytest.approx(5.0)
    assert shown(path, 1.0, 1) == [[0], [5], [15], [25], [35]]


def test_times_count_from_the_start_of_the_container(tmp_path: Path, make_video: MakeVideo) -> None:
    path = make_video(tmp_path / "shifted.mkv", first=25)
    assert probe(path).duration == pytest.approx(4.0)
    assert shown(path, 1.0, 1) == [[5], [15], [25], [35]]


def test_rotation_is_honoured(tmp_path: Path, make_video: MakeVideo) -> None:
    def left_half_white(_: int) -> np.ndarray:
        pixels = np.zeros((64, 96, 3), np.uint8)
        pixels[:, :48] = 255
        return pixels

    path = make_video(tmp_path / "turned.mp4", frames=4, picture=left_half_white)
    data = path.read_bytes()
    upright = b"".join(n.to_bytes(4, "big") for n in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    minus = (1 << 32) - (1 << 16)
    clockwise = b"".join(
        n.to_bytes(4, "big") for n in (0, 1 << 16, 0, minus, 0, 0, 64 << 16, 0, 1 << 30)
    )
    track = data.index(b"tkhd")
    path.write_bytes(data[:track] + data[track:].replace(upright, clockwise, 1))
    info = probe(path)
    assert (info.width, info.height) == (64, 96)
    (clip,) = np.concatenate(list(decode_clips(path, 1.0, 1, 32)))
    assert clip[0, :14].mean() > 200  # what was left is on top after a clockwise turn
    assert clip[0, 18:].mean() < 50


def broken(folder: Path, name: str, video: Path, make_video: MakeVideo) -> Path:
    path = folder / f"{name}.mp4"
    data = make_video(folder / "whole.mp4", movflags="faststart", bf="0").read_bytes()
    if name == "empty":
        path.write_bytes(b"")
    elif name == "text":
        path.write_text("not a video\n" * 100)
    elif name == "half":
        path.write_bytes(data[: len(data) * 3 // 4])
    elif name == "headless":
        path.write_bytes(video.read_bytes()[:2000])
    elif name == "sound":
        make_video(folder / "both.mkv", frames=1, audio_seconds=1.0)
        with av.open(str(folder / "both.mkv")) as source, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(source.streams.audio[0])
            for packet in source.demux(source.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("empty", "empty"),
        ("text", "cannot be decoded"),
        ("half", "cannot be decoded|truncated"),
        ("headless", "cannot be decoded|codec is not known"),
        ("sound", "no video stream"),
        ("missing", "no such video file"),
    ],
)
def test_a_broken_file_is_one_line_with_its_cause(
    tmp_path: Path, video: Path, make_video: MakeVideo, name: str, cause: str
) -> None:
    path = broken(tmp_path, name, video, make_video)
    with pytest.raises(VideoError, match=cause) as caught:
        list(decode_clips(path, 1.0, 1, 32))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_packets_are_not_passed_over(tmp_path: Path, make_video: MakeVideo) -> None:
    def noise(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 255, (64, 96, 3), np.uint8)

    path = make_video(tmp_path / "noise.mp4", picture=noise, movflags="faststart")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"noise.mp4"):
        list(decode_clips(path, 0.5, 4, 32))


def test_frames_that_lie_about_their_size_are_refused(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_pipeline.video.opening.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoError, match="96 x 64 pixels"):
        probe(video)


def test_decoding_stops_at_its_time_limit(video: Path) -> None:
    with pytest.raises(VideoError, match="more than the limit of 0 s") as caught:
        list(VideoFile(video).clips(1.0, 1, 32, time_limit=0))
    assert caught.value.kind == "too slow"


def test_the_time_until_a_piece_is_taken_does_not_count_as_decoding(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("data_pipeline.video.listing.time", clock)
    monkeypatch.setattr("data_pipeline.video.video.PIECE_BYTES", 1)
    pieces = 0
    for _ in VideoFile(video).clips(1.0, 1, 32, time_limit=5):
        pieces += 1
        clock.now += 1000
    assert pieces == 4


def test_a_range_outside_the_video_is_refused(video: Path) -> None:
    with pytest.raises(VideoError, match="no clips from 5 s"):
        list(decode_clips(video, 1.0, 1, 32, 5.0, 6.0))


def test_a_crop_shows_the_square_in_the_centre_and_no_squeezing(
    make_video: Callable[..., Path], tmp_path: Path
) -> None:
    picture = np.zeros((64, 192, 3), np.uint8)
    picture[:, 64:128] = 255  # the middle third, as high as wide, is white
    path = make_video(tmp_path / "wide.mp4", frames=3, size=(192, 64), picture=lambda _: picture)
    (squeezed,) = VideoFile(path).clips(0.3, 1, 32)
    (cropped,) = VideoFile(path).clips(0.3, 1, 32, crop=1.0)
    (closer,) = VideoFile(path).clips(0.3, 1, 32, crop=0.5)
    assert squeezed.shape == cropped.shape == closer.shape == (1, 1, 32, 32, 3)
    assert squeezed[..., 0].mean() < 100
    assert cropped[0, 0, :, 2:-2].min() > 200
    assert closer.min() > 200
