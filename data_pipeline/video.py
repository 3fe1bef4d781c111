"""What a video file shows at given instants: its length, and the frames of its clips."""

import bisect
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from data_pipeline.errors import InputError

MAX_PIXELS = 8192 * 8192
"""A header that claims larger frames is taken for damage, before memory is asked for."""

MAX_SECONDS = 48 * 3600
"""Frames that claim to be further apart are taken for damage: a clip each costs memory."""

MOST_OBLONG = 16
"""Pictures that are longer than so many of their shorter sides are squeezed to that."""

_PICTURES = re.compile(r"image2|_pipe$")
"""FFmpeg's names of formats that hold one picture."""

PIECE_BYTES = 16 * 2**20
"""Decoded clips are handed over in pieces of about this size, however long the video."""


class VideoError(InputError):
    """A video that cannot be used; `kind` is a class of causes to count by."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` finds. `duration` in seconds, `frame_rate` on average, sizes as displayed."""

    duration: float
    frame_rate: float
    width: int
    height: int
    rotation: int
    """Degrees counter-clockwise by which the stored picture is to be turned: 0, 90, 180, 270."""


def clip_count(duration: float, clip_length: float) -> int:
    """L: clips of `clip_length` seconds that cover `duration`; a sliver under 1% is dropped."""
    return max(1, math.ceil(duration / clip_length - 0.01))


def probe(path: str | Path) -> VideoInfo:
    """Length and geometry of a video; raises VideoError as `VideoFile` does."""
    return VideoFile(path).info


def decode_clips(
    path: str | Path,
    clip_length: float,
    frames_per_clip: int,
    image_size: int,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Frames of the clips of a video; see `VideoFile.clips`."""
    yield from VideoFile(path).clips(clip_length, frames_per_clip, image_size, start, end)


class VideoFile:
    """A video whose packets have been listed: exact frame times, before a frame is decoded.

    Time 0 is where a player starts (the earliest stream of the container). Headers are believed for
    nothing but a check: the duration is the end of the last video packet, and a header that claims
    more than 1 s (and 2%) beyond it gives the file away as truncated.

    Raises VideoError, one line with the cause, for a file that is missing, empty, not a video,
    without a video stream, truncated or of absurd size.
    """

    def __init__(self, path: str | Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or str(path)  # in messages: the file may be a copy of what it names
        with self._open() as (container, stream):
            context = stream.codec_context
            if not 0 < context.width * context.height <= MAX_PIXELS:
                raise VideoError(
                    f"{self.name}: frames of {context.width} x {context.height} pixels are not "
                    "decoded; is the header damaged?",
                    kind="absurd size",
                )
            self._list_packets(container, stream)
            width, height = context.width, context.height
        if self._duration > MAX_SECONDS:
            raise VideoError(
                f"{self.name}: its frames are {self._duration:.0f} s apart; are its times damaged?",
                kind="absurd length",
            )
        rotation = self._rotation()
        if rotation % 180:
            width, height = height, width
        rate = len(self._times) / self._duration
        self.info = VideoInfo(self._duration, rate, width, height, rotation)

    def clips(
        self,
        clip_length: float,
        frames_per_clip: int,
        image_size: int,
        start: float = 0.0,
        end: float | None = None,
        time_limit: float = math.inf,
        crop: float | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Clip i covers [start + i * clip_length, start + (i + 1) * clip_length) seconds.

        Yields pieces (n, T, H, W, 3) of RGB frames, H = W = image_size, T = frames_per_clip, of
        about `PIECE_BYTES` each; together `clip_count(end - start, clip_length)` clips. A clip's
        frames are those shown at the centres of its T equal parts: the last frame at or before the
        instant, the first or last frame of the video where there is none. A frame is squeezed to a
        square, or with `crop` shows the square in its centre, that share of its shorter side.

        Raises VideoError for a range outside the video, for frames that cannot be decoded, and when
        decoding takes more than `time_limit` seconds of its own.
        """
        end = self._duration if end is None else min(end, self._duration)
        if not 0 <= start < end:
            raise VideoError(
                f"{self.name}: no clips from {start:g} s to {end:g} s in a video of "
                f"{self._duration:.2f} s",
                kind="range",
            )
        count = clip_count(end - start, clip_length)
        step = clip_length / frames_per_clip
        instants = start + (np.arange(count * frames_per_clip) + 0.5) * step  # (L*T,)
        shown = [max(0, bisect.bisect_right(self._times, t + 1e-6) - 1) for t in instants]
        clip_bytes = frames_per_clip * image_size * image_size * 3
        piece = max(1, PIECE_BYTES // clip_bytes) * frames_per_clip
        frames: list[NDArray[np.uint8]] = []
        pictures = self._pictures(sorted(set(shown)), image_size, time_limit, crop)
        index, picture = next(pictures)
        for position, wanted in enumerate(shown):
            while index < wanted:
                index, picture = next(pictures)
            frames.append(picture)
            if len(frames) == piece or position + 1 == len(shown):
                yield np.stack(frames).reshape(-1, frames_per_clip, image_size, image_size, 3)
                frames = []

    def _list_packets(self, container: Any, stream: Any) -> None:
        """Times of all frames that can be shown, and the true duration, without decoding."""
        begin = 0.0 if container.start_time is None else container.start_time / av.time_base
        pts: list[int] = []
        keys: list[tuple[int, int]] = []  # presentation time, and where to seek for it
        has_pts, last, other_end, timeless = True, 0, 0.0, False
        for packet in container.demux():
            if packet.size == 0:
                continue
            if packet.dts is None and packet.pts is None:
                timeless = timeless or packet.stream_index == stream.index
                continue
            stamp = packet.dts if packet.pts is None else packet.pts
            if packet.stream_index != stream.index:
                ends = float((stamp + (packet.duration or 0)) * packet.time_base)
                other_end = max(other_end, ends)
                continue
            if packet.is_discard:
                continue
            if packet.is_keyframe:
                # Containers seek by decoding or by presentation time: the earlier serves both.
                keys.append((stamp, stamp if packet.dts is None else min(stamp, packet.dts)))
            # Frames before the first key frame lean on what was cut off with the file's start.
            if not keys or stamp < keys[0][0]:
                continue
            has_pts = has_pts and packet.pts is not None
            pts.append(stamp)
            last = max(last, stamp + (packet.duration or 0))
        if not pts and timeless:
            raise VideoError(
                f"{self.path}: its frames carry no times, as in a bare stream; put it into a "
                "container (ffmpeg -i FILE -c copy FILE.mp4)",
                kind="no times",
            )
        if not pts:
            raise VideoError(
                f"{self.name}: holds no video frames; is the file truncated?", kind="no frames"
            )
        pts.sort()
        base = float(stream.time_base)
        if last == pts[-1]:  # no packet durations: the last frame lasts as long as the others
            last += (pts[-1] - pts[0]) // (len(pts) - 1) if len(pts) > 1 else 0
        self._pts, self._keys = pts, keys
        self._has_pts = has_pts
        self._times = [p * base - begin for p in pts]
        self._duration = last * base - begin
        if self._duration <= 0:
            raise VideoError(
                f"{self.name}: its frames carry no usable times; re-encode the file",
                kind="no times",
            )
        claimed = 0.0 if container.duration is None else container.duration / av.time_base
        found = max(last * base, other_end)  # Matroska's length counts from 0, not from the start
        if claimed > max(found + 1, found * 1.02):
            raise VideoError(
                f"{self.name}: truncated: its header claims {claimed:.1f} s and its frames end "
                f"at {found:.1f} s; fetch the file again",
                kind="truncated",
            )

    def _pictures(
        self, wanted: list[int], image_size: int, time_limit: float, crop: float | None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(index, RGB picture) of the wanted frames, in order of time."""
        remaining = {self._pts[index]: index for index in wanted}
        used = 0.0
        with self._open() as (container, stream):
            context = stream.codec_context
            began = time.monotonic()
            for packet in self._packets_from(container, stream, self._pts[wanted[0]]):
                if self._has_pts:
                    # Frames that nothing refers to are skipped inside the decoder: exact, as the
                    # frames that are kept do not depend on them.
                    skip = packet.size > 0 and packet.pts not in remaining
                    context.skip_frame = "NONREF" if skip else "DEFAULT"
                for frame in packet.decode():
                    index = remaining.pop(frame.pts, None)
                    if index is None:
                        continue
                    if frame.is_corrupt:
                        raise VideoError(
                            f"{self.name}: damaged: the frame at {self._times[index]:.2f} s cannot "
                            "be decoded; fetch the file again",
                            kind="damaged",
                        )
                    picture = _resize(frame, image_size, self.info.rotation, crop)
                    used += time.monotonic() - began
                    yield index, picture
                    began = time.monotonic()
                if used + time.monotonic() - began > time_limit:
                    raise VideoError(
                        f"{self.name}: decoding took more than the limit of {time_limit:g} s; "
                        "raise time_limit or re-encode the file",
                        kind="too slow",
                    )
                if not remaining:
                    return
        if remaining:
            missing = min(remaining.values())
            raise VideoError(
                f"{self.name}: damaged: the frame at {self._times[missing]:.2f} s cannot be "
                "decoded; fetch the file again",
                kind="damaged",
            )

    def _packets_from(self, container: Any, stream: Any, pts: int) -> Iterator[Any]:
        """Packets from a key frame on from which the frame at `pts` can be decoded."""
        key, target = max(k for k in self._keys if k[0] <= pts)
        if key > self._pts[0]:
            container.seek(target, stream=stream, backward=True)
            packets = container.demux(stream)
            first = next(packets)
            if first.pts is not None and first.pts <= key:
                yield first
                yield from packets
                return
            container.seek(self._keys[0][1], stream=stream, backward=True)
        yield from container.demux(stream)

    def _rotation(self) -> int:
        """Rotation of the first frame, which is where PyAV shows the container's display matrix."""
        with self._open() as (container, stream):
            for frame in container.decode(stream):
                return int(round(frame.rotation / 90) % 4 * 90)
        return 0

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        """The container and its video stream; libav's errors become VideoError."""
        try:
            if self.path.stat().st_size == 0:
                raise VideoError(
                    f"{self.name}: is empty (0 bytes); fetch the file again", kind="empty"
                )
            with av.open(str(self.path)) as container:
                videos = [s for s in container.streams.video if not _is_cover(s)]
                if not videos:
                    raise VideoError(f"{self.name}: holds no video stream", kind="no video stream")
                stream = videos[0]
                if _PICTURES.search(container.format.name):
                    raise VideoError(f"{self.name}: is a picture, not a video", kind="picture")
                if stream.codec_context is None:
                    raise VideoError(
                        f"{self.name}: its video codec is not known to this FFmpeg",
                        kind="unknown codec",
                    )
                # Actors give the parallelism; a frame's bytes are to depend on no thread.
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
                yield container, stream
        except FileNotFoundError as error:
            raise VideoError(f"{self.name}: no such video file", kind="missing") from error
        except OSError as error:  # FFmpeg's too, where the system refused what it asked for
            raise VideoError(f"{self.name}: cannot be read: {error.strerror}", "io") from error
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{self.name}: cannot be decoded as a video ({error.strerror}); is it complete?"
            ) from error


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a still attached to a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _resize(frame: Any, size: int, rotation: int, crop: float | None) -> NDArray[np.uint8]:
    """(size, size, 3) RGB; all of the picture squeezed to a square, or the square in its centre."""
    width, height = size, size
    if crop is not None:
        shorter, scale = round(size / crop), min(frame.width, frame.height)
        width, height = (
            min(max(size, shorter * side // scale), MOST_OBLONG * shorter)
            for side in (frame.width, frame.height)
        )
    small = frame.reformat(
        width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
    )
    left, top = (width - size) // 2, (height - size) // 2
    picture: NDArray[np.uint8] = small.to_ndarray()[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(picture, rotation // 90))
