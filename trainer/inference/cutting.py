"""Cut a part out of a video: copied where it begins at a key frame, else encoded anew."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from data_pipeline.errors import InputError, told
from data_pipeline.output import DISK, fault, whole

TOLERANCE = 0.25  # seconds that a copied clip may begin before or after what was asked
COPYABLE = frozenset(  # into mp4
    {"h264", "hevc", "av1", "vp9", "mpeg4", "aac", "mp3", "opus", "ac3"}
)
PLAYABLE = COPYABLE - {"hevc", "mpeg4", "ac3"}  # by any browser


def cut(
    video: Path,
    start: float,
    end: float,
    output: Path,
    tolerance: float = TOLERANCE,
    codecs: frozenset[str] = COPYABLE,
) -> Literal["copied", "encoded"]:
    """Write seconds [start, end) of `video` with its sound to the mp4 file `output`; says how.

    A stream can only be copied from a key frame on. If one lies within `tolerance` seconds of
    `start` and all is coded by one of `codecs`, packets are copied, which is fast and loses
    nothing; otherwise the part is decoded and encoded as H.264 and AAC, exact to the frame. Raises
    InputError for a file that cannot be read or a part without frames, NotWritten where `output`
    cannot be. The file appears complete or not at all.
    """
    with whole(output) as temporary:
        try:
            how: Literal["copied", "encoded"] = "copied"
            key = _key_frame_near(video, start, tolerance, codecs)
            frames = 0
            if key is not None:
                with _opened_at(video, key) as source, _mp4(temporary) as sink:
                    frames = _copy(source, sink, key, end)
            if not frames:
                how = "encoded"
                with _opened_at(video, start) as source, _mp4(temporary) as sink:
                    frames = _encode(source, sink, start, end)
        except InputError:
            raise
        except Exception as error:  # whatever a damaged video trips, here and in the libraries
            if isinstance(error, OSError) and error.errno in DISK:
                raise fault(output, error) from error
            raise InputError(
                f"{video}: cannot be cut from {start:.2f} s to {end:.2f} s ({told(error)})"
            ) from error
        if not frames:
            raise InputError(f"{video}: shows no frame between {start:.2f} s and {end:.2f} s")
    return how


def _mp4(path: Path) -> Any:
    return av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})


def _origin(source: Any) -> float:
    """The container's time at which a player starts, which our seconds count from."""
    return 0.0 if source.start_time is None else float(source.start_time) / av.time_base


@contextmanager
def _opened_at(video: Path, start: float) -> Iterator[Any]:
    """The video, about to give the packets from a key frame at or before `start` seconds on.

    What seeks past it (a transport stream, Matroska without cues) is read from its beginning.
    """
    with av.open(str(video)) as source:
        if not source.streams.video:
            raise InputError(f"{video}: has no video stream to cut from")
        stream: Any = source.streams.video[0]
        wanted = start + _origin(source)
        place = int((wanted + 1e-3) / stream.time_base)
        source.seek(place, stream=stream, backward=True)
        first: Any = next((p for p in source.demux(stream) if p.pts is not None), None)
        if first and first.is_keyframe and first.pts * first.time_base <= wanted + 1e-3:
            source.seek(place, stream=stream, backward=True)
            yield source
            return
    with av.open(str(video)) as source:
        yield source


def _key_frame_near(
    video: Path, start: float, tolerance: float, codecs: frozenset[str]
) -> float | None:
    """Seconds of the key frame nearest to `start`, None if too far or not copyable."""
    near = None
    with _opened_at(video, start + tolerance) as source:
        if any(stream.codec_context.name not in codecs for stream in _kept(source)):
            return None
        for packet in source.demux(source.streams.video[0]):
            if packet.pts is None:
                continue
            seconds = float(packet.pts * packet.time_base) - _origin(source)
            if seconds > start + tolerance:
                break
            closer = near is None or abs(seconds - start) < abs(near - start)
            if packet.is_keyframe and abs(seconds - start) <= tolerance and closer:
                near = seconds
    return near


def _kept(source: Any) -> list[Any]:
    """The first video and the first audio stream."""
    return [*source.streams.video[:1], *source.streams.audio[:1]]


def _copy(source: Any, sink: Any, key: float, end: float) -> int:
    """Copy packets from the key frame at `key` seconds on; returns the number of video packets.

    That is 0 where a packet has no decoding time, as in Matroska, which mp4 cannot do without.
    """
    key, until = key + _origin(source), end + _origin(source)
    streams = {s.index: sink.add_stream_from_template(s) for s in _kept(source)}
    video = source.streams.video[0].index
    unfinished = set(streams)
    frames = 0
    for packet in source.demux([source.streams[index] for index in streams]):
        index = packet.stream.index
        if packet.size == 0 or index not in unfinished:
            continue
        if packet.dts is None or packet.pts is None:
            return 0
        # Decoding order: a stream is over when even its decoding time lies beyond the end.
        if packet.dts * packet.time_base >= until:
            unfinished.discard(index)
            if not unfinished:
                break
            continue
        if not key - 1e-3 <= packet.pts * packet.time_base < until:
            continue
        shift = round(key / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = streams[index]
        frames += index == video
        sink.mux(packet)
    return frames


def _encode(source: Any, sink: Any, start: float, end: float) -> int:
    """Decode, turn upright and encode; returns the number of video frames."""
    picture = sound = None
    early: list[Any] = []  # sound before the first picture, whose size the header needs
    frames = 0
    begin, until = start + _origin(source), end + _origin(source)
    for frame in _shown(_decoded(source, until), begin, until):
        if isinstance(frame, av.VideoFrame):
            image = _upright(frame)
            if picture is None:
                picture = _picture_stream(sink, image, source.streams.video[0])
                sound = _sound_stream(sink, source) if source.streams.audio else None
            sink.mux(picture.encode(image))
            frames += 1
        else:
            early.append(frame)
        if sound is not None:
            for samples in early:
                sink.mux(sound.encode(samples))
            early.clear()
    for stream in (picture, sound):
        if stream is not None:
            sink.mux(stream.encode())
    return frames


def _shown(frames: Iterator[Any], begin: float, until: float) -> Iterator[Any]:
    """Frames from container time `begin` up to `until`, counted from `begin`.

    The picture before `begin` is still shown then, until the next one comes: it is the first.
    """
    before, started, lasts = None, False, begin
    for frame in frames:
        is_picture = isinstance(frame, av.VideoFrame)
        if frame.time < begin - 1e-3:
            if is_picture:
                before, lasts = frame, frame.time + float((frame.duration or 0) * frame.time_base)
            continue
        if is_picture:
            lasts = frame.time
        if frame.time >= until:
            continue
        late = frame.time > begin + 1e-3
        frame.pts = max(frame.pts - round(begin / frame.time_base), 0)
        if is_picture and not started:
            started = True
            if before is not None and late:
                before.pts = 0
                yield before
        yield frame
    if not started and before is not None and lasts > begin:
        before.pts = 0
        yield before


def _decoded(source: Any, until: float) -> Iterator[Any]:
    """Timed frames of picture and sound from the current place to container time `until`."""
    unfinished = {stream.index for stream in _kept(source)}
    for packet in source.demux(_kept(source)):
        if packet.stream.index not in unfinished:
            continue
        yield from (frame for frame in packet.decode() if frame.pts is not None)
        if packet.dts is not None and packet.dts * packet.time_base >= until:
            unfinished.discard(packet.stream.index)
            for frame in packet.stream.codec_context.decode(None):  # held back for reordering
                frame.time_base = packet.time_base  # which a codec alone does not know
                if frame.pts is not None:
                    yield frame
            if not unfinished:
                return


def _upright(frame: Any) -> Any:
    """The frame as a player shows it, with the even sides that H.264 asks for."""
    quarter_turns = round(frame.rotation / 90) % 4
    if quarter_turns:
        turned = np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), format="rgb24")
        image.pts, image.time_base = frame.pts, frame.time_base
        frame = image
    return frame.reformat(
        width=frame.width // 2 * 2, height=frame.height // 2 * 2, format="yuv420p"
    )


def _picture_stream(sink: Any, image: Any, video: Any) -> Any:
    rate = video.average_rate or video.guessed_rate or Fraction(25)
    stream = sink.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "veryfast"})
    stream.width, stream.height, stream.pix_fmt = image.width, image.height, "yuv420p"
    stream.codec_context.time_base = image.time_base  # keeps the frames' own times
    return stream


def _sound_stream(sink: Any, source: Any) -> Any:
    audio = source.streams.audio[0]
    return sink.add_stream("aac", rate=audio.rate, layout=audio.layout.name)
