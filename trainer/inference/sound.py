"""What is heard in a part of a video, in one form and without gaps, whatever it was coded as?"""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from data_pipeline.video.opening import opened
from data_pipeline.video.packets import JUMP, demuxed
from data_pipeline.video.video import VideoFile

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Samples a second that AAC takes and browsers play; others become the last one."""

SLIP = 0.05
"""Seconds by which sound may be late or early before silence is put in, or some of it left out."""


def sound_stream(sink: Any, sound: Any) -> Any:
    """A stream of AAC for frames of `sound_of`."""
    return sink.add_stream("aac", rate=sound.sample_rate, layout=sound.layout.name)


def sound_of(video: VideoFile, start: float, end: float) -> Iterator[tuple[float, Any]]:
    """What is heard in [start, end), from when in it on, as PyAV's frames of floats.

    All have the rate and the number of channels, one or two, of the first one; gaps are silence.
    Nothing where a video has no sound; what cannot be decoded is passed over.
    """
    rate, layout, written = 0, "", 0
    for seconds, frame in _decoded(video, start, end):
        if not rate:
            rate = frame.sample_rate if frame.sample_rate in RATES else RATES[-1]
            layout = "mono" if len(frame.layout.channels) == 1 else "stereo"
            resample = _Resampler(layout, rate)
        samples = resample(frame)  # (channels, n)
        late = round((seconds - start) * rate) - written
        if late > SLIP * rate:
            late = min(late, round((end - start) * rate) - written)
            samples = np.concatenate((np.zeros((len(samples), late), np.float32), samples), axis=1)
        elif late < -SLIP * rate:
            samples = samples[:, -late:]
        samples = samples[:, : max(0, round((end - start) * rate) - written)]
        if not samples.shape[1]:
            continue
        heard = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), "fltp", layout)
        heard.sample_rate, heard.pts = rate, written
        yield written / rate, heard
        written += samples.shape[1]


class _Resampler:
    """Brings frames into one form; they may change theirs on the way."""

    def __init__(self, layout: str, rate: int) -> None:
        self._layout, self._rate = layout, rate
        self._form: Any = None
        self._resampler: Any = None

    def __call__(self, frame: Any) -> NDArray[np.float32]:
        """The samples (channels, n) that are known so far."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        parts = []
        if form != self._form:
            if self._resampler is not None:
                parts += self._resampler.resample(None)
            self._form = form
            self._resampler = av.AudioResampler("fltp", self._layout, self._rate)
        frame.pts = None
        parts += self._resampler.resample(frame)
        return np.concatenate([part.to_ndarray() for part in parts], axis=1)


def _decoded(video: VideoFile, start: float, end: float) -> Iterator[tuple[float, Any]]:
    """Frames of sound, and the seconds at which each begins, on a clock that does not jump."""
    with opened(video.path, video.name) as (container, _):
        audio = next((s for s in container.streams.audio if s.codec_context), None)
        if audio is None:
            return
        if not video.listing.jumps and start > 0:
            container.seek(int((video.listing.begin + start) * av.time_base), backward=True)
        later = 0.0
        expected: float | None = None
        for packet in demuxed(container, audio):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                if frame.time is None:
                    seconds = start if expected is None else expected
                else:
                    seconds = frame.time - video.listing.begin + later
                going_on = expected is None or -1 < seconds - expected < JUMP
                if video.listing.jumps and expected is not None and not going_on:
                    later += expected - seconds
                    seconds = expected
                expected = seconds + frame.samples / frame.sample_rate
                if seconds >= end:
                    return
                if expected > start:
                    yield seconds, frame
