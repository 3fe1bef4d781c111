"""What does one process contribute to each batch, and how does it read no byte twice?

A process reads the pairs of its lanes. It keeps a video between the pairs of one visit (the video's
pairs within a lane's window), as long as there is room in its buffer, and reads of the text only
the sentences that it serves.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from data_pipeline.config import ReadingConfig, ShapesConfig, padded
from data_pipeline.errors import InputError
from data_pipeline.features.samples import Damaged
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream import memory
from data_pipeline.stream.batches import BatchBuffer, Empty, Half, PairBatch
from data_pipeline.stream.fetching import Fetcher, Visit, make_fetcher
from data_pipeline.stream.order import Ints, Order, Pairs, Share

Flags = NDArray[np.bool_]

MOST_DAMAGED = 1000
"""Pairs in a row without a whole one after which reading stops: there is nothing to go on with."""


@dataclass(frozen=True)
class Dropout:
    """What training leaves out of a pair, drawn from (seed, epoch, pair) whoever reads it.

    `clips` and `text` are the probabilities with which a clip and a token are zeroed; one of each
    always stays.
    """

    clips: float
    text: float
    seed: int
    epoch: int

    def apply(self, pair: int, video: Half, text: Half) -> None:
        """Zero clips of `video` (L, K, Dv) and tokens of `text` (T, K, Dt) in place."""
        if not (self.clips or self.text):
            return
        random = np.random.default_rng([self.seed, self.epoch, pair])
        for features, probability in ((video, self.clips), (text, self.text)):
            dropped = random.random(len(features)) < probability
            dropped[random.integers(len(features))] = False
            features[dropped] = 0


@dataclass(frozen=True)
class Serving:
    """Batches `batches` of `size` pairs of an order, to what they are padded, and what is done to
    their pairs."""

    order: Order
    size: int
    batches: range
    shapes: ShapesConfig
    dropout: Dropout | None = None
    skip_damaged: bool = False


class Parts(IterableDataset[tuple[PairBatch | None, Ints]]):
    """What one loader worker contributes to each batch: its pairs, and their rows in the batch."""

    def __init__(
        self,
        features: FeatureSet,
        pairs: Pairs,
        serving: Serving,
        config: ReadingConfig,
        share: Share,
    ) -> None:
        self._features, self._pairs, self._serving = features, pairs, serving
        self._config, self._share = config, share

    def __iter__(self) -> Iterator[tuple[PairBatch | None, Ints]]:
        worker, share = get_worker_info(), self._share
        empty: Empty = memory.pinned if torch.cuda.is_available() else memory.reused
        if worker:
            share = dataclasses.replace(share, worker=worker.id, workers=worker.num_workers)
            empty = memory.shared
        serving, size = self._serving, self._serving.size
        reader = _Reader(self._features, self._pairs, serving, self._config, share)
        try:
            for batch in serving.batches:
                start, stop = batch * size, (batch + 1) * size
                positions, places = share.rows(start, stop, serving.order.lanes)
                if not len(places):
                    yield None, places
                    continue
                yield reader.read(positions[places], start, stop, empty), places
        finally:
            reader.close()


class _Reader:
    """Reads the pairs of one share, in the order of their positions."""

    def __init__(
        self,
        features: FeatureSet,
        pairs: Pairs,
        serving: Serving,
        config: ReadingConfig,
        share: Share,
    ) -> None:
        self._features, self._pairs, self._serving = features, pairs, serving
        self._order = serving.order
        batches, size = serving.batches, serving.size
        rows, mine = share.rows(batches.start * size, batches.stop * size, self._order.lanes)
        positions = rows[mine]
        visits, first, self._last = _visits(positions, self._order, pairs)
        self._visit_of = visits
        self._served = 0  # of `positions`
        self._room = config.buffer_mb * 2**20
        self._held: dict[int, Visit] = {}
        self._damaged: dict[int, Damaged] = {}
        self._fetcher: Fetcher = make_fetcher(
            features,
            (self._sample(int(position)) for position in positions[first]),
            config.connections,
            config.cache,
            int(config.cache_gb * 1e9),
        )

    def read(self, positions: Ints, start: int, stop: int, empty: Empty) -> PairBatch:
        """The next of this share's positions, which lie in the global batch [start, stop).

        All ranks pad to the longest of the global batch, or to the configured length above it, so
        that every rank may stand in for a damaged pair with the same other one.
        """
        of_batch = self._pair(np.arange(start, stop))
        clips = int(self._pairs.clips[of_batch].max())
        tokens = int(self._pairs.tokens[of_batch].max())
        features, damaged, shapes = self._features, list[str](), self._serving.shapes
        buffer = BatchBuffer(
            len(positions),
            padded(clips, shapes.clips),
            padded(tokens, shapes.tokens),
            features.video_shape,
            features.text_shape,
            empty,
        )
        for position in positions.tolist():
            repeated = position >= len(self._order)
            visit, last = int(self._visit_of[self._served]), bool(self._last[self._served])
            self._served += 1
            try:
                self._fill(buffer, self._pair(position), repeated, visit, last)
            except Damaged as error:
                if not self._serving.skip_damaged:
                    raise
                damaged.append(str(error))
                self._replace(buffer, position, clips, tokens)
        return buffer.finish(damaged, shapes.windows)

    def _fill(
        self, buffer: BatchBuffer, pair: int, repeated: bool, visit_number: int | None, last: bool
    ) -> None:
        """Read a pair into the next row; raises Damaged."""
        sample, query = int(self._pairs.sample[pair]), int(self._pairs.query[pair])
        clips, tokens = int(self._pairs.clips[pair]), int(self._pairs.tokens[pair])
        video, text = buffer.row(clips, tokens)
        if sample in self._damaged:
            raise self._damaged[sample]
        try:
            visit = self._visit(sample, visit_number, last)
            visit.read_video(video)
        except Damaged as error:
            self._damaged[sample] = error
            raise
        visit.read_text(query, text)
        if self._serving.dropout:
            self._serving.dropout.apply(pair, video, text)
        annotation = visit.queries[query].annotation
        clip_length = self._features.provenance.clip_length
        sentences = (each.annotation.query for each in visit.queries)
        buffer.add(clips, tokens, annotation, clip_length, repeated, sentences)

    def _visit(self, sample: int, number: int | None, last: bool) -> Visit:
        """The visit of this number, kept between its pairs if there is room."""
        if number in self._held:
            visit = self._held[number]
            if last:
                del self._held[number]
                self._room += visit.size
            return visit
        visit = self._fetcher.visit(sample)
        if number is not None and not last and visit.size <= self._room:
            visit.keep_video()
            self._held[number] = visit
            self._room -= visit.size
        return visit

    def _replace(self, buffer: BatchBuffer, position: int, clips: int, tokens: int) -> None:
        """Fill the row of a damaged pair with the next pair of the order that fits and is whole.

        That depends on what is damaged and not on who reads: all ranks go on alike, with the same
        number of steps and, for any number of ranks, the same global batches.
        """
        for following in range(position + 1, position + 1 + min(MOST_DAMAGED, len(self._order))):
            pair = self._pair(following)
            if self._pairs.clips[pair] > clips or self._pairs.tokens[pair] > tokens:
                continue
            try:
                self._fill(buffer, pair, repeated=True, visit_number=None, last=True)
            except Damaged:
                continue
            return
        raise InputError(
            f"{self._features.folder}: hardly a pair can be read; see `launch.shards verify`"
        )

    def _pair(self, position: Any) -> Any:
        """Pair ids at positions; beyond the end of the order it begins anew."""
        return self._order.pairs[position % len(self._order)]

    def _sample(self, position: int) -> int:
        return int(self._pairs.sample[self._pair(position)])

    def close(self) -> None:
        """Give back what is held open."""
        self._fetcher.close()


def _visits(positions: Ints, order: Order, pairs: Pairs) -> tuple[Ints, Flags, Flags]:
    """Number of the visit that each position belongs to, and whether it is its first and its last.

    A visit is what a lane serves of one video within one window.
    """
    place = positions % len(order)
    keys = (pairs.sample[order.pairs[place]], order.windows[place], positions % order.lanes)
    together = np.lexsort(keys)  # stable: a visit's positions stay in order
    begins = np.ones(len(positions) + 1, dtype=bool)
    begins[1:-1] = np.any([np.diff(key[together]) for key in keys], axis=0)
    number = np.empty(len(positions), dtype=np.int64)
    first, last = np.empty_like(positions, dtype=bool), np.empty_like(positions, dtype=bool)
    number[together] = np.cumsum(begins[:-1])
    first[together], last[together] = begins[:-1], begins[1:]
    return number, first, last
