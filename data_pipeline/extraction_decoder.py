"""How do videos become pieces of frames on actors of their own, a bounded number of them waiting?

An encoder has decoders that work ahead of it on different videos. Each holds back when two pieces
of its video wait to be taken: what is in memory does not depend on how long videos are. A video
that kills its decoder, or on which it hangs, costs that decoder and nothing else.
"""

import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_pipeline.errors import InputError
from data_pipeline.plan import find_video
from data_pipeline.shard_pool import cause_of
from data_pipeline.shard_writing import Failure
from data_pipeline.storage import PART, Location, Source
from data_pipeline.video import VideoError, VideoFile

Frames = NDArray[np.uint8]

PIECES_AHEAD = 2
"""Pieces of a video that wait to be taken before its decoder holds back."""

GRACE = 30.0
"""Seconds beyond the time limit after which a decoder that says nothing is taken for stuck."""

RETRIED = ("crash", "io")
"""Classes of causes that may pass: the other failures are the file's own."""


@dataclass(frozen=True)
class Decoding:
    """Attributes:
    videos: folder of the videos, or its URL in an object store
    clip_length, frames_per_clip, image_size: as in `VideoFile.clips`
    time_limit: seconds that decoding one video may take
    retries: times that a video is tried again whose decoder died or whose file could not be read
    """

    videos: Source
    clip_length: float
    frames_per_clip: int
    image_size: int
    time_limit: float
    retries: int


@dataclass(frozen=True)
class Decoded:
    """The last word on a video: its duration in seconds, and those that decoding took."""

    duration: float
    seconds: float


class Decoder:
    """The actor: decodes one video at a time."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def decode(self, vid: str) -> Iterator[Frames | Decoded | Failure]:
        """Pieces (n, T, H, W, 3) of a video's clips, then Decoded; or at any point a Failure."""
        decoding = self._decoding
        spent, began = 0.0, time.perf_counter()
        try:
            video = find_video(decoding.videos, vid)
            if video is None:
                raise VideoError(f"{decoding.videos}/{vid}.*: no such video file", "missing")
            with _on_disk(video) as path:
                file = VideoFile(path, name=str(video))
                for piece in file.clips(
                    decoding.clip_length,
                    decoding.frames_per_clip,
                    decoding.image_size,
                    time_limit=decoding.time_limit,
                ):
                    spent += time.perf_counter() - began
                    yield piece
                    began = time.perf_counter()
        except VideoError as error:
            yield Failure(vid, error.kind, str(error))
        except InputError as error:  # of the storage
            yield Failure(vid, "io", str(error))
        except Exception as error:
            # One video must not cost the others, whatever a damaged file trips in the decoder: it
            # is recorded with its cause, and too many of them make the job fail.
            cause = " ".join(str(error).split())
            yield Failure(vid, "unexpected", f"{vid}: {type(error).__name__}: {cause}")
        else:
            yield Decoded(file.info.duration, spent + time.perf_counter() - began)


@contextmanager
def _on_disk(video: Location) -> Iterator[Path]:
    """The video as a local file: one in a store is copied first, as a demuxer seeks to and fro."""
    if video.local:
        yield video.local
        return
    with tempfile.NamedTemporaryFile(suffix=f"-{video.name}") as copy:
        with video.open() as stored:
            shutil.copyfileobj(stored, copy, PART)
        copy.flush()
        yield Path(copy.name)


@dataclass
class _Stream:
    """A video on a decoder."""

    decoder: Any
    vid: str
    skip: int
    """Pieces that were taken from an earlier decoder of this video."""
    taken: int = 0
    heard: float = field(default_factory=time.monotonic)


class Decoders:
    """The decoders of one encoder. They are restarted when they die, and end with their owner."""

    def __init__(self, decoding: Decoding, count: int, cpus: float) -> None:
        actor: Any = ray.remote(num_cpus=cpus, max_restarts=-1)(Decoder)
        if not cpus:
            # They share their encoder's processors: without this, Ray would put them anywhere, also
            # on a head that is to do no work.
            here = ray.get_runtime_context().get_node_id()
            actor = actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, False))
        self._decoding = decoding
        self._idle = [actor.remote(decoding) for _ in range(count)]
        self._running: dict[Any, _Stream] = {}
        self._tries: Counter[str] = Counter()
        self._pieces: Counter[str] = Counter()

    def decode(self, vids: Sequence[str]) -> Iterator[tuple[str, Frames | Decoded | Failure]]:
        """Decode videos, as many at once as there are decoders, the first ones first.

        Yields pieces as they come, those of a video in order, and at the end of each video Decoded
        or Failure, once. A video is tried again from its start, and goes on where it was.
        """
        self._tries.clear()
        self._pieces.clear()
        waiting = deque(vids)
        while waiting or self._running:
            while waiting and self._idle:
                self._start(self._idle.pop(), waiting.popleft())
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=1.0)
            for stream in ready:
                yield from self._hear(stream, waiting)
            if not ready:
                yield from self._stop_stuck()

    def _start(self, decoder: Any, vid: str) -> None:
        stream = decoder.decode.options(
            num_returns="streaming", _generator_backpressure_num_objects=PIECES_AHEAD
        ).remote(vid)
        self._running[stream] = _Stream(decoder, vid, self._pieces[vid])

    def _hear(
        self, stream: Any, waiting: deque[str]
    ) -> Iterator[tuple[str, Frames | Decoded | Failure]]:
        """Take a decoder's next word; at its death try the video again."""
        state = self._running[stream]
        state.heard = time.monotonic()
        try:
            word = ray.get(next(stream))
        except StopIteration:
            del self._running[stream]
            self._idle.append(state.decoder)
            return
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayError:  # the decoder, its node or what it had sent is gone
            del self._running[stream]
            self._idle.append(state.decoder)  # Ray is restarting it
            word = Failure(state.vid, "crash", f"{state.vid}: its decoder died")
        if isinstance(word, np.ndarray):
            state.taken += 1
            if state.taken > state.skip:
                self._pieces[state.vid] += 1
                yield state.vid, word
        elif isinstance(word, Failure) and self._try_again(word):
            waiting.appendleft(state.vid)
        else:
            yield state.vid, word

    def _try_again(self, failure: Failure) -> bool:
        self._tries[failure.vid] += 1
        return failure.kind in RETRIED and self._tries[failure.vid] <= self._decoding.retries

    def _stop_stuck(self) -> Iterator[tuple[str, Failure]]:
        """A call into the decoder that does not return is ended with its process."""
        patience = self._decoding.time_limit + GRACE
        for stream, state in list(self._running.items()):
            if time.monotonic() - state.heard > patience:
                ray.kill(state.decoder, no_restart=False)
                del self._running[stream]
                self._idle.append(state.decoder)
                cause = f"{state.vid}: a single decoding step took over {patience:g} s"
                yield state.vid, Failure(state.vid, "too slow", cause)
