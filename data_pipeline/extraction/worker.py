"""What does one encoding actor do: make a shard, from its planned videos to its commit.

Ahead of the shards it encodes sentences that several rows share, see
`data_pipeline.extraction.sentences`.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.decoder import Decoded, Decoders, Decoding
from data_pipeline.extraction.encoding import (
    ClipFeatures,
    FeatureEncoder,
    Frames,
    SentenceFeatures,
)
from data_pipeline.extraction.plan import PlannedSentences, PlannedShard, PlannedVideo
from data_pipeline.extraction.pool import Seconds, SentencesDone, Task, VideoDone, Word
from data_pipeline.extraction.sentences import SharedSentences, make_sample, write_sentences
from data_pipeline.features.samples import Sample
from data_pipeline.features.writing import Failure, ShardWriter
from data_pipeline.storage import Source
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
    ) -> None:
        self._encoder = FeatureEncoder(config)
        self._decoders = Decoders(decoding, decoders, decoder_cpus)
        self._output = output
        self._shared = SharedSentences(output)
        self._durations: dict[str, float] = {}
        self._unread: list[tuple[int | str, int]] = []  # of the shard in hand: qid, tokens
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
        order = deque(planned)  # videos come as they are ready and are stored as planned
        results: dict[str, Sample | Failure] = {}
        failures: list[Failure] = []
        self._unread.clear()
        with ShardWriter(self._output, shard.name) as writer:
            for vid, result in self._encoder.encode_clips(self._pieces(list(planned))):
                if isinstance(result, InputError):
                    kind = result.kind if isinstance(result, VideoError) else "unusable"
                    results[vid] = failure = Failure(vid, kind, str(result))
                    done = VideoDone(vid, failure=failure)
                else:
                    results[vid] = self._sample(planned[vid], result, shard.repeated)
                    done = VideoDone(vid, clips=len(result))
                while order and order[0] in results:
                    ready = results.pop(order.popleft())
                    if isinstance(ready, Failure):
                        failures.append(ready)
                    else:
                        with self._writing():
                            writer.add(ready)
                yield dataclasses.replace(done, seconds=self._take_seconds())
            with self._writing():
                writer.commit(failures, self._unread)
        yield self._take_seconds()

    def _pieces(self, vids: Sequence[str]) -> Iterator[tuple[str, Frames | InputError | None]]:
        """What the decoders send, as the encoder takes it; notes durations and times."""
        began = time.perf_counter()
        for vid, word in self._decoders.decode(vids):
            self._waited += time.perf_counter() - began
            if isinstance(word, Failure):
                yield vid, VideoError(word.cause, word.kind)
            elif isinstance(word, Decoded):
                self._durations[vid] = word.duration
                self._spent.decode += word.seconds
                yield vid, None
            else:
                yield vid, word
            began = time.perf_counter()

    def _sample(
        self, video: PlannedVideo, clips: ClipFeatures, repeated: Mapping[str, int]
    ) -> Sample:
        texts = [self._text(row.query, repeated) for row in video.annotations]
        for row, text in zip(video.annotations, texts, strict=True):
            if text.unread:
                self._unread.append((row.qid, text.unread))
        return make_sample(
            video.vid,
            self._durations.pop(video.vid),
            self._encoder.config.clip_length,
            clips,
            video.annotations,
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
