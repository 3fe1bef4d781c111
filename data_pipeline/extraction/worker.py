"""What does one encoding actor do: make a shard, from its planned videos to its commit.

Ahead of the shards it encodes sentences that several rows share, see
`data_pipeline.extraction.sentences`.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from data_pipeline.annotations import Annotation
from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.decoder import Decoded, Decoders, Decoding, Job
from data_pipeline.extraction.encoding import (
    ClipFeatures,
    FeatureEncoder,
    Frames,
    SentenceFeatures,
)
from data_pipeline.extraction.plan import PlannedSentences, PlannedShard, PlannedVideo
from data_pipeline.extraction.pool import Seconds, SentencesDone, Task, VideoDone, Word
from data_pipeline.extraction.sentences import SharedSentences, make_sample, write_sentences
from data_pipeline.extraction.tars import read_tar
from data_pipeline.features.samples import Sample
from data_pipeline.features.writing import Failure, ShardWriter
from data_pipeline.storage import Location, Source
from data_pipeline.video.opening import VideoError


class Extractor:
    """Makes shards of one split, one at a time, from what its own decoders send it."""

    def __init__(
        self,
        config: EncoderConfig,
        decoding: Decoding,
        decoders: int,
        decoder_cpus: float,
        output: Source,
        captions: bool = False,
    ) -> None:
        self._encoder = FeatureEncoder(config)
        self._decoders = Decoders(decoding, decoders, decoder_cpus)
        self._output = output
        self._shared = SharedSentences(output)
        self._captions = captions
        self._caption: dict[str, str] = {}
        self._durations: dict[str, float] = {}
        self._unread: dict[str, list[tuple[int | str, int]]] = {}  # of a video: qid, tokens
        self._warnings: dict[str, tuple[str, ...]] = {}
        self._spent = Seconds()
        self._waited = 0.0
        self._mark = 0.0

    def load(self) -> None:
        """Load the encoders; a worker that answers is ready."""
        self._encoder.load()

    def make(self, task: Task) -> Iterator[Word]:
        """Make and commit a shard, telling of each video; or the file of shared sentences."""
        self._mark = time.perf_counter()
        if isinstance(task, PlannedSentences):
            yield self._encode(task)
        else:
            yield from self._extract(task)

    def _encode(self, planned: PlannedSentences) -> SentencesDone:
        features = self._encoder.encode_sentences(planned.sentences)
        with self._writing():
            write_sentences(self._output, planned.name, features)
        return SentencesDone(len(features), self._take_seconds())

    def _extract(self, shard: PlannedShard) -> Iterator[VideoDone | Seconds]:
        planned = {video.vid: video for video in shard.videos}
        order: deque[str] = deque()  # videos come as they are ready and are stored as planned
        jobs = self._jobs(shard, planned, order)
        results: dict[str, Sample | Failure] = {}
        failures: list[Failure] = []
        unread: list[tuple[int | str, int]] = []
        warnings: list[tuple[str, str]] = []
        with ShardWriter(self._output, shard.name) as writer:
            for vid, result in self._encoder.encode_clips(self._pieces(jobs)):
                if isinstance(result, InputError):
                    kind = result.kind if isinstance(result, VideoError) else "unusable"
                    results[vid] = failure = Failure(vid, kind, str(result))
                    done = VideoDone(vid, failure=failure)
                else:
                    results[vid] = self._sample(planned.pop(vid), result, shard.repeated)
                    done = VideoDone(vid, clips=len(result))
                while order and order[0] in results:
                    ready = results.pop(order.popleft())
                    if isinstance(ready, Failure):
                        failures.append(ready)
                    else:
                        with self._writing():
                            writer.add(ready)
                        unread += self._unread.pop(ready.vid, [])
                        warnings += (
                            (ready.vid, line) for line in self._warnings.pop(ready.vid, ())
                        )
                yield dataclasses.replace(done, seconds=self._take_seconds())
            with self._writing():
                writer.commit(failures, unread, warnings=warnings)
        yield self._take_seconds()

    def _jobs(
        self, shard: PlannedShard, planned: dict[str, PlannedVideo], order: deque[str]
    ) -> Iterator[Job]:
        """The videos of a shard, noted in `order`; those of a tar are noted in `planned` too."""
        if shard.tar is None:
            for video in shard.videos:
                order.append(video.vid)
                yield video.vid, video.path
            return
        for sample in read_tar(Location(shard.tar), shard.prefix):
            order.append(sample.vid)
            planned[sample.vid] = PlannedVideo(sample.vid, ())
            if self._captions and sample.caption:
                self._caption[sample.vid] = sample.caption
            yield sample.vid, sample.shows

    def _pieces(self, jobs: Iterable[Job]) -> Iterator[tuple[str, Frames | InputError | None]]:
        """What the decoders send, as the encoder takes it; notes the rest of what they say."""
        began = time.perf_counter()
        for vid, word in self._decoders.decode(jobs):
            self._waited += time.perf_counter() - began
            if isinstance(word, Failure):
                yield vid, VideoError(word.cause, word.kind)
            elif isinstance(word, Decoded):
                self._durations[vid], self._warnings[vid] = word.duration, word.warnings
                self._spent.decode += word.seconds
                yield vid, None
            else:
                yield vid, word
            began = time.perf_counter()

    def _sample(
        self, video: PlannedVideo, clips: ClipFeatures, repeated: Mapping[str, int]
    ) -> Sample:
        duration = self._durations.pop(video.vid)
        annotations = video.annotations
        if caption := self._caption.pop(video.vid, None):
            # It speaks of all of the video.
            annotations = (Annotation(video.vid, caption, video.vid, duration, ((0.0, duration),)),)
        texts = [self._text(row.query, repeated) for row in annotations]
        for row, text in zip(annotations, texts, strict=True):
            if text.unread:
                self._unread.setdefault(video.vid, []).append((row.qid, text.unread))
        return make_sample(
            video.vid,
            duration,
            self._encoder.config.clip_length,
            clips,
            annotations,
            texts,
            self._encoder.text_shape,
        )

    def _text(self, sentence: str, repeated: Mapping[str, int]) -> SentenceFeatures:
        if sentence in repeated:
            return self._shared.read(repeated[sentence])
        (features,) = self._encoder.encode_sentences([sentence])
        return features

    @contextmanager
    def _writing(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._spent.write += time.perf_counter() - began

    def _take_seconds(self) -> Seconds:
        """Time spent since the last call: what was not waiting or writing was encoding."""
        spent, now = self._spent, time.perf_counter()
        spent.encode = now - self._mark - self._waited - spent.write
        self._spent, self._waited, self._mark = Seconds(), 0.0, now
        return spent
