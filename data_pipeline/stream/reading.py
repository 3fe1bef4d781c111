"""What does one process contribute to each batch, and how does it read no byte twice?

A process reads the pairs of its lanes. It keeps a video between the pairs of one visit (the video's
pairs within a lane's window), as long as there is room in its buffer, and reads of the text only
the sentences that it serves.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
from data_pipeline.stream.order import Ints, Order, Pairs, Share, list_pairs
from data_pipeline.stream.resident import Rows

Flags = NDArray[np.bool_]

MOST_DAMAGED = 1000
"""Pairs in a row without a whole one after which reading stops: there is nothing to go on with."""

PLANNED = 4096
"""Positions whose visits are planned together, or those of one window of all lanes."""


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
    """What one loader worker contributes to each batch: its pairs, and their rows in the batch.

    With `rows` it serves the numbers of resident features in their place.
    """

    def __init__(
        self,
        features: FeatureSet,
        serving: Serving,
        config: ReadingConfig,
        share: Share,
        rows: Rows | None = None,
    ) -> None:
        self._features, self._serving, self._rows = features, serving, rows
        self._config, self._share = config, share

    def __iter__(self) -> Iterator[tuple[PairBatch | None, Ints]]:
        worker, share = get_worker_info(), self._share
        empty: Empty = memory.pinned if torch.cuda.is_available() else memory.reused
        if worker:
            share = dataclasses.replace(share, worker=worker.id, workers=worker.num_workers)
            empty = memory.shared
        serving, size = self._serving, self._serving.size
        reader = _Reader(self._features, serving, self._config, share, self._rows)
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
        serving: Serving,
        config: ReadingConfig,
        share: Share,
        rows: Rows | None,
    ) -> None:
        self._features, self._serving, self._rows = features, serving, rows
        self._pairs, self._order = list_pairs(features), serving.order
        plan = _Plan(self._order, self._pairs, share, serving)
        self._visits = plan.visits()
        self._room = config.buffer_mb * 2**20
        self._held: dict[int, Visit] = {}
        self._damaged: dict[int, Damaged] = {}
        self._fetcher: Fetcher = rows or make_fetcher(
            features, plan.samples(), config.connections, config.cache, int(config.cache_gb * 1e9)
        )

    def read(self, positions: Ints, start: int, stop: int, empty: Empty) -> PairBatch:
        """The next of this share's positions, which lie in the global batch [start, stop).

        All ranks pad to the longest of the global batch, or to the configured length above it, so
        that every rank may stand in for a damaged pair with the same other one.
        """
        of_batch = self._pairs_at(np.arange(start, stop))
        clips = int(self._pairs.clips_of(of_batch).max())
        tokens = int(self._pairs.tokens[of_batch].max())
        features, damaged, shapes = self._features, list[str](), self._serving.shapes
        rows = self._rows  # of which one number stands for all of a clip, or of a token
        buffer = BatchBuffer(
            len(positions),
            padded(clips, shapes.clips),
            padded(tokens, shapes.tokens),
            () if rows else features.video_shape,
            () if rows else features.text_shape,
            empty,
            torch.int64 if rows else torch.float16,
        )
        mine = self._described(of_batch[positions - start])
        for position, pair, (visit, last) in zip(
            positions.tolist(), mine, self._visits, strict=False
        ):
            repeated = position >= len(self._order)
            try:
                self._fill(buffer, pair, repeated, visit, last)
            except Damaged as error:
                if not self._serving.skip_damaged:
                    raise
                damaged.append(str(error))
                self._replace(buffer, position, clips, tokens)
        return buffer.finish(damaged, shapes.windows)

    def _fill(
        self,
        buffer: BatchBuffer,
        pair: "_Pair",
        repeated: bool,
        visit_number: int | None,
        last: bool,
    ) -> None:
        """Read a pair into the next row; raises Damaged."""
        video, text = buffer.row(pair.clips, pair.tokens)
        if pair.sample in self._damaged:
            raise self._damaged[pair.sample]
        try:
            visit = self._visit(pair.sample, visit_number, last)
            visit.read_video(video)
        except Damaged as error:
            self._damaged[pair.sample] = error
            raise
        visit.read_text(pair.query, text)
        if self._serving.dropout:
            self._serving.dropout.apply(pair.number, video, text)
        annotation = visit.queries[pair.query].annotation
        clip_length = self._features.provenance.clip_length
        sentences = (each.annotation.query for each in visit.queries)
        buffer.add(pair.clips, pair.tokens, annotation, clip_length, repeated, sentences)

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
            (pair,) = self._described(self._pairs_at(np.array([following])))
            if pair.clips > clips or pair.tokens > tokens:
                continue
            try:
                self._fill(buffer, pair, repeated=True, visit_number=None, last=True)
            except Damaged:
                continue
            return
        raise InputError(
            f"{self._features.folder}: hardly a pair can be read; see `launch.shards verify`"
        )

    def _pairs_at(self, positions: Ints) -> Ints:
        """Pairs at positions; beyond the end of the order it begins anew."""
        return self._order.at(positions % len(self._order))

    def _described(self, numbers: Ints) -> list["_Pair"]:
        pairs, sample = self._pairs, self._pairs.sample_of(numbers)
        columns = (
            numbers,
            sample,
            numbers - pairs.first[sample],
            pairs.clips[sample],
            pairs.tokens[numbers],
        )
        return [_Pair(*each) for each in zip(*(c.tolist() for c in columns), strict=True)]

    def close(self) -> None:
        """Give back what is held open."""
        self._fetcher.close()


class _Pair(NamedTuple):
    """The number of a pair, its sample, the query's place in it, and the lengths of both."""

    number: int
    sample: int
    query: int
    clips: int
    tokens: int


class _Plan:
    """The visits of a share, planned for some windows at a time, when they are asked for."""

    def __init__(self, order: Order, pairs: Pairs, share: Share, serving: Serving) -> None:
        self._order, self._pairs, self._share = order, pairs, share
        self._start = serving.batches.start * serving.size
        self._stop = serving.batches.stop * serving.size
        window = order.lanes * order.window
        self._size = window * -(-PLANNED // window)
        self._groups = range(self._start // self._size, -(-self._stop // self._size))
        self._planned: dict[int, tuple[Ints, Flags, Ints]] = {}

    def visits(self) -> Iterator[tuple[int, bool]]:
        """For each position of the share: the number of its visit, and whether it is the last."""
        for group in self._groups:
            number, last, _ = self._plan(group)
            yield from zip(number.tolist(), last.tolist(), strict=True)
            del self._planned[group]

    def samples(self) -> Iterator[int]:
        """The sample of each visit, in their order."""
        for group in self._groups:
            yield from self._plan(group)[2].tolist()

    def _plan(self, group: int) -> tuple[Ints, Flags, Ints]:
        """Visits, whether they end, and the samples of those that begin; kept until it is past."""
        if group not in self._planned:
            first = group * self._size
            rows, mine = self._share.rows(
                max(self._start, first), min(self._stop, first + self._size), self._order.lanes
            )
            positions = rows[mine]
            number, begins, ends = _visits(positions, self._order, self._pairs)
            begun = positions[begins] % len(self._order)
            samples = self._pairs.sample_of(self._order.at(begun))
            self._planned[group] = first + number, ends, samples
        return self._planned[group]


def _visits(positions: Ints, order: Order, pairs: Pairs) -> tuple[Ints, Flags, Flags]:
    """Number of the visit that each position belongs to, and whether it is its first and its last.

    A visit is what a lane serves of one video within one window.
    """
    place = positions % len(order)
    keys = (
        pairs.sample_of(order.at(place)),
        place // order.lanes // order.window,
        positions % order.lanes,
    )
    together = np.lexsort(keys)  # stable: a visit's positions stay in order
    begins = np.ones(len(positions) + 1, dtype=bool)
    begins[1:-1] = np.any([np.diff(key[together]) for key in keys], axis=0)
    number = np.empty(len(positions), dtype=np.int64)
    first, last = np.empty_like(positions, dtype=bool), np.empty_like(positions, dtype=bool)
    number[together] = np.cumsum(begins[:-1])
    first[together], last[together] = begins[:-1], begins[1:]
    return number, first, last
