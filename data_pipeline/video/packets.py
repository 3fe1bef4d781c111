"""What do a video's packets say of its frames, and can that be believed?

Each holds one frame, with the time at which it is shown. Not so where a frame comes in two packets
or a packet is not shown, where the container knows decoding times only, where the clock jumps, and
where what comes first leans on what was cut off.
"""

import errno
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import av.format

from data_pipeline.video.fields import announces_fields, may_hold_fields

_TIMED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv", "mpegts", "avi"}
"""Containers whose times are those of frames, where all frames have one."""

_ONE_EACH = {"h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4"}
"""Codecs with a frame in each packet, beside those whose frames are all key frames."""

NOT_CODED = 19
"""A packet of so few bytes may tell MPEG-4's decoder to show the frame before once more."""

_PARAMETERS = 512
"""Bytes at the beginning of a key frame's packet in which H.264's parameters are looked for."""

STILL = 0.04
"""Seconds that a single frame is shown of which no length is known."""

JUMP = 10.0
"""Seconds from frame to frame that are a jump where a container's clock may jump, as in FFmpeg."""


@dataclass
class Packets:
    """What the packets say. Times in the stream's units, as the container counts them."""

    doubt: str = ""
    """Why they are not what is shown; empty where they are."""
    shown: list[int] = field(default_factory=list)
    """When frames are shown, sorted; without those that the container has discarded."""
    keys: list[tuple[int, int]] = field(default_factory=list)
    """Key frames: when they are shown, and the time to seek for them."""
    end: int = -(2**62)
    """When the last frame ends."""
    begin: float = math.inf
    """When the first stream begins, in seconds."""
    others_end: float = -math.inf
    """When the last of the other streams ends, in seconds."""
    bytes_read: int = 0
    """The place in the file at which the last packet ends."""
    first: Any = None
    """The first frame."""
    stopped: str = ""
    """Why reading stopped, where that was no end of the file."""
    _discarded: list[int] = field(default_factory=list)
    _last: int | None = None

    @property
    def timed(self) -> bool:
        """Whether any packet has a time."""
        return bool(self.shown or self._discarded)

    def add_other(self, begin: float, end: float) -> None:
        """Take a packet of another stream, its times in seconds."""
        self.begin = min(self.begin, begin)
        self.others_end = max(self.others_end, end)

    def add(self, packet: Any, stamp: int, furthest: float) -> None:
        """Take a packet of the pictures, at most `furthest` after the one before it."""
        pts, dts, size = packet.pts, packet.dts, packet.size
        if packet.is_keyframe:
            # Containers seek by decoding or by presentation time: the earlier serves both.
            self.keys.append((stamp, stamp if dts is None else min(stamp, dts)))
        if packet.is_discard:
            self._discarded.append(stamp)
        else:
            if size:  # an empty one says that the frame before is shown on
                self.shown.append(stamp)
            self.end = max(self.end, stamp + (packet.duration or 0))
            if not self.keys or stamp < self.keys[0][0]:
                self.doubt = self.doubt or "a head that leans on what was cut off"
        if pts is None:
            self.doubt = self.doubt or "no presentation times"
        if dts is not None:
            steady = self._last is None or 0 < dts - self._last <= furthest
            if not steady or abs(stamp - dts) > furthest:
                self.doubt = self.doubt or "a clock that jumps"
            self._last = dts

    def complete(self, start: int | None, base: float) -> None:
        """All have been taken; `start` is where the container says that it begins."""
        self.shown.sort()
        shown = self.shown
        if start is not None:
            self.begin = start / av.time_base
        if shown:  # a container may not see that it begins before 0
            self.begin = min(self.begin, shown[0] * base)
        if not shown:
            return
        if len(set(shown)) < len(shown):
            self.doubt = self.doubt or "several packets at a time"
        if any(shown[0] < stamp < shown[-1] for stamp in self._discarded):
            self.doubt = self.doubt or "discarded packets between those shown"
        if self.end == shown[-1]:  # no durations: the last frame lasts as long as the others
            count = len(shown) - 1
            self.end += (shown[-1] - shown[0]) // count if count else round(STILL / base)


def read_packets(container: Any, stream: Any, bear: bool) -> Packets:
    """List all packets; decodes up to the first frame, and where `bear` on beyond faults."""
    found = Packets(_doubt_of_kind(container, stream))
    bases = [float(each.time_base or 0) for each in container.streams]
    video, base = stream.index, bases[stream.index]
    furthest = JUMP / base if may_jump(container) else math.inf
    not_shown = _NOT_SHOWN.get(stream.codec_context.codec.canonical_name)
    for packet in demuxed(container, found=found):
        size = packet.size
        stamp = packet.dts if packet.pts is None else packet.pts
        if size:
            found.bytes_read = max(found.bytes_read, (packet.pos or 0) + size)
        if packet.stream_index != video:
            if size and stamp is not None:
                unit = bases[packet.stream_index]
                found.add_other(stamp * unit, (stamp + (packet.duration or 0)) * unit)
            continue
        if stamp is not None:
            found.add(packet, stamp, furthest)
            if size and not_shown is not None and not_shown(packet):
                found.doubt = found.doubt or "packets that are not shown"
        elif size:
            found.doubt = found.doubt or "no times"
        if found.first is None and (found.keys if size else stamp is None):
            found.first = _first_frame(packet, bear)
    found.complete(container.start_time, base)
    return found


def demuxed(container: Any, *streams: Any, found: Packets | None = None) -> Iterator[Any]:
    """Packets of the streams, or of all, as far as they can be read."""
    signed = container.format.name == "flv"
    while True:
        try:
            if signed:
                yield from map(_signed, container.demux(*streams))
            else:
                yield from container.demux(*streams)
            return
        except IndexError:  # PyAV's, for a packet of a stream that begins on the way: passed over
            pass
        except av.FFmpegError as error:
            # -1 is what some demuxers say at the end of a file.
            if found is not None and error.errno != errno.EPERM:
                found.stopped = str(error.strerror)
            return


def _signed(packet: Any) -> Any:
    """A packet of FLV, whose times before 0 are kept in 31 bits or 32 and read as large ones.

    Those from 0 on follow them at 2^32.
    """
    for name in ("pts", "dts"):
        stamp = getattr(packet, name)
        if stamp is not None and stamp >= 1 << 30:
            setattr(packet, name, stamp - (1 << (31 if stamp < 3 << 30 else 32)))
    return packet


_NOT_SHOWN: dict[str, Callable[[Any], bool]] = {
    "mpeg4": lambda packet: packet.size <= NOT_CODED,
    "vp8": lambda packet: not memoryview(packet)[0] & 16,  # frames that others only refer to
    "h264": lambda packet: (
        packet.is_keyframe and announces_fields(bytes(memoryview(packet)[:_PARAMETERS]))
    ),
}
"""Whether packets from this one on may not show a frame each, by codec."""


def may_jump(container: Any) -> bool:
    """Whether the clock of such a container may jump, as FFmpeg knows it."""
    return bool(container.format.flags & av.format.Flags.ts_discont.value)


def _doubt_of_kind(container: Any, stream: Any) -> str:
    context = stream.codec_context
    codec = context.codec
    if container.format.name not in _TIMED:
        return "a container that is not known well"
    if codec.canonical_name not in _ONE_EACH and not codec.intra_only:
        return "a codec that is not known well"
    if codec.canonical_name == "h264" and may_hold_fields(context.extradata):
        return "pictures that may come as two fields"
    return ""


def _first_frame(packet: Any, bear: bool) -> Any:
    try:
        return next(iter(packet.decode()), None)
    except av.FFmpegError:
        if not bear:
            raise
        return None


def fed(container: Any, stream: Any, has_keys: bool) -> Iterator[Any]:
    """The packets that a decoder is given, from the first key frame on.

    An empty one that has a time says that the frame before is shown on; to a decoder it would be
    the end.
    """
    waiting = has_keys
    for packet in demuxed(container, stream):
        if waiting and packet.is_keyframe:
            waiting = False
        if not waiting and packet.size:
            yield packet
    last = av.Packet()  # lets the decoder give what it has kept back
    last.stream = stream
    yield last
