"""How do stored features become the batches of this rank, exactly and at the speed of memory?"""

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_pipeline.batches import Pair, PairBatch, collate, merge
from data_pipeline.errors import InputError
from data_pipeline.order import (
    Order,
    OrderConfig,
    Pairs,
    Share,
    check_divides,
    epoch_order,
    storage_order,
)
from data_pipeline.samples import Sample
from data_pipeline.shards import FeatureSet


@dataclass(frozen=True)
class DataConfig:
    """Attributes:
    train: feature shards to learn from
    selection: feature shards that choose the best epoch; none keeps the last epoch
    report: feature shards whose scores are reported, once, at the end
    batch_size: pairs of one training step over all ranks
    eval_batch_size: pairs of one evaluation step over all ranks
    last_batch: what becomes of the pairs that do not fill a batch: left out of this epoch, or
        filled up with the epoch's first pairs
    workers: loader processes per rank; 0 reads in the training process
    prefetch: batches that each worker keeps ready
    """

    train: Path = Path("features/train")
    selection: Path | None = None
    report: Path | None = None
    batch_size: int = 32
    eval_batch_size: int = 64
    last_batch: Literal["drop", "wrap"] = "drop"
    workers: int = 0
    prefetch: int = 4
    order: OrderConfig = field(default_factory=OrderConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.eval_batch_size < 1:
            raise ValueError("data.batch_size and data.eval_batch_size must be at least 1")
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError("data.workers must not be negative, data.prefetch at least 1")


def list_pairs(features: FeatureSet) -> Pairs:
    """All pairs of a feature set in storage order, from its index alone."""
    counts = [len(sample.queries) for sample in features.samples]
    return Pairs(
        sample=np.repeat(np.arange(len(counts)), counts),
        query=np.concatenate([np.arange(count) for count in counts]),
        shard=np.repeat([sample.shard for sample in features.samples], counts),
        clips=np.repeat([sample.clips for sample in features.samples], counts),
        tokens=np.concatenate([sample.queries for sample in features.samples]),
    )


class PairStream:
    """Batches of one rank over a feature set.

    `train(epoch, start)` and `evaluate()` return iterables of `PairBatch`. All ranks get the same
    number of batches; to resume, begin at another `start`: nothing that was skipped is read.

    Raises InputError where the world size does not divide the batch or the lanes, or where the set
    holds less than one batch.
    """

    def __init__(
        self, features: FeatureSet, config: DataConfig, seed: int, rank: int = 0, world: int = 1
    ) -> None:
        try:
            check_divides(world, config.batch_size, config.order.lanes)
            check_divides(world, config.eval_batch_size, config.order.lanes)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.features = features
        self.pairs = list_pairs(features)
        self._config, self._seed, self._rank, self._world = config, seed, rank, world

    @property
    def steps(self) -> int:
        """Batches of a training epoch."""
        size, count = self._config.batch_size, len(self.pairs)
        steps = count // size if self._config.last_batch == "drop" else -(-count // size)
        if steps == 0:
            raise InputError(
                f"{self.features.folder}: holds {count} pairs, fewer than one batch of {size}; "
                f"lower data.batch_size or set data.last_batch to wrap"
            )
        return steps

    def train(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """Batches `start`, `start` + 1, ... of an epoch."""
        order = epoch_order(self.pairs, self._config.order, self._seed, epoch)
        return self._serve(order, self._config.batch_size, range(start, self.steps))

    def evaluate(self) -> Iterator[PairBatch]:
        """Every pair once; the last batch is filled up with rows that are marked as repeated."""
        size = self._config.eval_batch_size
        order = storage_order(len(self.pairs), self._config.order.lanes)
        return self._serve(order, size, range(-(-len(self.pairs) // size)))

    def _serve(self, order: Order, size: int, batches: range) -> Iterator[PairBatch]:
        parts = _Parts(self.features, self.pairs, order, size, batches, self._rank, self._world)
        if self._config.workers == 0:
            for part, _ in parts:
                assert part is not None  # a rank has rows in every batch, and here one reader
                yield part
            return
        workers = self._config.workers
        loader = DataLoader(
            parts,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=self._config.prefetch,
            worker_init_fn=_leave_signals_to_the_trainer,
            multiprocessing_context="forkserver",
        )
        arriving = iter(loader)  # each worker's part of batch 0 in turn, then of batch 1, ...
        for _ in batches:
            of_batch = [next(arriving) for _ in range(workers)]
            held = [(part, places) for part, places in of_batch if part is not None]
            yield merge([part for part, _ in held], [places for _, places in held])


Places = NDArray[np.int64]


class _Parts(IterableDataset[tuple[PairBatch | None, Places]]):
    """What one loader worker contributes to each batch: its pairs, and their rows in the batch."""

    def __init__(
        self,
        features: FeatureSet,
        pairs: Pairs,
        order: Order,
        size: int,
        batches: range,
        rank: int,
        world: int,
    ) -> None:
        self._features, self._pairs, self._order = features, pairs, order
        self._size, self._batches, self._rank, self._world = size, batches, rank, world

    def __iter__(self) -> Iterator[tuple[PairBatch | None, Places]]:
        worker = get_worker_info()
        share = Share(self._rank, self._world, *((worker.id, worker.num_workers) if worker else ()))
        plan = [
            share.rows(batch * self._size, (batch + 1) * self._size, self._order.lanes)
            for batch in self._batches
        ]
        reader = _Reader(self._features, self._pairs, self._order, [p[rows] for p, rows in plan])
        for positions, places in plan:
            of_batch = self._order.pairs[positions % len(self._order)]
            if not len(places):
                yield None, places
                continue
            yield (
                collate(
                    [reader.read(position) for position in positions[places]],
                    repeated=list(positions[places] >= len(self._order)),
                    clips=int(self._pairs.clips[of_batch].max()),
                    tokens=int(self._pairs.tokens[of_batch].max()),
                ),
                places,
            )


class _Reader:
    """Reads each video once per visit: it is kept until its last pair of the lane's window."""

    def __init__(
        self, features: FeatureSet, pairs: Pairs, order: Order, positions: list[Places]
    ) -> None:
        self._features, self._pairs, self._order = features, pairs, order
        self._held: dict[tuple[int, int, int], Sample] = {}
        self._uses = Counter(self._visit(position) for part in positions for position in part)

    def read(self, position: int) -> Pair:
        visit = self._visit(position)
        sample = self._held.pop(visit, None) or self._features.read(visit[2])
        self._uses[visit] -= 1
        if self._uses[visit]:
            self._held[visit] = sample
        pair = self._order.pairs[position % len(self._order)]
        return sample.pair(int(self._pairs.query[pair]))

    def _visit(self, position: int) -> tuple[int, int, int]:
        place = int(position) % len(self._order)
        sample = int(self._pairs.sample[self._order.pairs[place]])
        return int(position) % self._order.lanes, int(self._order.windows[place]), sample


def _leave_signals_to_the_trainer(_: int) -> None:
    # A launcher signals the whole process group; the trainer still needs its batches to stop well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
