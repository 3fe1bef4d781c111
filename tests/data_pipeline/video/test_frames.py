"""A video's frames are what its decoder shows, each at its time: told by their grey levels."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from data_pipeline.video.opening import VideoError
from data_pipeline.video.packets import demuxed
from data_pipeline.video.video import VideoFile, probe
from tests.data_pipeline.conftest import grey_of
from tests.data_pipeline.video.odd_videos import (
    copy,
    write_fields,
    write_joined,
    write_stale,
    write_trimmed,
    write_wide_pixels,
    write_wrapped,
)

MakeVideo = Callable[..., Path]

FRAMES = 30
GROUPS = {"g": "10", "bf": "2"}
LOSSY = {"b": "6M", "qmin": "2", "qmax": "3"}
ALTERNATES = {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "10", "b": "6M", "threads": "1"}
"""Frames that are only referred to; of one thread, as libvpx's spin while they wait."""
CODECS: dict[str, dict[str, str]] = {
    "libx264": GROUPS | {"crf": "8", "x264-params": "open-gop=1"},
    "libx265": {"x265-params": "bframes=3:keyint=10:crf=8:log-level=none"},
    "mpeg4": GROUPS | LOSSY,
    "mpeg2video": GROUPS | LOSSY,
    "mpeg1video": GROUPS | LOSSY,
    "libvpx": ALTERNATES,
    "libvpx-vp9": ALTERNATES | {"cpu-used": "8"},
    "libsvtav1": {"preset": "12", "g": "10", "svtav1-params": "enable-overlays=0"},
    "mjpeg": {"qmax": "3"},
    "wmv2": {"g": "10"} | LOSSY,
    "flv": {"g": "10"} | LOSSY,
    "dvvideo": {},
    "rv20": {"g": "10"} | LOSSY,
    "ffv1": {},
    "prores": {},
    "gif": {},
    "rawvideo": {},
}
PIXELS = {"mjpeg": "yuvj420p", "prores": "yuv422p10le", "gif": "rgb8"}
CONTAINERS = [
    "mp4",
    "mov",
    "3gp",
    "mkv",
    "webm",
    "avi",
    "ts",
    "m2ts",
    "mpg",
    "vob",
    "flv",
    "wmv",
    "nut",
    "ogv",
    "mxf",
    "gxf",
    "wtv",
    "dv",
    "gif",
    "ivf",
    "rm",
    "swf",
    "y4m",
]


def number_of(pixels: Any) -> int:
    """Which frame a picture shows."""
    return round((float(np.mean(pixels)) - 20) / 5)


def shown(path: Path, rate: float = 10, **options: Any) -> list[int]:
    """The frames shown at the middles of the parts of a video that last 1 / `rate` seconds each."""
    pieces = VideoFile(path, **options).clips(1 / rate, 1, 16)
    return [number_of(clip) for piece in pieces for clip in piece]


def decoded(path: Path) -> list[int]:
    """The frames as PyAV's decoder gives them."""
    with av.open(str(path)) as container:
        frames = container.decode(container.streams.video[-1])
        return [number_of(frame.to_ndarray(format="rgb24")) for frame in frames]


def written(
    make_video: MakeVideo, path: Path, codec: str, **options: str
) -> tuple[Path, int] | None:
    """A video and its frames a second, as the codec allows them; None if it is refused."""
    european = codec == "dvvideo" or path.suffix in (".gxf", ".dv")
    size = (720, 576) if european else (96, 64)
    rate = 25 if european or codec.startswith("mpeg") else 10
    pixels = PIXELS.get(codec, "yuv420p")
    try:
        make_video(path, FRAMES, rate, size, codec, pixels=pixels, **CODECS[codec] | options)
        return (path, rate) if decoded(path) == list(range(FRAMES)) else None
    except (av.FFmpegError, ValueError, LookupError, OSError):
        return None  # the container does not take the codec


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_frame_is_shown_at_its_time_in_every_container_that_can_be_written(
    tmp_path: Path, make_video: MakeVideo, container: str
) -> None:
    made = 0
    for codec in CODECS:
        found = written(make_video, tmp_path / f"{codec}.{container}", codec)
        if found is None:
            continue
        path, rate = found
        made += 1
        video = VideoFile(path)
        assert video.info.duration == pytest.approx(FRAMES / rate, abs=0.6 / rate), path.name
        assert shown(path, rate) == list(range(FRAMES)), path.name
        # A few instants only, most of what lies between is not decoded.
        for start, count in ((0, 2), (7, 3), (11, 2), (23, 3)):
            some = video.clips(count / rate, 1, 16, start / rate, (start + 2 * count) / rate)
            numbers = [number_of(clip) for piece in some for clip in piece]
            assert numbers == [start + count // 2, start + count + count // 2], path.name
    assert made


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "ts", "flv"])
@pytest.mark.parametrize("later", [-15, -5, 7])
def test_times_may_begin_before_zero_or_after_it(
    tmp_path: Path, make_video: MakeVideo, container: str, later: int
) -> None:
    whole = make_video(tmp_path / "whole.mp4", FRAMES, g="10", bf="2")
    path = copy(whole, tmp_path / f"v.{container}", 1024 * later, avoid_negative_ts="disabled")
    assert shown(path) == decoded(path)
    assert len(decoded(path)) >= FRAMES + min(later, 0)


@pytest.mark.parametrize("container", ["mp4", "mkv", "nut", "ts"])
def test_uneven_frames_are_shown_from_their_times_on(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"v.{container}"
    times = [0, 40, 80, 700, 710, 2500, 2980, 3000, 9000]
    with av.open(str(path), "w") as sink:
        stream: Any = sink.add_stream("libx264", rate=25, options=GROUPS)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            pixels = np.full((64, 96, 3), grey_of(number), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode())
    video = VideoFile(path)
    for number, time in enumerate(times):
        at = time / 1000
        ((start, frame),) = video.frames(at + 1e-4, at + 2e-4)
        assert number_of(frame.to_ndarray(format="rgb24")) == number
        assert start == pytest.approx(at, abs=0.002)


def test_a_packet_may_hold_a_field_of_a_picture(tmp_path: Path) -> None:
    for container in ("ts", "mkv", "mp4"):
        path = write_fields(tmp_path / f"v.{container}", 20)
        assert VideoFile(path).info.duration == pytest.approx(0.8, abs=0.05), container
        assert shown(path, 25)[:20] == list(range(20)), container


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_what_an_edit_list_discards_is_not_shown(tmp_path: Path, container: str) -> None:
    path = write_trimmed(tmp_path / f"v.{container}", 40, 15)
    assert VideoFile(path).info.duration == pytest.approx(2.5)
    assert shown(path) == list(range(15, 40))


@pytest.mark.parametrize("container", ["ts", "m2ts", "mpg", "vob", "mkv"])
def test_joined_recordings_are_shown_one_after_the_other(tmp_path: Path, container: str) -> None:
    path = write_joined(tmp_path / f"v.{container}")
    assert VideoFile(path).info.duration == pytest.approx(4.0, abs=0.11)
    assert shown(path)[:40] == [*range(20), *range(20)]


def test_a_second_recording_of_another_codec_is_refused_or_told(
    tmp_path: Path, make_video: MakeVideo
) -> None:
    first = make_video(tmp_path / "a.ts", 40, g="10", bf="2")
    second = make_video(tmp_path / "b.ts", 40, 25, codec="mpeg2video")
    path = tmp_path / "v.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match=r"nothing of what lies at .* is it complete, and one"):
        VideoFile(path)
    assert VideoFile(path, damage="bear").damaged


@pytest.mark.parametrize(("codec", "name"), [("libx264", "v.h264"), ("libx265", "v.HEVC")])
def test_bare_streams_are_shown_at_a_rate_that_is_told(
    tmp_path: Path, make_video: MakeVideo, codec: str, name: str
) -> None:
    path = make_video(tmp_path / name.lower(), FRAMES, 25, codec=codec, **CODECS[codec])
    path = path.rename(tmp_path / name)
    assert shown(path, 25) == list(range(FRAMES))
    (warning,) = VideoFile(path).warnings
    assert warning.startswith(f"{path}: its frames carry no times")
    assert "taken to be 25 a second" in warning


@pytest.mark.parametrize("container", ["mp4", "flv", "wmv", "nut"])
def test_joined_recordings_of_which_one_would_be_lost_are_refused(
    tmp_path: Path, container: str
) -> None:
    path = write_joined(tmp_path / f"v.{container}", "libx264" if container != "wmv" else "wmv2")
    with pytest.raises(VideoError, match="a second recording follows the first") as caught:
        VideoFile(path)
    assert caught.value.kind == "several recordings"


def test_the_clock_may_run_over(tmp_path: Path) -> None:
    path = write_wrapped(tmp_path / "v.ts")
    assert VideoFile(path).info.duration == pytest.approx(4.0)
    assert shown(path) == list(range(40))


@pytest.mark.parametrize("seconds", [60, 40_000])
def test_the_clock_may_jump(tmp_path: Path, make_video: MakeVideo, seconds: int) -> None:
    parts = [make_video(tmp_path / "a.ts", 20, g="10", bf="2")]
    parts += [copy(parts[0], tmp_path / "b.ts", seconds * 90_000, mpegts_copyts="1")]
    path = tmp_path / "v.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert shown(path) == [*range(20), *range(20)]
    path.write_bytes(b"".join(part.read_bytes() for part in reversed(parts)))
    assert shown(path) == [*range(20), *range(20)]


def test_texts_that_are_not_utf8_are_no_matter(tmp_path: Path) -> None:
    for container in ("mp4", "mkv", "avi", "flv", "ts"):
        path = tmp_path / f"v.{container}"
        with av.open(str(path), "w") as sink:
            sink.metadata["title"] = sink.metadata["service_name"] = "a qqqq title"
            stream: Any = sink.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for number in range(10):
                pixels = np.full((64, 96, 3), grey_of(number), np.uint8)
                sink.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            sink.mux(stream.encode())
        assert b"qqqq" in path.read_bytes(), container
        path.write_bytes(path.read_bytes().replace(b"qqqq", b"\xe4\xff\xfe\x80"))
        assert shown(path) == list(range(10)), container


def test_a_stale_length_of_a_whole_file_is_a_warning(tmp_path: Path) -> None:
    for container in ("flv", "mkv"):
        path = write_stale(tmp_path / f"v.{container}")
        assert shown(path) == list(range(40))
        (warning,) = VideoFile(path).warnings
        assert "claims 3600.0 s" in warning
        assert warning.endswith("the file is whole, its header is stale")
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(VideoError, match="truncated"):
            VideoFile(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("v.avi", "mpeg4", {}),
        ("v.wmv", "wmv2", {}),
        ("v.mkv", "libx264", {}),
        ("v.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_a_file_that_ends_before_its_parts_do_is_refused_or_told(
    tmp_path: Path, make_video: MakeVideo, name: str, codec: str, options: dict[str, str]
) -> None:
    path = make_video(tmp_path / name, 60, codec=codec, picture=noise, g="10", **options)
    data = path.read_bytes()
    assert not VideoFile(path).warnings
    for rest in (bytes(300), b"what follows was never a part" * 20):
        path.write_bytes(data + rest)
        VideoFile(path)
    path.write_bytes(data[: len(data) * 7 // 10])
    with pytest.raises(VideoError, match="truncated: "):
        VideoFile(path)
    video = VideoFile(path, damage="bear")
    assert any("truncated: " in line for line in video.warnings)
    assert 2 < video.info.duration < 5


@pytest.mark.parametrize("name", ["v.ts", "v.flv", "v.avi", "v.mkv", "v.nut", "v.asf"])
def test_a_single_frame_is_a_video(tmp_path: Path, make_video: MakeVideo, name: str) -> None:
    codec = {"v.avi": "mpeg4", "v.asf": "wmv2"}.get(name, "libx264")
    make_video(tmp_path / name, 1, 25, codec=codec)
    with av.open(str(tmp_path / f"ms{name}"), "w") as sink:  # on a clock of milliseconds
        stream: Any = sink.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), grey_of(0), np.uint8))
        frame.pts, frame.time_base = 0, Fraction(1, 1000)
        sink.mux([*stream.encode(frame), *stream.encode()])
    for path in (tmp_path / name, tmp_path / f"ms{name}"):
        video = VideoFile(path)
        assert video.info.duration == pytest.approx(0.04, abs=0.04)
        ((clip,),) = video.clips(2.0, 1, 16)
        assert number_of(clip) == 0


def test_pixels_need_not_be_square(tmp_path: Path) -> None:
    for container in ("mp4", "mkv", "ts", "avi"):
        info = probe(write_wide_pixels(tmp_path / f"v.{container}"))
        assert (info.width, info.height) == (102, 58), container


def test_a_crop_is_square_where_pixels_are_not(tmp_path: Path) -> None:
    def ring(_: int) -> Any:  # as displayed, a disc of half the height
        y, x = np.mgrid[:58, :72]
        inside = ((x - 35.5) * 64 / 45) ** 2 + (y - 28.5) ** 2 < 14.5**2
        return np.where(inside[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)

    path = write_wide_pixels(tmp_path / "v.mp4", ring)
    (clip,) = VideoFile(path).clips(2.0, 1, 64, crop=1.0)
    bright = clip[0, 0, ..., 0] > 128
    high, wide = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert abs(len(high) - len(wide)) <= 2
    assert len(high) == pytest.approx(32, abs=2)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi", "flv", "webm", "mpg"])
def test_damage_is_refused_or_borne_and_told(
    tmp_path: Path, make_video: MakeVideo, container: str
) -> None:
    codec = {"avi": "mpeg4", "webm": "libvpx", "mpg": "mpeg2video"}.get(container, "libx264")
    rate = 25 if container == "mpg" else 10
    faststart = {"movflags": "faststart"} if container == "mp4" else {}
    path = tmp_path / f"v.{container}"
    make_video(path, 60, rate, codec=codec, picture=noise, g="10", **faststart)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(VideoError):
        list(VideoFile(path).clips(1 / rate, 1, 16))
    video = VideoFile(path, damage="bear")
    clips = sum(len(piece) for piece in video.clips(1 / rate, 1, 16))
    assert clips == pytest.approx(60, abs=4)
    assert video.damaged
    assert sum(end - start for start, end in video.damaged) < video.info.duration / 2
    assert f"damaged at {video.damaged[0][0]:.1f}" in video.warnings[-1]


def noise(number: int) -> Any:
    grain = np.random.default_rng(number).integers(0, 20, (64, 96, 3))
    return np.clip(grey_of(number) - 10 + grain, 0, 255).astype(np.uint8)


def test_a_packet_of_a_stream_that_begins_on_the_way_is_passed_over() -> None:
    class Container:
        """Gives packets as PyAV does, which raises IndexError for a stream that it did not know."""

        format = SimpleNamespace(name="mpegts")
        packets = iter([1, IndexError(), 2])

        def demux(self, *_: Any) -> Iterator[Any]:
            for packet in self.packets:
                if isinstance(packet, Exception):
                    raise packet
                yield packet

    assert list(demuxed(Container())) == [1, 2]
