"""What does a video hold, and is it whole? Its frames, length and shape, and what to warn of."""

import time
from dataclasses import dataclass
from pathlib import Path

import av
import av.format

from data_pipeline.video.ends import following_recording, is_whole, missing_share
from data_pipeline.video.frames import Frames, frames_of_packets, list_by_decoding
from data_pipeline.video.opening import VideoError, display_size, opened
from data_pipeline.video.packets import Packets, may_jump, read_packets

MAX_SECONDS = 48 * 3600
"""Frames that claim to be further apart are taken for damage: a clip each costs memory."""

MISSING = 0.01
"""The share of a file that may be missing: some writers count a header twice."""

BARE_RATE = 25.0
"""Frames a second, as FFmpeg has it too, of a stream that says nothing of them."""

REPEATING = ("mpeg1video", "mpeg2video")
"""Codecs whose streams tell, also without a container, how long each frame is shown."""


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` finds. `duration` in seconds, `frame_rate` on average, sizes as displayed."""

    duration: float
    frame_rate: float
    width: int
    height: int
    rotation: int
    """Degrees counter-clockwise by which the stored picture is to be turned: 0, 90, 180, 270."""


@dataclass(frozen=True)
class Listing:
    """What is known of a video before its pictures are asked for.

    begin: the container's time at which a player starts, in seconds. aspect: how many times wider
    than high its pixels are. jumps: whether the container's clock may jump. warnings: a line each.
    seconds: what listing frames by decoding took.
    """

    frames: Frames
    info: VideoInfo
    begin: float
    aspect: float
    jumps: bool
    warnings: tuple[str, ...]
    seconds: float


def list_video(path: Path, name: str, bear: bool, time_limit: float) -> Listing:
    """List the frames of a video, and compare them with what its headers claim.

    What is damaged is refused, or where `bear` told. Raises VideoError, which calls the file
    `name`, and when decoding takes more than `time_limit` seconds.
    """
    watch = Watch(name, time_limit)
    with opened(path, name) as (container, stream):
        packets = read_packets(container, stream, bear)
        kind, jumps = container.format.name, may_jump(container)
        codec = stream.codec_context.codec.canonical_name
        bare = bool(container.format.flags & av.format.Flags.no_timestamps.value)
        _check_packets(path, name, packets, kind, bare)
        width, height = display_size(stream)
        aspect = width / stream.codec_context.width
        # The length of a container whose clock may jump was measured, and is no claim.
        claimed = 0.0 if jumps else (container.duration or 0) / av.time_base
        base = float(stream.time_base)
        rate = float(stream.guessed_rate or stream.average_rate or BARE_RATE)
    warnings = []
    if bare:
        warnings.append(
            f"{name}: its frames carry no times, as in a bare stream: taken to be {rate:g} a "
            "second; if they are not, put it into a container that says so"
        )
    if packets.doubt:
        given = rate if bare and codec not in REPEATING else None
        with opened(path, name) as (container, stream):
            frames = list_by_decoding(container, stream, packets, watch.check, given)
    else:
        frames = frames_of_packets(packets, base)
    _check_frames(name, frames)
    if frames.lost is not None and not bear:
        raise VideoError(
            f"{name}: damaged: nothing of what lies at {max(0.0, frames.lost):.2f} s can be "
            "decoded; is it complete, and one recording?",
            kind="damaged",
        )
    # A length counts from the start or, as Matroska's, from 0.
    found = max(frames.end, packets.others_end - packets.begin) + max(0.0, packets.begin)
    stale, missing = claimed > max(found + 1, found * 1.02), missing_share(path, kind)
    if stale or missing > MISSING:
        seen = f"its header claims {claimed:.1f} s and its frames end at {frames.end:.1f} s"
        if not stale:
            seen = f"{missing:.0%} of it is not there, and its frames end at {frames.end:.1f} s"
        if stale and claimed <= MAX_SECONDS and is_whole(path, kind):
            warnings.append(f"{name}: {seen}; the file is whole, its header is stale")
        elif bear:
            warnings.append(f"{name}: truncated: {seen}; fetch the file again")
        else:
            raise VideoError(f"{name}: truncated: {seen}; fetch the file again", "truncated")
    if packets.stopped:
        warnings.append(f"{name}: cannot be read beyond {frames.end:.1f} s ({packets.stopped})")
    turn = packets.first.rotation if packets.first is not None else 0
    rotation = int(round(turn / 90) % 4 * 90)
    if rotation % 180:
        width, height = height, width
    rate = len(frames.times) / frames.end
    info = VideoInfo(frames.end, rate, width, height, rotation)
    spent = watch.seconds() if packets.doubt else 0.0
    return Listing(frames, info, packets.begin, aspect, jumps, tuple(warnings), spent)


def _check_packets(path: Path, name: str, packets: Packets, kind: str, bare: bool) -> None:
    """Raise VideoError if the packets are none that can be placed in time, or not all.

    Those of `bare` streams, which have no times, are shown one after the other.
    """
    if packets.doubt and not packets.timed and packets.bytes_read and not bare:
        raise VideoError(
            f"{name}: its frames carry no times; re-encode the file",
            kind="no times",
        )
    place = following_recording(path, kind, packets.bytes_read)
    if place:
        raise VideoError(
            f"{name}: a second recording follows the first, from byte {place} on, and "
            "would not be seen; join them anew (ffmpeg -f concat) or split the file",
            kind="several recordings",
        )


def _check_frames(name: str, frames: Frames) -> None:
    """Raise VideoError if there are none, or at times that none can have."""
    if not frames.times:
        raise VideoError(f"{name}: holds no video frames; is the file truncated?", kind="no frames")
    if frames.end <= 0:
        raise VideoError(
            f"{name}: its frames carry no usable times; re-encode the file",
            kind="no times",
        )
    if frames.end > MAX_SECONDS:
        raise VideoError(
            f"{name}: its frames are {frames.end:.0f} s apart; are its times damaged?",
            kind="absurd length",
        )


class Watch:
    """Seconds that a video takes; those that others take in between do not count."""

    def __init__(self, name: str, limit: float, taken: float = 0.0) -> None:
        self._name, self._limit, self._taken = name, limit, taken
        self._began = time.monotonic()

    def seconds(self) -> float:
        return self._taken + time.monotonic() - self._began

    def pause(self) -> None:
        self._taken = self.seconds()

    def go_on(self) -> None:
        self._began = time.monotonic()

    def check(self) -> None:
        if time.monotonic() - self._began > self._limit - self._taken:
            raise VideoError(
                f"{self._name}: decoding took more than the limit of {self._limit:g} s; "
                "raise time_limit or re-encode the file",
                kind="too slow",
            )
