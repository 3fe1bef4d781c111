"""A film strip shows the video at even times, upright, or says why it cannot."""

import base64
import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.video.video import VideoFile
from trainer.pictures.thumbnails import data_uri, film_strip


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """10 s in which grey rises by 20 a second; the left half is darker."""
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "30"})
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        for i in range(100):
            picture = np.full((48, 96, 3), 40 + 2 * i, np.uint8)
            picture[:, :48] -= 40
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path


def right_edge(image: Image.Image) -> int:
    return int(np.asarray(image)[24, -4].mean())


def test_pictures_come_from_the_middles_of_equal_parts(film: Path) -> None:
    strip = film_strip(film, 10.0, count=5, height=48)
    assert [image.size for image in strip] == [(96, 48)] * 5
    assert [right_edge(image) for image in strip] == pytest.approx([60, 100, 140, 180, 220], abs=4)


def test_last_picture_repeats_where_the_video_ends_early(film: Path) -> None:
    strip = film_strip(film, 40.0, count=4, height=48)
    assert len(strip) == 4
    assert right_edge(strip[-1]) == pytest.approx(238, abs=6)


def test_pictures_are_turned_upright(film: Path) -> None:
    data = bytearray(film.read_bytes())
    matrix = data.index(b"tkhd") + 44  # after version, times, id, duration, layer, volume
    data[matrix : matrix + 36] = struct.pack(
        ">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30
    )
    film.write_bytes(data)
    picture = film_strip(film, 10.0, count=1, height=96)[0]
    assert picture.size == (48, 96)
    above, below = np.asarray(picture)[4].mean(), np.asarray(picture)[-4].mean()
    assert above + 30 < below  # a clockwise quarter turn brings the left half to the top


def test_file_without_pictures_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(InputError, match=r"text\.mp4: cannot be decoded as a video"):
        film_strip(tmp_path / "text.mp4", 1.0)
    with pytest.raises(InputError, match=r"none\.mp4: no such video file"):
        film_strip(tmp_path / "none.mp4", 1.0)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="holds no video stream"):
        film_strip(tmp_path / "sound.wav", 1.0)


def test_data_address_holds_a_jpeg() -> None:
    head, _, body = data_uri(Image.new("RGB", (8, 6), "teal")).partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as image:
        assert image.size == (8, 6)


def test_whatever_a_library_trips_over_is_one_line(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(*_: object, **__: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'width'")

    monkeypatch.setattr(VideoFile, "stills", trip)
    with pytest.raises(InputError, match=r"film\.mp4: cannot be read as a video \(AttributeError"):
        film_strip(film, 10.0)


def test_no_time_at_all_shows_the_first_frame(film: Path) -> None:
    assert [right_edge(image) for image in film_strip(film, 0.0, count=2)] == pytest.approx(
        [40, 40], abs=4
    )


@pytest.mark.parametrize("suffix", [".mkv", ".ts"])
def test_a_long_strip_shows_key_frames_of_what_cannot_seek(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"long{suffix}"
    options = {"live": "1"} if suffix == ".mkv" else {}  # without an index
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=1, options={"g": "30", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        for i in range(100):
            picture = np.full((48, 96, 3), 40 + 2 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    strip = film_strip(path, 100.0, count=4, height=48)  # at 12.5, 37.5, 62.5 and 87.5 s
    assert [right_edge(image) for image in strip] == pytest.approx([40, 100, 160, 220], abs=4)
