"""A video's frames are what its decoder shows, each at its time: told by their grey levels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_pipeline.video.video import VideoFile

MakeVideo = Callable[..., Path]
TRIALS = Path(__file__).parents[2].parent / "shared" / "trials" / "videos"

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
