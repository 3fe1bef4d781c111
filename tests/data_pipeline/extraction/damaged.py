"""A corpus in which some videos are damaged, each in a way that occurs.

    python -m tests.data_pipeline.extraction.damaged --good 200 --bad 40 --folder /tmp/damaged

extracts features of such a corpus with the quick start's encoders and checks that all good videos
are stored and that every damaged one is named in failures.jsonl with its cause and a fitting class.
"""

import io
import json
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import jsonargparse
import numpy as np
from PIL import Image

from data_pipeline.config import EncoderConfig, ExtractionConfig, ShardingConfig
from data_pipeline.extraction.extraction import extract
from data_pipeline.features.verify import read_failures
from tests.data_pipeline.conftest import write_video

BROKEN = {"unreadable", "truncated", "damaged", "no frames", "unknown codec", "no times"}
"""Classes of a file whose bytes are partly gone: which one depends on what is hit first."""


@dataclass(frozen=True)
class Damage:
    """`make(path, random)` writes the file; a failure of it is to be of one of `kinds`."""

    make: Callable[[Path, np.random.Generator], None]
    kinds: set[str]


def noise(_: int) -> np.ndarray:
    return np.random.default_rng(_).integers(0, 255, (64, 96, 3), np.uint8)


def whole(path: Path, **options: str) -> bytes:
    """The bytes of a video whose pictures do not compress, so that most of them are packets."""
    write_video(path, frames=30, picture=noise, **options)
    return path.read_bytes()


def empty(path: Path, _: np.random.Generator) -> None:
    path.write_bytes(b"")


def zeros(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(bytes(int(random.integers(1, 100_000))))


def garbage(path: Path, random: np.random.Generator) -> None:
    path.write_bytes(random.bytes(50_000))


def text(path: Path, _: np.random.Generator) -> None:
    path.write_text("<html>404 Not Found</html>\n" * 50)


def without_end(path: Path, random: np.random.Generator) -> None:
    """An interrupted download of an MP4, whose table of contents stands at its end."""
    data = whole(path)
    path.write_bytes(data[: int(len(data) * random.uniform(0.05, 0.95))])


def without_rest(path: Path, random: np.random.Generator) -> None:
    """The same with the table at the front."""
    data = whole(path, movflags="faststart", bf="0")
    path.write_bytes(data[: int(len(data) * random.uniform(0.3, 0.9))])


def header_alone(path: Path, _: np.random.Generator) -> None:
    data = whole(path, movflags="faststart")
    path.write_bytes(data[: data.index(b"mdat") + 4])


def corrupted(path: Path, random: np.random.Generator) -> None:
    """Packets overwritten in the middle."""
    data = bytearray(whole(path, movflags="faststart"))
    start = data.index(b"mdat") + 2000 + int(random.integers(0, 2000))
    data[start : start + 8000] = random.bytes(8000)
    path.write_bytes(data)


def blanked(path: Path, _: np.random.Generator) -> None:
    """All packets zero: a file system that lost its blocks."""
    data = whole(path, movflags="faststart")
    start = data.index(b"mdat") + 4
    path.write_bytes(data[:start] + bytes(len(data) - start))


def sound(path: Path, _: np.random.Generator) -> None:
    """An MP4 that holds sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])


def picture(path: Path, random: np.random.Generator) -> None:
    """A JPEG or PNG that is called .mp4."""
    kind = str(random.choice(["jpeg", "png"]))
    Image.fromarray(noise(0)).save(path, format=kind)


def archive(path: Path, _: np.random.Generator) -> None:
    """A zip that is called .mp4."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("video.mp4", b"not here either")
    path.write_bytes(buffer.getvalue())


def huge_frames(path: Path, _: np.random.Generator) -> None:
    """A header that asks for frames of gigabytes."""
    other = path.with_suffix(".avi")
    data = bytearray(whole(other, codec="rawvideo"))
    other.unlink()
    place = data.index(b"strf") + 12
    data[place : place + 8] = struct.pack("<ii", 60_000, 60_000)
    path.write_bytes(data)


def endless_header(path: Path, _: np.random.Generator) -> None:
    """A header that claims years."""
    other = path.with_suffix(".mkv")
    data = bytearray(whole(other))
    other.unlink()
    place = data.index(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", 1e12)
    path.write_bytes(data)


def endless_frames(path: Path, _: np.random.Generator) -> None:
    """Every frame is shown for weeks."""
    data = bytearray(whole(path, bf="0"))
    place = data.index(b"stts") + 16
    data[place : place + 4] = struct.pack(">i", 2**31 - 1)
    path.write_bytes(data)


def missing(_: Path, __: np.random.Generator) -> None:
    """No file at all."""


DAMAGES = {
    "empty": Damage(empty, {"empty"}),
    "zeros": Damage(zeros, {"unreadable"}),
    "garbage": Damage(garbage, BROKEN),
    "text": Damage(text, {"unreadable"}),
    "without_end": Damage(without_end, BROKEN),
    "without_rest": Damage(without_rest, BROKEN),
    "header_alone": Damage(header_alone, BROKEN),
    "corrupted": Damage(corrupted, {"damaged", "unreadable"}),
    "blanked": Damage(blanked, BROKEN),
    "sound": Damage(sound, {"no video stream"}),
    "picture": Damage(picture, {"picture", "unreadable"}),
    "archive": Damage(archive, {"unreadable"}),
    "huge_frames": Damage(huge_frames, {"absurd size"}),
    "endless_header": Damage(endless_header, {"truncated"}),
    "endless_frames": Damage(endless_frames, {"absurd length"}),
    "missing": Damage(missing, {"missing"}),
}


def write_corpus(folder: Path, good: int, bad: int) -> dict[str, str]:
    """annotations.jsonl and videos/; returns {id of a damaged video: name of its damage}."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    damaged = {f"bad{number}": list(DAMAGES)[number % len(DAMAGES)] for number in range(bad)}
    for number in range(good):
        write_video(folder / "videos" / f"good{number}.mp4", frames=10 + number % 20)
    for number, (vid, name) in enumerate(damaged.items()):
        path = folder / "videos" / f"{vid}.mp4"
        DAMAGES[name].make(path, np.random.default_rng(number))
    vids = [*(f"good{number}" for number in range(good)), *damaged]
    rows = [
        {"qid": qid, "query": "something", "vid": vid, "duration": 3.0}
        for qid, vid in enumerate(vids)
    ]
    (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return damaged


def main(good: int = 200, bad: int = 40, folder: Path = Path("/tmp/sdst-damaged")) -> int:
    """Make and extract a corpus; status 0 if every video is where it belongs."""
    damaged = write_corpus(folder, good, bad)
    began = time.perf_counter()
    summary = extract(
        ExtractionConfig(
            annotations=folder / "annotations.jsonl",
            videos=folder / "videos",
            output=folder / "features",
            encoder=EncoderConfig(video_options={"image_size": 64}),
            sharding=ShardingConfig(videos=40),
            workers=2,
            time_limit=60,
        )
    )
    found = {row["vid"]: row for row in read_failures(folder / "features")}
    for vid, name in damaged.items():
        print(f"{vid:6} {name:15} {found.get(vid, {'kind': 'NOT FOUND', 'cause': ''})}")
    wrong = faults(damaged, found)
    print(
        f"{summary.stored} of {good} good videos stored, {len(found)} of {bad} damaged ones named"
    )
    print(f"classes: {dict(Counter(row['kind'] for row in found.values()))}")
    print(f"{time.perf_counter() - began:.0f} s; wrong: {wrong or 'none'}")
    return int(bool(wrong) or summary.stored != good or not summary.failed)


def faults(damaged: dict[str, str], found: dict[str, dict[str, str]]) -> list[str]:
    """Videos that are not named as they should be."""
    wrong = sorted(damaged.keys() ^ found.keys())
    for vid in damaged.keys() & found.keys():
        row = found[vid]
        fitting = row["kind"] in DAMAGES[damaged[vid]].kinds
        if not fitting or vid not in row["cause"] or "\n" in row["cause"]:
            wrong.append(f"{vid} ({damaged[vid]}): {row}")
    return wrong


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
