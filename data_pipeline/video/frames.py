"""Which frames does a video show, and when?

Where its packets can be believed, they tell. Elsewhere frames are what the decoder gives, in the
order in which it gives them.
"""

import bisect
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from data_pipeline.video.packets import JUMP, NOT_CODED, STILL, Packets, fed, may_jump

Damage = tuple[tuple[float, float], ...]
"""Seconds from and to, in order of time and apart from each other."""

BACK = 0.1
"""Seconds that a clock must go back to have begun anew; less are taken for a muxer's slip."""


@dataclass(frozen=True)
class Frames:
    """The frames that a video shows, in the order in which it shows them.

    times: when each begins, ascending, in seconds since the start of the earliest stream. end: when
    the last ends. key_times: when key frames are shown. damaged: seconds found damaged by listing.
    lost: the first moment from which many packets on show nothing at all.
    stamps: where the packets told, the presentation time of each, in the stream's units. keys: key
    frames, by that time and the one to seek for.
    """

    times: list[float]
    end: float
    key_times: list[float]
    keys: list[tuple[int, int]]
    stamps: list[int] | None = None
    damaged: Damage = ()
    lost: float | None = None


def frames_of_packets(packets: Packets, base: float) -> Frames:
    """What packets that can be trusted show; `base` is the seconds of a unit."""
    begin = packets.begin
    times = [stamp * base - begin for stamp in packets.shown]
    keys = [key * base - begin for key, _ in packets.keys]
    end = packets.end * base - begin
    return Frames(times, end, keys, packets.keys, packets.shown)


@dataclass
class _Given:
    """A packet that was given to the decoder."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool
    discard: bool
    size: int


def _silent(given: Sequence[_Given], shown: Sequence[int], still: int) -> list[int]:
    """Packets of which, as of many beside them, nothing is shown: of another codec, for one.

    Single ones need not be: second fields, and what others only refer to. Those of up to `still`
    bytes say that the frame before is shown on.
    """
    seen, runs = set(shown), list[list[int]]()
    last = False
    for number, packet in enumerate(given):
        silent = number not in seen and not packet.discard and packet.size > still
        if silent and not last:
            runs.append([])
        if silent:
            runs[-1].append(number)
        last = silent
    return [number for run in runs if len(run) > MOST_SILENT for number in run]


MOST_SILENT = 16
"""Packets one after another that may show nothing: no codec holds back more of its frames."""


def list_by_decoding(
    container: Any,
    stream: Any,
    packets: Packets,
    check: Callable[[], None],
    rate: float | None = None,
) -> Frames:
    """The frames that the decoder shows of the packets in `fed`; calls `check` after each one.

    Packets are numbered in place of their presentation times: a frame comes out with the number of
    the packet that it came in. Faults are noted; what the decoder shows in spite of them counts.
    Packets without any times show `rate` frames a second.
    """
    given: list[_Given] = []
    shown: list[int] = []
    faults: list[int] = []
    stream.codec_context.options |= {"skip_loop_filter": "all"}  # no look at the pictures is taken
    for number, packet in enumerate(fed(container, stream, bool(packets.keys))):
        size, duration = packet.size, packet.duration or 0
        key, discard = packet.is_keyframe, packet.is_discard
        if size:
            given.append(_Given(packet.pts, packet.dts, duration, key, discard, size))
            packet.pts = number
        try:
            for frame in packet.decode():
                shown.append(min(number, len(given) - 1) if frame.pts is None else frame.pts)
                if frame.is_corrupt:
                    faults.append(shown[-1])
        except av.FFmpegError:
            faults.append(min(number, len(given) - 1))
        check()
    base = float(stream.time_base)
    if rate is not None:
        for place, number in enumerate(shown):
            given[number].pts = round(place / rate / base)
    jump = JUMP / base if may_jump(container) else math.inf
    clock = _Clock(given, shown, jump, BACK / base, STILL / base)
    if clock.times and not 0 <= clock.times[0] - packets.begin / base <= jump:
        packets.begin = clock.times[0] * base  # the container took what comes late for the first
    begin = packets.begin
    times = [stamp * base - begin for stamp in clock.times]
    keys = [moment for number, moment in zip(shown, times, strict=True) if given[number].key]
    end = max([clock.end * base - begin, *times[-1:]])
    still = NOT_CODED if stream.codec_context.codec.canonical_name == "mpeg4" else 0
    silent = _silent(given, shown, still)
    moments = [clock.moment(number) * base - begin for number in (*faults, *silent)]
    spans = [until_key(moment, keys, end) for moment in moments]
    lost = clock.moment(silent[0]) * base - begin if silent else None
    return Frames(times, end, keys, packets.keys, damaged=merged(spans), lost=lost)


class _Clock:
    """When frames are shown, on one clock that does not jump, in the stream's units.

    given: the packets; shown: the numbers of those that frames came in, in the order in which they
    are shown. A clock that goes back by more than `back` has begun anew, as where recordings are
    joined; one that goes on by more than `jump` has jumped. From there time goes on as before. A
    single frame of which nothing tells how long it is shown lasts for `still`.
    """

    def __init__(
        self, given: Sequence[_Given], shown: Sequence[int], jump: float, back: float, still: float
    ) -> None:
        self._given, self._jump, self._back = given, jump, back
        self._lasting = any(packet.duration for packet in given)
        self._step = statistics.median(packet.duration for packet in given) if given else 0.0
        if len(given) == 1:
            self._step = self._step or still
        self._parts: list[tuple[int, float]] = [(0, 0.0)]  # packets from this one on are later by
        stamps = [given[number].pts for number in shown]
        decoded = [packet.dts for packet in given]
        if None in stamps and None not in decoded:
            # Decoding times alone are known: the first frame is shown at the first one, and so on.
            moments = self._going_on(decoded, range(len(decoded)))
            self.times = sorted(moments[number] for number in shown)
            delay = (stamps[0] or 0) - (decoded[shown[0]] or 0) if stamps[0] is not None else 0
            self.times = [moment + delay for moment in self.times]
        else:
            self.times = self._going_on(stamps, shown)

    def _going_on(self, stamps: Sequence[int | None], numbers: Sequence[int]) -> list[float]:
        """Moments that go on where stamps do not; unknown ones lie between those known."""
        known: list[tuple[int, float]] = []
        later = 0.0
        steps: list[float] = []
        for place, stamp in enumerate(stamps):
            if stamp is None:
                continue
            moment = stamp + later
            if known:
                before, passed = known[-1]
                step = (moment - passed) / (place - before)
                if moment < passed - self._back or moment - passed > self._jump:
                    usual = statistics.median(steps) if steps else self._step
                    moment = passed + usual * (place - before)
                    later = moment - stamp
                    self._parts.append((numbers[place], later))
                elif step > 0:
                    steps.append(step)
                else:
                    continue
            known.append((place, moment))
        if not known:
            return []
        self._step = statistics.median(steps) if steps else self._step
        places, moments = (np.array(column, float) for column in zip(*known, strict=True))
        wanted = np.arange(len(stamps))
        times = np.interp(wanted, places, moments)
        times += self._step * (
            np.maximum(0, wanted - places[-1]) - np.maximum(0, places[0] - wanted)
        )
        return [float(moment) for moment in times]

    def moment(self, number: int) -> float:
        """When what came in a packet would be shown."""
        packet = self._given[number]
        stamp = packet.dts if packet.pts is None else packet.pts
        part = bisect.bisect_right(self._parts, (number, math.inf)) - 1
        return (stamp or 0) + self._parts[max(0, part)][1]

    @property
    def end(self) -> float:
        """When the last frame ends; without durations of packets it is as long as the others."""
        if not self.times:
            return 0.0
        first = self._parts[-1][0]
        ends = [
            self.moment(number) + self._given[number].duration
            for number in range(first, len(self._given))
            if not self._given[number].discard
        ]
        end = max(ends, default=0.0)
        return end if self._lasting and end > self.times[-1] else self.times[-1] + self._step


def until_key(moment: float, keys: Sequence[float], end: float) -> tuple[float, float]:
    """The seconds that a fault at `moment` damages: up to the next of the key frames' times."""
    start = min(max(0.0, moment), end)
    following = bisect.bisect_right(keys, start + 1e-6)
    return start, keys[following] if following < len(keys) else end


def merged(spans: Iterable[tuple[float, float]]) -> Damage:
    """Spans in order of time, those that touch put together."""
    together: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if together and start <= together[-1][1]:
            together[-1] = (together[-1][0], max(end, together[-1][1]))
        else:
            together.append((start, end))
    return tuple(together)
