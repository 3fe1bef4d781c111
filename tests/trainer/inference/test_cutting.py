"""A cut-out clip shows what the source showed at that time, copied or encoded."""

from pathlib import Path

import av
import numpy as np
import pytest

from data_pipeline.errors import InputError
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
    with pytest.raises(InputError, match=r"film\.mkv: cannot be cut") as caught:
        cut(film, 0.0, 1.0, tmp_path / "part.mp4")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mkv"]


def test_what_a_library_raises_unforeseen_is_one_line_that_names_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(*_: object) -> None:
        b"\xff".decode()

    film = write_film(tmp_path / "film.mp4", seconds=2)
    monkeypatch.setattr("trainer.inference.cutting._key_frame_near", trip)
    with pytest.raises(InputError, match=r"film\.mp4: cannot be cut .*UnicodeDecodeError"):
        cut(film, 0.0, 1.0, tmp_path / "part.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4"]


def test_fault_is_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"film\.mp4: cannot be cut"):
        cut(tmp_path / "film.mp4", 0, 1, tmp_path / "part.mp4")
    film = write_film(tmp_path / "good.mp4", seconds=2)
    with pytest.raises(InputError, match="shows no frame"):
        cut(film, 50.5, 51, tmp_path / "part.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "good.mp4"]
