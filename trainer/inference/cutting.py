"""Cut a part out of a video: copied where it begins at a key frame, else encoded anew."""

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Colorspace

from data_pipeline.errors import InputError, told
from data_pipeline.output import DISK, fault, whole
from data_pipeline.video.opening import opened
from data_pipeline.video.packets import demuxed
from data_pipeline.video.video import VideoFile
from trainer.inference.sound import sound_of, sound_stream

TOLERANCE = 0.25  # seconds that a copied clip may begin beside what was asked, or end after it
COPYABLE = frozenset(  # into mp4
    {"h264", "hevc", "av1", "vp9", "mpeg4", "aac", "mp3", "opus", "ac3"}
)
PLAYABLE = COPYABLE - {"hevc", "mpeg4", "ac3"}  # by any browser
COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")
RGB = 0  # FFmpeg's colour space of pictures that are not coded in luma and chroma
CLOCK = 90_000  # units of a second in what is encoded


def cut(
    video: Path | VideoFile,
    start: float,
    end: float,
    output: Path,
    tolerance: float = TOLERANCE,
    codecs: frozenset[str] = COPYABLE,
) -> Literal["copied", "encoded"]:
    """Write seconds [start, end) of `video` with its sound to the mp4 file `output`; says how.

    A stream can only be copied from a key frame on. If one lies within `tolerance` seconds of
    `start`, packets are what is shown and all is coded by one of `codecs`, packets are copied,
    which is fast and loses nothing; otherwise the part is decoded and encoded as H.264 and AAC,
    exact to the frame, as displayed. What is damaged shows what came before. Raises InputError for
    a file that cannot be read or a part without frames, NotWritten where `output` cannot be. The
    file appears complete or not at all.
    """
    with whole(output) as temporary:
        try:
            if not isinstance(video, VideoFile):
                video = VideoFile(video, damage="bear")
            if not 0 <= start < min(end, video.info.duration):
                raise InputError(
                    f"{video.name}: shows no frame between {start:.2f} s and {end:.2f} s"
                )
            key = video.key_frame_near(start, tolerance)
            if key is not None and _copy(video, key, end, temporary, output, codecs, tolerance):
                return "copied"
            _encode(video, start, end, temporary, output)
        except InputError:
            raise
        except Exception as error:  # whatever a damaged video trips, here and in the libraries
            name = video.name if isinstance(video, VideoFile) else video
            raise InputError(
                f"{name}: cannot be cut from {start:.2f} s to {end:.2f} s ({told(error)})"
            ) from error
    return "encoded"


@contextmanager
def _mp4(path: Path, output: Path) -> Iterator[Any]:
    """An mp4 file to be written, which will be called `output`; NotWritten where the disk fails."""
    try:
        options = {"movflags": "faststart"}
        with av.open(str(path), "w", format="mp4", options=options) as sink:
            yield sink
    except OSError as error:
        if error.errno in DISK:
            raise fault(output, error) from error
        raise


def _copy(
    video: VideoFile,
    key: float,
    end: float,
    path: Path,
    output: Path,
    codecs: frozenset[str],
    tolerance: float,
) -> bool:
    """Copy packets from the key frame at `key` seconds on; False where that cannot be done.

    Neither where sound may change on its way, as in what has a clock that jumps, nor where a packet
    has no decoding time, as in Matroska, which mp4 cannot do without.
    """
    begin = video.listing.begin + key
    with opened(video.path, video.name) as (source, picture):
        kept = [picture, *islice((s for s in source.streams.audio if s.codec_context), 1)]
        if video.listing.jumps or any(s.codec_context.name not in codecs for s in kept):
            return False
        coded = float(picture.codec_context.sample_aspect_ratio or 1)
        if abs(coded / video.listing.aspect - 1) > 0.01:
            return False  # the container alone knows the shape, which is not copied
        source.seek(int((begin + 1e-3) / picture.time_base), stream=picture, backward=True)
        with _mp4(path, output) as sink:
            streams = {s.index: sink.add_stream_from_template(s) for s in kept}
            unfinished = set(streams)
            copied = False
            beyond: list[Any] = []  # shown after the end, before it in decoding order
            for packet in demuxed(source, *kept):
                index = packet.stream_index
                if packet.size == 0 or index not in unfinished:
                    continue
                if packet.dts is None or packet.pts is None:
                    return False
                # Decoding order: a stream is over when even its decoding time lies beyond the end.
                if packet.dts * packet.time_base >= video.listing.begin + end:
                    unfinished.discard(index)
                    if not unfinished:
                        break
                    continue
                seconds = packet.pts * packet.time_base
                if seconds < begin - 1e-3:
                    continue
                if seconds >= video.listing.begin + end:
                    if index == picture.index:
                        beyond.append(packet)
                    continue
                if index == picture.index and not copied:
                    if not packet.is_keyframe or seconds > begin + 1e-3:
                        return False  # it cannot seek there
                    copied = True
                if index != picture.index:
                    taken = [packet]
                else:  # what is shown before the end may lean on what is shown after it
                    taken, beyond = [*beyond, packet], []
                    latest = max(each.pts for each in taken) * packet.time_base
                    if latest >= video.listing.begin + end + tolerance:
                        return False
                for each in taken:
                    shift = round(begin / each.time_base)
                    each.pts, each.dts = each.pts - shift, each.dts - shift
                    each.stream = streams[index]
                    sink.mux(each)
    return copied


def _encode(video: VideoFile, start: float, end: float, path: Path, output: Path) -> None:
    """Decode, turn upright and encode."""
    until = min(end, video.info.duration)
    pictures = ((max(0.0, at - start), frame) for at, frame in video.frames(start, until))
    first = next(pictures)
    sounds = sound_of(video, start, until)
    heard = list(islice(sounds, 1))
    image = _upright(video, first[1])
    with _mp4(path, output) as sink:
        rate = Fraction(min(max(video.info.frame_rate, 1), 1000)).limit_denominator(1001)
        options = {"crf": "18", "preset": "veryfast"}
        stream = sink.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = image.width, image.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)  # keeps the frames' own times
        for name in COLOURS:  # as players are told of them
            setattr(stream.codec_context, name, getattr(image, name))
        sound = sound_stream(sink, heard[0][1]) if heard else None
        last = -1
        shown = chain([first], pictures)
        for at, frame in heapq.merge(shown, chain(heard, sounds), key=lambda timed: timed[0]):
            if sound is not None and isinstance(frame, av.AudioFrame):
                sink.mux(sound.encode(frame))
                continue
            image = _upright(video, frame, (stream.width, stream.height))
            image.pts = last = max(last + 1, round(at * CLOCK))
            image.time_base = Fraction(1, CLOCK)
            sink.mux(stream.encode(image))
        for each in (stream, sound):
            if each is not None:
                sink.mux(each.encode())


def _upright(video: VideoFile, frame: Any, size: tuple[int, int] | None = None) -> Any:
    """A frame as a player shows it, of `size` or with the even sides that H.264 asks for."""
    turns = video.info.rotation // 90
    if size is None:
        sides = [round(frame.width * video.listing.aspect), frame.height]
        size = tuple(max(2, side // 2 * 2) for side in (sides[::-1] if turns % 2 else sides))
    if turns:
        turned = np.rot90(frame.to_ndarray(format="rgb24"), turns)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(turned), format="rgb24")
    space = Colorspace.ITU601 if frame.colorspace == RGB else None
    image = frame.reformat(width=size[0], height=size[1], format="yuv420p", dst_colorspace=space)
    image.pict_type = 0  # what it was in the source says nothing here
    return image
