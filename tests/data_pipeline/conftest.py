"""Tiny videos whose every frame tells its number, and an object store."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

MakeVideo = Callable[..., Path]


def write_video(
    path: Path,
    frames: int = 40,
    rate: int = 10,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    first: int = 0,
    audio_seconds: float = 0.0,
    pixels: str = "yuv420p",
    picture: Callable[[int], Any] | None = None,
    **options: str,
) -> Path:
    """A video whose frame n is grey of level `grey_of(n)`, or `picture(n)` (H, W, 3) uint8.

    `first` is the number of frame durations by which the pictures start after time 0;
    `options` go to the encoder, `movflags` to the container.
    """
    width, height = size
    container_options = {k: options.pop(k) for k in ("movflags",) if k in options}
    with av.open(str(path), "w", options=container_options) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        sound: Any = container.add_stream("aac", rate=8000) if audio_seconds else None
        if sound:
            sound.layout = "mono"
            silence = np.zeros((1, int(8000 * audio_seconds)), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            frame.sample_rate = 8000
            frame.pts = 0
            container.mux([*sound.encode(frame), *sound.encode(None)])
        for number in range(frames):
            grey = np.full((height, width, 3), grey_of(number), np.uint8)
            image = av.VideoFrame.from_ndarray(
                grey if picture is None else picture(number), "rgb24"
            )
            image.pts = number + first
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def grey_of(number: int) -> int:
    """Brightness of frame `number`: one step is well above what compression blurs."""
    return 20 + 5 * (number % 44)


@pytest.fixture(scope="session")
def make_video() -> MakeVideo:
    """The function above."""
    return write_video


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at ten frames a second, with B-frames and several groups of pictures."""
    return write_video(tmp_path_factory.mktemp("video") / "plain.mp4", g="12", bf="3")


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """Address of an S3 server; the environment names it, and credentials, to this process."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "very-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        yield address
    server.stop()


@pytest.fixture
def bucket(object_store: str) -> str:
    """URL of a new bucket."""
    s3fs = pytest.importorskip("s3fs")
    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
