"""Small videos as people have them, frame n of which is grey of `grey_of(n)`."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.data_pipeline.conftest import grey_of, write_video

SIZE = (64, 64)


class Bits:
    """Numbers written one after another, of so many bits or with their length (Exp-Golomb)."""

    def __init__(self) -> None:
        self._text = ""

    def fixed(self, *numbers: tuple[int, int]) -> None:
        """Numbers, each with its count of bits."""
        self._text += "".join(f"{number:0{count}b}" for number, count in numbers)

    def coded(self, *numbers: int) -> None:
        for number in numbers:
            self._text += "0" * ((number + 1).bit_length() - 1) + f"{number + 1:b}"

    def align(self) -> None:
        self._text += "0" * (-len(self._text) % 8)

    def unit(self, head: int) -> bytes:
        """All of it as a unit of an H.264 stream."""
        self._text += "1"
        self.align()
        data = int(self._text, 2).to_bytes(len(self._text) // 8, "big")
        safe = bytearray()
        for byte in data:
            if safe[-2:] == b"\0\0" and byte <= 3:
                safe.append(3)
            safe.append(byte)
        return b"\0\0\0\1" + bytes([head]) + bytes(safe)


def field_parameters() -> bytes:
    """Sequence and picture parameters of a stream of fields, Main profile."""
    sequence = Bits()
    sequence.fixed((77, 8), (0, 8), (30, 8))
    sequence.coded(0, 0, 2, 1)  # its number, frame numbers of 4 bits, order, references
    sequence.fixed((0, 1))
    sequence.coded(SIZE[0] // 16 - 1, SIZE[1] // 32 - 1)
    sequence.fixed((0, 1), (0, 1), (1, 1), (0, 1), (0, 1))  # not frames only, no cropping
    picture = Bits()
    picture.coded(0, 0)
    picture.fixed((0, 1), (0, 1))
    picture.coded(0, 0, 0)
    picture.fixed((0, 1), (0, 2))
    picture.coded(0, 0, 0)
    picture.fixed((1, 1), (0, 1), (0, 1))
    return sequence.unit(0x67) + picture.unit(0x68)


def field(bottom: bool, number: int, level: int) -> bytes:
    """A field whose samples are written as they are (I_PCM), in luma of `level`."""
    bits = Bits()
    bits.coded(0, 7, 0)
    bits.fixed((0, 4), (1, 1), (bottom, 1))  # frame number, a field, which
    if not bottom:
        bits.coded(number % 2)
    bits.fixed((0, 1), *[] if bottom else [(0, 1)])  # references are marked as usual
    bits.coded(0, 1)  # quantiser, no deblocking
    for _ in range(SIZE[0] * SIZE[1] // 2 // 256):
        bits.coded(25)
        bits.align()
        bits.fixed(*[(level, 8)] * 256, *[(128, 8)] * 128)
    return bits.unit(0x61 if bottom else 0x65)


def write_fields(path: Path, frames: int, rate: int = 25) -> Path:
    """Interlaced H.264 with a packet for each field, as AVCHD cameras and broadcasts have it."""
    stream = path.with_suffix(".fields.ts")
    with av.open(str(stream), "w") as sink:
        track: Any = sink.add_stream("h264", rate=2 * rate)
        track.width, track.height, track.pix_fmt = *SIZE, "yuv420p"
        for place in range(2 * frames):
            level = round(16 + grey_of(place // 2) * 219 / 255)
            bottom = place % 2 == 1
            head = b"" if bottom else field_parameters()
            packet = av.Packet(head + field(bottom, place // 2, level))
            packet.stream, packet.time_base = track, Fraction(1, 2 * rate)
            packet.pts = packet.dts = place
            packet.duration, packet.is_keyframe = 1, not bottom
            sink.mux(packet)
    return copy(stream, path)


def copy(source: Path, path: Path, later: int = 0, **options: str) -> Path:
    """The packets of a video in another container, `later` units of the first one's clock later."""
    with av.open(str(source)) as read, av.open(str(path), "w", options=options) as sink:
        track = sink.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(read.streams.video[0]):
            if packet.size:
                packet.stream = track
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                sink.mux(packet)
    return path


def write_trimmed(path: Path, frames: int, first: int) -> Path:
    """Frames from `first` on are shown, those before it only decoded: an edit list says so."""
    whole = write_video(path.with_suffix(".whole.mp4"), frames, g="20", bf="2")
    with av.open(str(whole)) as container:
        base = container.streams.video[0].time_base
    return copy(whole, path, later=-round(first / 10 / base))


def write_joined(path: Path, codec: str = "libx264") -> Path:
    """Two recordings of 20 frames, one behind the other: their times begin anew."""
    groups = {"g": "10"} if codec == "wmv2" else {"g": "10", "bf": "2"}
    part = write_video(path.with_suffix(f".part{path.suffix}"), 20, codec=codec, **groups)
    path.write_bytes(2 * part.read_bytes())
    return path


def write_wrapped(path: Path) -> Path:
    """40 frames; after a second the 33 bits of the clock run over."""
    whole = write_video(path.with_suffix(".whole.ts"), 40, g="10", bf="2")
    return copy(whole, path, later=2**33 - 3 * 90_000, mpegts_copyts="1")


def write_stale(path: Path) -> Path:
    """40 frames in FLV or Matroska; the header claims an hour."""
    write_video(path)
    data = bytearray(path.read_bytes())
    flv = path.suffix == ".flv"
    place = data.index(b"duration") + 9 if flv else data.index(b"\x44\x89\x88") + 3
    data[place : place + 8] = struct.pack(">d", 3600.0 if flv else 3_600_000.0)
    path.write_bytes(data)
    return path


def write_wide_pixels(path: Path, picture: Callable[[int], Any] | None = None) -> Path:
    """72 x 58 pixels, each 64:45; grey or `picture(n)`."""
    with av.open(str(path), "w") as sink:
        track: Any = sink.add_stream("libx264", rate=10, options={"g": "10"})
        track.width, track.height, track.pix_fmt = 72, 58, "yuv420p"
        track.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for number in range(20):
            grey = np.full((58, 72, 3), grey_of(number), np.uint8)
            pixels = grey if picture is None else picture(number)
            sink.mux(track.encode(av.VideoFrame.from_ndarray(pixels)))
        sink.mux(track.encode())
    return path


def write_with_sound(path: Path, codec: str, layout: str, rate: int = 48000) -> Path:
    """20 frames, and two seconds of a tone."""
    with av.open(str(path), "w") as sink:
        track: Any = sink.add_stream("libx264", rate=10, options={"g": "10"})
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        sound: Any = sink.add_stream(codec, rate=rate, layout=layout)
        form = sound.codec_context.format.name
        for number in range(20):
            pixels = np.full((48, 64, 3), grey_of(number), np.uint8)
            sink.mux(track.encode(av.VideoFrame.from_ndarray(pixels)))
            tone = np.sin(np.arange(rate // 10) / 20).astype(np.float32)
            planes = np.stack([tone] * av.AudioLayout(layout).nb_channels)
            frame = av.AudioFrame.from_ndarray(planes, "fltp", layout)
            frame.sample_rate, frame.pts = rate, number * rate // 10
            for made in av.AudioResampler(form, layout, rate).resample(frame):
                sink.mux(sound.encode(made))
        for stream in (track, sound):
            sink.mux(stream.encode())
    return path


def write_changing_sound(path: Path) -> Path:
    """40 frames and four seconds of sound, which is mono and then stereo."""
    parts = [
        write_with_sound(path.with_suffix(f".{layout}.ts"), "aac", layout)
        for layout in ("mono", "stereo")
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path
