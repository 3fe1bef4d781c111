"""What one actor does: make a shard, from its planned videos to its commit."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.encoding import EncoderConfig, FeatureEncoder, Frames
from data_pipeline.errors import InputError
from data_pipeline.plan import PlannedShard, PlannedVideo, find_video
from data_pipeline.samples import Half, Sample, StoredQuery
from data_pipeline.shard_writing import Failure, ShardWriter
from data_pipeline.storage import TEMPORARY
from data_pipeline.video import VideoError, VideoFile

SENTENCES_KEPT = 4096
"""Distinct sentences whose features a worker remembers, so that it encodes each of them once."""


@dataclass
class Seconds:
    """Where a worker's time went."""

    decode: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def __iadd__(self, other: "Seconds") -> "Seconds":
        self.decode += other.decode
        self.encode += other.encode
        self.write += other.write
        return self


@dataclass(frozen=True)
class VideoDone:
    """A video was stored (`failure` is None) or set aside."""

    vid: str
    clips: int = 0
    failure: Failure | None = None
    seconds: Seconds = field(default_factory=Seconds)


def current_file(folder: Path, shard: str) -> Path:
    """Holds the id of the video that a worker has in hand; read when the worker dies of it."""
    return folder / f".{shard}.current{TEMPORARY}"


class Worker:
    """Makes shards of one split, one at a time."""

    def __init__(
        self, config: EncoderConfig, videos: Path, output: Path, time_limit: float
    ) -> None:
        self._encoder = FeatureEncoder(config)
        self._videos, self._output, self._time_limit = videos, output, time_limit
        self._sentences: dict[str, Half] = {}

    def load(self) -> None:
        """Load the encoders; a worker that answers is ready."""
        self._encoder.load()

    def make(self, shard: PlannedShard, given_up: dict[str, Failure]) -> Iterator[VideoDone]:
        """Make and commit a shard, telling of each video; those in `given_up` are not tried."""
        spent = Seconds()
        durations: dict[str, float] = {}
        failures: list[Failure] = []
        clips = (
            (video, self._clips(video, shard.name, given_up, durations, spent))
            for video in shard.videos
        )
        with ShardWriter(self._output, shard.name) as writer:
            mark = time.perf_counter()
            for video, result in self._encoder.encode_clips(clips):
                failure = None
                if isinstance(result, InputError):
                    failure = _failure(video.vid, result)
                    failures.append(failure)
                else:
                    sample = self._sample(video, result, durations[video.vid])
                    began = time.perf_counter()
                    writer.add(sample)
                    spent.write += time.perf_counter() - began
                now = time.perf_counter()
                encode = now - mark - spent.decode - spent.write
                count = 0 if isinstance(result, InputError) else len(result)
                seconds = Seconds(spent.decode, encode, spent.write)
                yield VideoDone(video.vid, count, failure, seconds)
                spent.decode = spent.write = 0.0
                mark = time.perf_counter()
            writer.commit(failures)
        current_file(self._output, shard.name).unlink(missing_ok=True)

    def _clips(
        self,
        video: PlannedVideo,
        shard: str,
        given_up: dict[str, Failure],
        durations: dict[str, float],
        spent: Seconds,
    ) -> Iterator[Frames]:
        """Decoded pieces of a planned video; notes its duration and the time taken."""
        if video.vid in given_up:
            raise VideoError(given_up[video.vid].cause, given_up[video.vid].kind)
        began = time.perf_counter()
        current_file(self._output, shard).write_text(video.vid, encoding="utf-8")
        path = find_video(self._videos, video.vid)
        if path is None:
            raise VideoError(f"{self._videos / video.vid}.*: no such video file", kind="missing")
        try:
            file = VideoFile(path)
            durations[video.vid] = file.info.duration
            for piece in self._encoder.decode(file, time_limit=self._time_limit):
                spent.decode += time.perf_counter() - began
                yield piece
                began = time.perf_counter()
        except InputError:
            raise
        except Exception as error:
            # One video must not cost the others, whatever a damaged file trips in the decoder: it
            # is recorded with its cause, and too many of them make the job fail.
            raise VideoError(f"{path}: {type(error).__name__}: {error}", "unexpected") from error
        finally:
            spent.decode += time.perf_counter() - began

    def _sample(self, video: PlannedVideo, features: Half, duration: float) -> Sample:
        texts = [self._text(annotation.query) for annotation in video.annotations]
        ends = np.cumsum([len(text) for text in texts]).tolist()
        return Sample(
            vid=video.vid,
            duration=duration,
            clip_length=self._encoder.config.clip_length,
            video=features,
            text=np.concatenate(texts),
            queries=tuple(
                StoredQuery(annotation, (end - len(text), end))
                for annotation, text, end in zip(video.annotations, texts, ends, strict=True)
            ),
        )

    def _text(self, sentence: str) -> Half:
        if sentence not in self._sentences:
            if len(self._sentences) >= SENTENCES_KEPT:
                self._sentences.pop(next(iter(self._sentences)))
            (self._sentences[sentence],) = self._encoder.encode_text([sentence])
        return self._sentences[sentence]


def _failure(vid: str, error: InputError) -> Failure:
    return Failure(vid, error.kind if isinstance(error, VideoError) else "unusable", str(error))
