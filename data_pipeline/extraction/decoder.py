"""How do videos become pieces of frames on actors of their own, a bounded number of them waiting?

An encoder has decoders that work ahead of it on different videos. Each holds back when two pieces
of a video wait to be taken: what is in memory does not depend on how long videos are. A video that
kills its decoder, or on which it hangs, costs that decoder and nothing else.
"""

import fcntl
import itertools
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_pipeline.errors import InputError
from data_pipeline.extraction.pictures import Pictures
from data_pipeline.extraction.pool import MAX_STARTS, cause_of
from data_pipeline.extraction.tars import Video
from data_pipeline.features.writing import Failure
from data_pipeline.storage import PART, Location, Source
from data_pipeline.video.names import find_video
from data_pipeline.video.opening import VideoError
from data_pipeline.video.video import VideoFile

Frames = NDArray[np.uint8]

Media: TypeAlias = str | Video | Pictures | Failure | None
"""Where a video is: a path or URL, its bytes, or None: in the folder of videos, under its id. A
Failure says why it is nowhere."""

Job: TypeAlias = tuple[str, Media]
"""A video's id and where it is."""

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
    clip_length, frames_per_clip, image_size, crop: as in `VideoFile.clips`
    time_limit: seconds that decoding one video may take
    retries: times that a video is tried again whose decoder died or whose file could not be read
    """

    videos: Source
    clip_length: float
    frames_per_clip: int
    image_size: int
    time_limit: float
    retries: int
    crop: float | None = None


@dataclass(frozen=True)
class Decoded:
    """The last word on a video: its duration in seconds, and those that decoding took.

    warnings: what is to be told of the file all the same, a line each.
    """

    duration: float
    seconds: float
    warnings: tuple[str, ...] = ()


class Decoder:
    """The actor: decodes one video at a time."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding

    def decode(self, vid: str, source: Media = None) -> Iterator[Frames | Decoded | Failure]:
        """Pieces (n, T, H, W, 3) of a video's clips, then Decoded; or at any point a Failure."""
        spent, began = 0.0, time.perf_counter()
        try:
            with self._opened(vid, source) as (duration, pieces, warnings):
                for piece in pieces:
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
            yield Decoded(duration, spent + time.perf_counter() - began, warnings)

    @contextmanager
    def _opened(
        self, vid: str, source: Media
    ) -> Iterator[tuple[float, Iterator[Frames], tuple[str, ...]]]:
        """A video's duration in seconds, its clips, and warnings of it.

        Raises VideoError or InputError.
        """
        decoding = self._decoding
        shape = (decoding.clip_length, decoding.frames_per_clip, decoding.image_size)
        if isinstance(source, Pictures):
            yield source.duration, source.clips(*shape, decoding.crop), ()
            return
        if isinstance(source, Video):
            place, name = _in_memory(source.data), source.name
        else:
            assert not isinstance(source, Failure)
            video = find_video(decoding.videos, vid) if source is None else Location(source)
            if video is None or not video.is_file():
                where = video or f"{decoding.videos}/{vid}.*"
                raise VideoError(f"{where}: no such video file", "missing")
            place, name = _on_disk(video), str(video)
        with place as path:
            file = VideoFile(path, name, time_limit=decoding.time_limit)
            yield (
                file.info.duration,
                file.clips(*shape, time_limit=decoding.time_limit, crop=decoding.crop),
                file.warnings,
            )


@contextmanager
def _on_disk(video: Location) -> Iterator[Path]:
    """The video as a local file: one in a store is copied first, as a demuxer seeks to and fro.

    Raises VideoError for a local one that somebody is writing, before or while it is read.
    """
    if video.local:
        before = _seen_still(video.local)
        yield video.local
        if _seen_still(video.local) != before:
            raise VideoError(f"{video}: changed while it was read", BEING_WRITTEN)
        return
    with tempfile.NamedTemporaryFile(suffix=f"-{video.name[-40:]}") as copy:
        with video.open() as stored:
            shutil.copyfileobj(stored, copy, PART)
        copy.flush()
        yield Path(copy.name)


BEING_WRITTEN = "being written"
"""Kind of failure of a file that somebody has not finished: the next run tries it again."""


def _seen_still(path: Path) -> tuple[int, int]:
    """Size and time of a file; raises VideoError if it is open for writing anywhere here."""
    try:
        with open(path, "rb", buffering=0) as file:
            try:
                # The kernel grants a lease for reading only on what nobody has open for writing.
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            except BlockingIOError as error:
                raise VideoError(f"{path}: is still being written", BEING_WRITTEN) from error
            except OSError:  # of somebody else, or on a file system that has no leases
                pass
            status = os.fstat(file.fileno())
            return status.st_size, status.st_mtime_ns
    except OSError:  # it is for the decoder to say
        return -1, -1


@contextmanager
def _in_memory(data: bytes) -> Iterator[Path]:
    """Bytes as a file that needs no disk and is gone with its process."""
    descriptor = os.memfd_create("video")
    with open(descriptor, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        yield Path(f"/proc/self/fd/{descriptor}")


@dataclass
class _Stream:
    """A video on a decoder, or next in line for it."""

    words: Any
    job: Job
    skip: int
    """Pieces that were taken from an earlier decoder of this video."""
    taken: int = 0
    silent: float = 0.0
    """Seconds that we waited for its next word in vain."""
    told: bool = False
    """Whether the last word was heard: what becomes of the decoder then is not the video's."""

    @property
    def vid(self) -> str:
        """The id of its video."""
        return self.job[0]


@dataclass
class _Line:
    """A decoder and the videos that it was given, the one that it decodes first.

    The next one is there before its turn, or the decoder would stand still from its last word on a
    video until its owner, who is encoding, has listened to it.
    """

    decoder: Any
    answer: Any
    """Comes when the decoder has started; None once it did."""
    streams: deque[_Stream] = field(default_factory=deque)


VIDEOS_AHEAD = 2
"""Videos that a decoder is given at a time."""


class _Waiting:
    """Videos that are still to be decoded: those that come back first, then the others in order.

    What is not here yet is asked for when its turn has come.
    """

    def __init__(self, videos: Iterable[Job]) -> None:
        self._videos, self._back = iter(videos), deque[Job]()

    def __bool__(self) -> bool:
        if not self._back:
            self._back.extend(itertools.islice(self._videos, 1))
        return bool(self._back)

    def take(self) -> Job:
        """The next one, if there is one."""
        return self._back.popleft()

    def put_back(self, *jobs: Job) -> None:
        """Let videos be the next ones."""
        self._back.extendleft(reversed(jobs))


class Decoders:
    """The decoders of one encoder. They are replaced when they die, and end with their owner.

    A decoder is given videos once it has answered, and none after it died: so its death is the
    doing of the video that it was decoding. Were Ray to restart it, videos that are given to it in
    between would fail one after another.
    """

    def __init__(self, decoding: Decoding, count: int, cpus: float) -> None:
        actor: Any = ray.remote(num_cpus=cpus)(Decoder)
        if not cpus:
            # They share their encoder's processors: without this, Ray would put them anywhere, also
            # on a head that is to do no work.
            here = ray.get_runtime_context().get_node_id()
            actor = actor.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, False))
        self._actor, self._decoding = actor, decoding
        self._lines = [_Line(*self._start()) for _ in range(count)]
        self._failed_starts = 0
        self._tries: Counter[str] = Counter()
        self._pieces: Counter[str] = Counter()

    def decode(self, videos: Iterable[Job]) -> Iterator[tuple[str, Frames | Decoded | Failure]]:
        """Decode videos, as many at once as there are decoders, the first ones first.

        Yields pieces as they come, those of a video in order, and at the end of each video Decoded
        or Failure, once. A video is tried again from its start, and goes on where it was.
        """
        self._tries.clear()
        self._pieces.clear()
        waiting = _Waiting(videos)
        while waiting or any(line.streams for line in self._lines):
            yield from self._deal(waiting)
            # A decoder's words are heard in its order: so it is clear of which video it died.
            heads: dict[Any, _Line] = {}
            for line in self._lines:
                if line.answer is not None:
                    heads[line.answer] = line
                elif line.streams:
                    heads[line.streams[0].words] = line
            began = time.monotonic()
            ready, _ = ray.wait(list(heads), num_returns=1, timeout=1.0)
            for ref in ready:
                if heads[ref].answer is not None:
                    self._welcome(heads[ref], waiting)
                else:
                    yield from self._hear(heads[ref], waiting)
            if not ready:
                yield from self._stop_stuck(time.monotonic() - began, waiting)

    def _start(self) -> tuple[Any, Any]:
        """A new decoder, and the answer that comes once it has started."""
        decoder = self._actor.remote(self._decoding)
        return decoder, decoder.__ray_ready__.remote()

    def _welcome(self, line: _Line, waiting: _Waiting) -> None:
        """Take a decoder's answer; raises RuntimeError if none of many lives to give it."""
        try:
            ray.get(line.answer)
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= MAX_STARTS:
                raise RuntimeError(f"decoders die while they start: {error}") from error
            self._replace(line, waiting)
        else:
            self._failed_starts, line.answer = 0, None

    def _replace(self, line: _Line, waiting: _Waiting) -> None:
        """A new decoder for one that is lost; what waited in its line is the next to be given."""
        ray.kill(line.decoder)  # one that is only cut off from us would go on
        waiting.put_back(*(stream.job for stream in line.streams))
        line.streams.clear()
        line.decoder, line.answer = self._start()

    def _deal(self, waiting: _Waiting) -> Iterator[tuple[str, Failure]]:
        """Give videos to decoders, to each one that has none before any gets a second.

        None gets a second while others start. Yields those that cannot be decoded at all.
        """
        for length in range(VIDEOS_AHEAD):
            if length and any(line.answer is not None for line in self._lines):
                return
            for line in self._lines:
                while waiting and line.answer is None and len(line.streams) == length:
                    vid, source = job = waiting.take()
                    if isinstance(source, Failure):
                        yield vid, source
                        continue
                    words = line.decoder.decode.options(
                        num_returns="streaming", _generator_backpressure_num_objects=PIECES_AHEAD
                    ).remote(vid, source)
                    line.streams.append(_Stream(words, job, self._pieces[vid]))

    def _hear(
        self, line: _Line, waiting: _Waiting
    ) -> Iterator[tuple[str, Frames | Decoded | Failure]]:
        """Take a decoder's next word; at its death try the video again."""
        stream = line.streams[0]
        stream.silent = 0.0
        try:
            word = ray.get(next(stream.words))
        except StopIteration:
            line.streams.popleft()
            return
        except RayTaskError as error:
            raise cause_of(error) from None
        except RayError:  # the decoder, its node or what it had sent is gone
            line.streams.popleft()
            self._replace(line, waiting)
            if stream.told:
                return
            word = Failure(stream.vid, "crash", f"{stream.vid}: its decoder died")
        stream.told = not isinstance(word, np.ndarray)
        if not stream.told:
            stream.taken += 1
            if stream.taken > stream.skip:
                self._pieces[stream.vid] += 1
                yield stream.vid, word
        elif isinstance(word, Failure) and self._try_again(word):
            waiting.put_back(stream.job)
        else:
            yield stream.vid, word

    def _try_again(self, failure: Failure) -> bool:
        self._tries[failure.vid] += 1
        return failure.kind in RETRIED and self._tries[failure.vid] <= self._decoding.retries

    def _stop_stuck(self, waited: float, waiting: _Waiting) -> Iterator[tuple[str, Failure]]:
        """A call into a decoder that does not return is ended with its process."""
        patience = self._decoding.time_limit + GRACE
        for line in self._lines:
            if not line.streams:
                continue
            stream = line.streams[0]
            stream.silent += waited
            if stream.silent > patience:
                line.streams.popleft()
                self._replace(line, waiting)
                if stream.told:
                    continue
                cause = f"{stream.vid}: a single decoding step took over {patience:g} s"
                yield stream.vid, Failure(stream.vid, "too slow", cause)
