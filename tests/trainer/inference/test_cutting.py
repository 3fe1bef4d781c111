"""A cut-out clip shows what the source showed at that time, copied or encoded."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.video.video import VideoFile, probe
from tests.data_pipeline.video.odd_videos import (
    write_changing_sound,
    write_trimmed,
    write_wide_pixels,
    write_with_sound,
)
from trainer.inference.cutting import cut

RATE = 10


def write_film(path: Path, seconds: int = 12, *, sound: bool = True) -> Path:
    """Frame i is grey of level 2 i; a key frame every 4 s."""
    with av.open(str(path), "w") as container:
        options = {"g": str(4 * RATE), "sc_threshold": "0", "bf": "2"}
        picture = container.add_stream("libx264", rate=RATE, options=options)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        tone = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for i in range(seconds * RATE):
            image = np.full((48, 64, 3), 2 * i, np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(image)))
            if tone is not None:
                samples = np.sin(np.arange(1600) / 5, dtype=np.float32)[None]
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, i * 1600
                container.mux(tone.encode(frame))
        container.mux(picture.encode())
        if tone is not None:
            container.mux(tone.encode())
    return path


def levels(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [
            round(float(frame.to_ndarray(format="rgb24").mean()) / 2)
            for frame in container.decode(video=0)
        ]


def test_part_from_a_key_frame_on_is_copied(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4")
    assert cut(film, 4.1, 7.0, tmp_path / "part.mp4") == "copied"
    shown = levels(tmp_path / "part.mp4")
    assert shown[0] == pytest.approx(40, abs=1)
    assert shown[-1] == pytest.approx(69, abs=2)


def test_a_copied_part_holds_what_its_last_frames_lean_on(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", sound=False)
    for end in (6.0, 6.1, 6.2, 6.3):
        assert cut(film, 4.0, end, tmp_path / "part.mp4") == "copied"
        shown = levels(tmp_path / "part.mp4")
        expected = list(range(40, round(10 * end)))
        assert shown[: len(expected)] == pytest.approx(expected, abs=1)
        assert len(shown) <= len(expected) + 2
    assert cut(film, 4.0, 6.1, tmp_path / "part.mp4", tolerance=0.0) == "encoded"


@pytest.mark.parametrize(
    ("codec", "form", "name", "colours"),
    [
        ("libx264", "yuv420p", "film.mp4", (1, 1)),
        ("libx264", "yuvj420p", "film.mp4", (1, 2)),
        ("libx264", "yuv420p", "film.mkv", (9, 1)),
        ("mjpeg", "yuvj420p", "film.avi", (5, 2)),
        ("libx264rgb", "rgb24", "film.mkv", None),
    ],
)
def test_an_encoded_part_keeps_the_colours(
    tmp_path: Path, codec: str, form: str, name: str, colours: tuple[int, int] | None
) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, form
        for _ in range(20):
            picture = np.full((48, 64, 3), (200, 60, 30), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture)
            if colours is not None:
                stream.codec_context.colorspace, stream.codec_context.color_range = colours
                kind = dict(zip(("dst_colorspace", "dst_color_range"), colours, strict=True))
                frame = frame.reformat(format=form, **kind)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert cut(tmp_path / name, 0.55, 1.5, tmp_path / "part.mp4") == "encoded"
    with av.open(str(tmp_path / "part.mp4")) as part:
        told = next(part.decode(video=0)).colorspace
    assert told in ({5, 6} if colours is None or colours[0] == 5 else {colours[0]})
    for path in (tmp_path / name, tmp_path / "part.mp4"):
        (clip,) = VideoFile(path).clips(0.5, 1, 32, 0.0, 0.5)
        assert clip.mean((0, 1, 2, 3)) == pytest.approx((200, 60, 30), abs=4), path.name


def test_part_between_key_frames_is_encoded_to_the_frame(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4")
    assert cut(film, 5.5, 9.0, tmp_path / "part.mp4") == "encoded"
    shown = levels(tmp_path / "part.mp4")
    assert len(shown) == 35
    assert shown == pytest.approx(range(55, 90), abs=2)


@pytest.mark.parametrize("start", [4.0, 5.5])
def test_sound_goes_with_the_pictures(tmp_path: Path, start: float) -> None:
    film = write_film(tmp_path / "film.mp4")
    cut(film, start, start + 3, tmp_path / "part.mp4")
    with av.open(str(tmp_path / "part.mp4")) as part:
        assert len(part.streams.audio) == 1
        heard = sum(frame.samples for frame in part.decode(audio=0)) / 16000
    assert heard == pytest.approx(3, abs=0.2)
    with av.open(str(tmp_path / "part.mp4")) as part:
        assert part.duration / av.time_base == pytest.approx(3, abs=0.3)


def test_film_without_sound_is_cut(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", sound=False)
    cut(film, 5.5, 6.5, tmp_path / "part.mp4")
    assert len(levels(tmp_path / "part.mp4")) == 10


def test_a_film_whose_codec_nobody_knows_is_one_line(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv")
    film.write_bytes(film.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPXX4/ISO/AVC"))
    with pytest.raises(InputError, match=r"film\.mkv: its video codec is not known") as caught:
        cut(film, 0.0, 1.0, tmp_path / "part.mp4")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mkv"]


def test_what_a_library_raises_unforeseen_is_one_line_that_names_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(*_: object) -> None:
        b"\xff".decode()

    film = write_film(tmp_path / "film.mp4", seconds=2)
    monkeypatch.setattr("trainer.inference.cutting._copy", trip)
    with pytest.raises(InputError, match=r"film\.mp4: cannot be cut .*UnicodeDecodeError"):
        cut(film, 0.0, 1.0, tmp_path / "part.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4"]


def test_fault_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"film\.mp4: cannot be decoded as a video"):
        cut(tmp_path / "film.mp4", 0, 1, tmp_path / "part.mp4")
    film = write_film(tmp_path / "good.mp4", seconds=2)
    with pytest.raises(InputError, match="shows no frame"):
        cut(film, 50.5, 51, tmp_path / "part.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "good.mp4"]


def heard(path: Path) -> float:
    """Seconds of sound."""
    with av.open(str(path)) as part:
        return sum(frame.samples / frame.sample_rate for frame in part.decode(audio=0))


def greys(path: Path) -> list[int]:
    """The numbers of the frames that an odd video's clip shows."""
    with av.open(str(path)) as part:
        pictures = [frame.to_ndarray(format="rgb24") for frame in part.decode(video=0)]
    return [round((float(picture.mean()) - 20) / 5) for picture in pictures]


@pytest.mark.parametrize(
    ("codec", "layout", "rate"),
    [("pcm_s16le", "stereo", 48000), ("pcm_s24le", "5.1", 48000), ("pcm_f32le", "mono", 96000)],
)
def test_sound_of_any_layout_and_rate_goes_with_the_pictures(
    tmp_path: Path, codec: str, layout: str, rate: int
) -> None:
    film = write_with_sound(tmp_path / "film.mkv", codec, layout, rate)
    assert cut(film, 0.5, 1.5, tmp_path / "part.mp4") == "encoded"
    assert greys(tmp_path / "part.mp4") == list(range(5, 15))
    assert heard(tmp_path / "part.mp4") == pytest.approx(1, abs=0.05)


def test_sound_that_changes_where_the_clock_begins_anew_is_heard(tmp_path: Path) -> None:
    film = write_changing_sound(tmp_path / "film.ts")
    cut(film, 1.0, 3.0, tmp_path / "part.mp4")
    assert greys(tmp_path / "part.mp4")[1:-1] == [*range(10, 20), *range(9)]
    assert heard(tmp_path / "part.mp4") == pytest.approx(2, abs=0.05)
    with av.open(str(tmp_path / "part.mp4")) as part:
        loud = [float(np.abs(frame.to_ndarray()).max()) for frame in part.decode(audio=0)]
    assert np.mean(np.array(loud) > 0.3) > 0.9  # but for where an encoder began


def test_a_clip_keeps_the_shape_of_pixels_that_are_not_square(tmp_path: Path) -> None:
    film = write_wide_pixels(tmp_path / "film.mp4")
    for start, how in ((0.0, "copied"), (0.5, "encoded")):
        assert cut(film, start, start + 0.5, tmp_path / "part.mp4") == how
        info = probe(tmp_path / "part.mp4")
        assert (info.width, info.height) == (102, 58)


def test_a_clip_keeps_the_shape_that_the_container_alone_knows(tmp_path: Path) -> None:
    film = write_wide_pixels(tmp_path / "film.mp4")
    data = bytearray(film.read_bytes())
    place = data.index(b"pasp") + 4
    data[place : place + 8] = struct.pack(">II", 2, 1)
    film.write_bytes(data)
    for start in (0.0, 0.5):
        cut(film, start, start + 0.5, tmp_path / "part.mp4")
        info = probe(tmp_path / "part.mp4")
        assert (info.width, info.height) == (144, 58)


def test_a_clip_of_a_trimmed_video_shows_what_the_video_shows(tmp_path: Path) -> None:
    film = write_trimmed(tmp_path / "film.mp4", 60, 15)  # key frames 0, 20, 40 are shown at -1.5, …
    assert cut(film, 0.0, 1.0, tmp_path / "part.mp4") == "encoded"
    assert greys(tmp_path / "part.mp4") == list(range(15, 25))
    assert cut(film, 0.5, 1.5, tmp_path / "part.mp4") == "copied"
    assert greys(tmp_path / "part.mp4") == list(range(20, 30))


def test_a_clip_of_a_damaged_part_shows_what_came_before(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", sound=False)
    with av.open(str(film)) as source:
        packets = [p for p in source.demux(video=0) if p.size]
        place, size = packets[100].pos, packets[100].size
    data = bytearray(film.read_bytes())
    data[place : place + size] = bytes(size)
    film.write_bytes(data)
    cut(film, 9.0, 11.0, tmp_path / "part.mp4")
    assert len(levels(tmp_path / "part.mp4")) == 20


def test_sound_whose_codec_nobody_knows_does_not_keep_the_pictures(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mkv")
    film.write_bytes(film.read_bytes().replace(b"A_AAC", b"A_XXX"))
    cut(film, 5.5, 6.5, tmp_path / "part.mp4")
    assert len(levels(tmp_path / "part.mp4")) == 10
