"""What a video file shows at given instants: its length, and the frames of its clips."""

import bisect
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

from data_pipeline.untrusted import readable
from data_pipeline.video.frames import (
    Damage,
    merged,
    until_key,
)
from data_pipeline.video.listing import VideoInfo, Watch, list_video
from data_pipeline.video.opening import VideoError, opened
from data_pipeline.video.packets import fed

Picture = NDArray[np.uint8]
Taken = TypeVar("Taken")

MOST_OBLONG = 16
"""Pictures that are longer than so many of their shorter sides are squeezed to that."""

PIECE_BYTES = 16 * 2**20
"""Decoded clips are handed over in pieces of about this size, however long the video."""


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
) -> Iterator[Picture]:
    """Frames of the clips of a video; see `VideoFile.clips`."""
    yield from VideoFile(path).clips(clip_length, frames_per_clip, image_size, start, end)


class VideoFile:
    """A video whose frames have been listed: which ones it shows, and when.

    Time 0 is where a player starts (the earliest stream of the container). Headers are believed for
    nothing but a check: the duration is the end of the last frame, and a header that claims more
    than 1 s (and 2%) beyond it gives the file away as truncated. If the file is whole all the same,
    the header is stale, which is a warning.

    Damage is refused, or where `damage` is "bear" told in `damaged` and `warnings`: what cannot be
    decoded then shows what was shown before. `name` is what messages call the file; listing frames
    may take `time_limit` seconds.

    Raises VideoError, one line with the cause, for a file that is missing, empty, not a video,
    without a video stream, of absurd size, truncated, or of several recordings of which only the
    first would be seen.
    """

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        damage: Literal["refuse", "bear"] = "refuse",
        time_limit: float = math.inf,
    ) -> None:
        self.path = Path(path)
        self.name = name or readable(str(path))
        self._bear = damage == "bear"
        self.listing = list_video(self.path, self.name, self._bear, time_limit)
        self.info, self._frames = self.listing.info, self.listing.frames
        self._damaged = list(self._frames.damaged)

    @property
    def damaged(self) -> Damage:
        """Seconds from and to that were found damaged so far: what is not decoded is not judged."""
        return merged(self._damaged)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be told of the file, a line each."""
        spans = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in self.damaged)
        told = f"{self.name}: damaged at {spans}; what is shown there may be wrong"
        return (*self.listing.warnings, *([told] if spans else []))

    def clips(
        self,
        clip_length: float,
        frames_per_clip: int,
        image_size: int,
        start: float = 0.0,
        end: float | None = None,
        time_limit: float = math.inf,
        crop: float | None = None,
    ) -> Iterator[Picture]:
        """Clip i covers [start + i * clip_length, start + (i + 1) * clip_length) seconds.

        Yields pieces (n, T, H, W, 3) of RGB frames, H = W = image_size, T = frames_per_clip, of
        about `PIECE_BYTES` each; together `clip_count(end - start, clip_length)` clips. A clip's
        frames are those shown at the centres of its T equal parts: the last frame at or before the
        instant, the first or last frame of the video where there is none. A frame is squeezed to a
        square, or with `crop` shows the square in its centre, that share of its shorter side.

        Raises VideoError for a range outside the video, for frames that cannot be decoded, and when
        listing and decoding take more than `time_limit` seconds of their own.
        """
        end = self._within(start, end)
        count = clip_count(end - start, clip_length)
        step = clip_length / frames_per_clip
        instants = start + (np.arange(count * frames_per_clip) + 0.5) * step  # (L*T,)
        shown = [self._shown_at(t) for t in instants]
        clip_bytes = frames_per_clip * image_size * image_size * 3
        piece = max(1, PIECE_BYTES // clip_bytes) * frames_per_clip
        frames: list[Picture] = []
        pictures = self._decoded(sorted(set(shown)), self._resized(image_size, crop), time_limit)
        index, picture = next(pictures)
        for position, wanted in enumerate(shown):
            while index < wanted:
                index, picture = next(pictures)
            frames.append(picture)
            if len(frames) == piece or position + 1 == len(shown):
                yield np.stack(frames).reshape(-1, frames_per_clip, image_size, image_size, 3)
                frames = []

    def frames(self, start: float, end: float) -> Iterator[tuple[float, Any]]:
        """What is shown in [start, end): PyAV's frames, and the seconds at which each begins.

        The first one may begin before `start`. Raises VideoError as `clips`.
        """
        end = self._within(start, end)
        first = self._shown_at(start)
        after = max(first + 1, bisect.bisect_left(self._frames.times, end - 1e-6))
        for index, frame in self._decoded(range(first, after), lambda frame: frame):
            yield self._frames.times[index], frame

    def stills(
        self, instants: Sequence[float], image_size: int, exact: bool = True
    ) -> Iterator[Picture]:
        """What is shown at each of the ascending instants, (H, W, 3).

        Unless `exact`, the nearest key frame, which costs little in a long video.
        """
        times, take = self._frames.times, self._resized(image_size)
        shown = [self._shown_at(instant) for instant in instants]
        keys = [self._shown_at(moment) for moment in self._frames.key_times if moment >= times[0]]
        if exact or self._frames.stamps is None or not keys:
            pictures = self._decoded(sorted(set(shown)), take)
            index, picture = next(pictures)
            for wanted in shown:
                while index < wanted:
                    index, picture = next(pictures)
                yield picture
            return
        for instant in instants:
            near = min(keys, key=lambda index: abs(times[index] - instant))
            yield next(self._decoded([near], take, only_keys=True))[1]

    def key_frame_near(self, start: float, tolerance: float) -> float | None:
        """Seconds of the nearest key frame, no further than `tolerance` from `start`, if any.

        None also where packets are not what is shown, so that they cannot be copied.
        """
        keys = [] if self._frames.stamps is None else self._frames.key_times
        near = min(keys, key=lambda key: abs(key - start), default=math.inf)
        return near if near >= 0 and abs(near - start) <= tolerance else None

    def _shown_at(self, instant: float) -> int:
        """The number of the frame that is shown."""
        return max(0, bisect.bisect_right(self._frames.times, instant + 1e-6) - 1)

    def _within(self, start: float, end: float | None) -> float:
        """The end of a range, which lies in the video."""
        duration = self._frames.end
        end = duration if end is None else min(end, duration)
        if not 0 <= start < end:
            raise VideoError(
                f"{self.name}: no clips from {start:g} s to {end:g} s in a video of "
                f"{duration:.2f} s",
                kind="range",
            )
        return end

    def _resized(self, size: int, crop: float | None = None) -> Callable[[Any], Picture]:
        rotation = self.info.rotation
        aspect = self.listing.aspect
        return lambda frame: _resize(frame, size, rotation, aspect, crop)

    def _decoded(
        self,
        wanted: Sequence[int],
        take: Callable[[Any], Taken],
        time_limit: float = math.inf,
        only_keys: bool = False,
    ) -> Iterator[tuple[int, Taken]]:
        """The wanted frames by their numbers, in order, each with what `take` makes of it.

        Decoding begins at a key frame before the first; where that does not bring what it should,
        at the start of the file. `only_keys`: key frames are wanted, others need not be decoded.
        """
        watch = Watch(self.name, time_limit, self.listing.seconds)
        left = deque(wanted)
        before: list[Taken] = []  # the last one taken
        good = False
        place = self._place_before(wanted[0])
        ways = [(place, only_keys), (None, only_keys), (None, False)]
        ways = list(dict.fromkeys(ways))
        for way in ways:
            last = way == ways[-1]
            with opened(self.path, self.name) as (container, stream):
                for index, frame in self._numbered(container, stream, left, watch, *way, not last):
                    if index < left[0]:
                        continue
                    if index > left[0] or frame.is_corrupt:
                        if not last:
                            break
                        self._fault(self._frames.times[left[0]])
                    good = good or not frame.is_corrupt
                    taken = take(frame)
                    while left and left[0] <= index:
                        shown = before[0] if before and left[0] < index else taken
                        watch.pause()
                        yield left.popleft(), shown
                        watch.go_on()
                    before = [taken]
                    if not left:
                        break
            if not left:
                break
        if left:
            self._fault(self._frames.times[left[0]])
        if not good:  # nothing that could be borne
            raise self._damage(self._frames.times[wanted[0]])
        for index in left:
            yield index, before[0]

    def _place_before(self, index: int) -> tuple[int, int] | None:
        """The key frame to begin at for a frame: its time, and where to seek for it."""
        stamps = self._frames.stamps
        if stamps is None:
            return None
        key = max(key for key in self._frames.keys if key[0] <= stamps[index])
        return key if key[0] > stamps[0] else None

    def _numbered(
        self,
        container: Any,
        stream: Any,
        left: Sequence[int],
        watch: Watch,
        place: tuple[int, int] | None,
        only_keys: bool,
        strict: bool,
    ) -> Iterator[tuple[int, Any]]:
        """Decoded frames with their numbers: those `left`, or all where they must be counted.

        Ends at the first fault if `strict`, as where `place` may be no good one to begin at.
        """
        stamps = self._frames.stamps
        numbers = {stamps[index]: index for index in left} if stamps is not None else {}
        # A decoder that is not FFmpeg's own would skip for good what it is once told to skip.
        skips = stamps is not None and not stream.codec_context.name.startswith("lib")
        packets = fed(container, stream, bool(self._frames.keys))
        context, skipping = stream.codec_context, False
        count = 0
        try:
            if place is not None:
                container.seek(place[1], stream=stream, backward=True)
            for packet in packets:
                if only_keys and packet.size and not packet.is_keyframe:
                    continue
                if skips:
                    # Frames that nothing refers to are skipped inside the decoder: exact, as the
                    # frames that are kept do not depend on them.
                    skip = packet.pts not in numbers and packet.size > 0
                    if skip is not skipping:
                        context.skip_frame = "NONREF" if skip else "DEFAULT"
                        skipping = skip
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    if strict or not self._bear:
                        raise
                    self._note(packet)
                    continue
                for frame in frames:
                    index = numbers.get(frame.pts) if stamps is not None else count
                    count += 1
                    if index is not None:
                        yield index, frame
                watch.check()
        except av.FFmpegError:
            if not strict and not self._bear:
                raise

    def _note(self, packet: Any) -> None:
        """Note a packet that cannot be decoded, where its time is that of a frame."""
        if self._frames.stamps is not None and packet.pts is not None:
            self._fault(packet.pts * float(packet.time_base) - self.listing.begin)

    def _fault(self, seconds: float) -> None:
        """Refuse what cannot be decoded, or note it."""
        if not self._bear:
            raise self._damage(seconds)
        self._damaged.append(until_key(seconds, self._frames.key_times, self._frames.end))

    def _damage(self, seconds: float) -> VideoError:
        return VideoError(
            f"{self.name}: damaged: the frame at {seconds:.2f} s cannot be decoded; fetch the file "
            "again",
            kind="damaged",
        )


def _resize(frame: Any, size: int, rotation: int, aspect: float, crop: float | None) -> Picture:
    """(size, size, 3) RGB; all of the picture squeezed to a square, or the square in its centre."""
    width, height = size, size
    if crop is not None:
        sides = frame.width * aspect, float(frame.height)
        shorter = round(size / crop)
        width, height = (
            min(max(size, int(shorter * side / min(sides))), MOST_OBLONG * shorter)
            for side in sides
        )
    small = frame.reformat(
        width=width, height=height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
    )
    left, top = (width - size) // 2, (height - size) // 2
    picture: Picture = small.to_ndarray()[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(picture, rotation // 90))
