"""How do stored features become the batches of this rank, exactly and at the speed of memory?"""

import contextlib
import logging
import multiprocessing
import queue
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.utils.data import DataLoader

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.batches import PairBatch, merge
from data_pipeline.stream.order import (
    EpochOrder,
    Share,
    StorageOrder,
    check_divides,
    list_pairs,
)
from data_pipeline.stream.reading import Dropout, Parts, Serving
from data_pipeline.stream.resident import Resident

LOG = logging.getLogger(__name__)

MERGED_AHEAD = 2
"""Batches that are put together from the workers' parts before they are asked for."""


def check_provenance(features: FeatureSet, expected: dict[str, Any]) -> None:
    """Raises InputError unless the features were made with what `expected` names."""
    made = asdict(features.provenance)
    for name, value in expected.items():
        if name not in made:
            raise InputError(
                f"data.provenance: {name!r} is no part of a provenance; choose from "
                f"{', '.join(made)}"
            )
        found = list(made[name]) if isinstance(made[name], tuple) else made[name]
        if found != value:
            raise InputError(
                f"{features.folder}: {name} of the features is {found!r}, data.provenance asks for "
                f"{value!r}; extract them anew, or correct the configuration"
            )


def check_ranks_see_one_set(features: FeatureSet, world: int) -> None:
    """Raises InputError on all ranks if a rank has another copy of the set, or lacks a shard.

    Their orders would differ, and so would what they take for the same batch.
    """
    if world == 1 or not (distributed.is_available() and distributed.is_initialized()):
        return
    digest = features.columns.digest()
    digests: list[str | None] = [None] * world
    distributed.all_gather_object(digests, digest)
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise InputError(
            f"{features.folder}: ranks {different} see other shards there than rank 0; give all "
            "the same files, and run launch.shards verify on each host"
        )


class PairStream:
    """Batches of one rank over a feature set.

    `train(epoch, start)` and `evaluate()` return iterables of `PairBatch`. All ranks get the same
    number of batches; to resume, begin at another `start`: nothing that was skipped is read.
    `damaged` counts the pairs that were replaced in this rank's batches, by what was wrong.

    With `data.resident` all features are read here, and batches come with theirs on `device`.

    Raises InputError where the world size does not divide the batch or the lanes, where the set was
    made in another way than the configuration asks for, where the ranks of a running process group
    see different sets, or where features do not fit into memory that they should stay in.
    """

    def __init__(
        self,
        features: FeatureSet,
        config: DataConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | None = None,
    ) -> None:
        try:
            check_divides(world, config.batch_size, config.order.lanes)
            check_divides(world, config.eval_batch_size, config.order.lanes)
        except ValueError as error:
            raise InputError(str(error)) from error
        check_provenance(features, config.provenance)
        if not config.skip_damaged:
            features.check_rows()
        check_ranks_see_one_set(features, world)
        for fault in features.faults:
            LOG.warning("%s", fault)
        if features.left_out:
            LOG.warning("%s: %d pairs are left out", features.folder, features.left_out)
        self.features = features
        self.damaged: Counter[str] = Counter()
        self.pairs = list_pairs(features)
        if not len(self.pairs) and not features.left_out:
            raise InputError(
                f"{features.folder}: holds videos and no sentences about them; join some with "
                "`launch.shards annotate`"
            )
        self._config, self._seed, self._rank, self._world = config, seed, rank, world
        self._resident: Resident | None = None
        if config.resident:
            self._resident = Resident(features, config, device or torch.device("cpu"))

    @property
    def annotated(self) -> int:
        """Pairs that the set was made of, those that cannot be read among them."""
        return len(self.pairs) + self.features.left_out

    @property
    def steps(self) -> int:
        """Batches of a training epoch; InputError where the set holds less than one."""
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
        config = self._config
        order = EpochOrder(self.pairs, config.order, self._seed, epoch)
        dropout = Dropout(config.clip_dropout, config.text_dropout, self._seed, epoch)
        batches = range(start, self.steps)
        return self._serve(
            Serving(order, config.batch_size, batches, config.shapes, dropout, config.skip_damaged)
        )

    def evaluate(self) -> Iterator[PairBatch]:
        """Every pair once; the last batch is filled up with rows that are marked as repeated."""
        config, size = self._config, self._config.eval_batch_size
        order = StorageOrder(len(self.pairs), config.order.lanes)
        batches = range(-(-len(self.pairs) // size))
        return self._serve(
            Serving(order, size, batches, config.shapes, skip_damaged=config.skip_damaged)
        )

    def _serve(self, serving: Serving) -> Iterator[PairBatch]:
        share = Share(self._rank, self._world)
        resident = self._resident
        rows = resident.rows if resident else None
        parts = Parts(self.features, serving, self._config.reading, share, rows)
        if self._config.workers:
            batches = self._load(parts, len(serving.batches))
        else:  # a rank has rows in every batch, and here one reader
            batches = (part for part, _ in parts if part is not None)
        for batch in batches:
            self._count(batch)
            yield resident.gather(batch) if resident else batch

    def _load(self, parts: Parts, steps: int) -> Iterator[PairBatch]:
        workers = self._config.workers
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
        loader = DataLoader(
            parts,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=self._config.prefetch,
            worker_init_fn=_leave_signals_to_the_trainer,
            multiprocessing_context="forkserver",
        )
        pinned = torch.cuda.is_available()
        arriving = iter(loader)  # each worker's part of batch 0 in turn, then of batch 1, ...

        def merged() -> Iterator[PairBatch]:
            for _ in range(steps):
                of_batch = [next(arriving) for _ in range(workers)]
                held = [(part, places) for part, places in of_batch if part is not None]
                yield merge([part for part, _ in held], [places for _, places in held], pinned)

        return ahead(merged(), MERGED_AHEAD)

    def _count(self, batch: PairBatch) -> None:
        """Warn of a damaged sample once, and count the pairs that were replaced."""
        for fault in batch.damaged:
            if fault not in self.damaged:
                LOG.warning("%s; its pairs are replaced by others", fault)
            self.damaged[fault] += 1


def _leave_signals_to_the_trainer(_: int) -> None:
    # A launcher signals the whole process group; the trainer still needs its batches to stop well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


Item = TypeVar("Item")


def ahead(source: Iterator[Item], count: int) -> Iterator[Item]:
    """The items of `source`, of which a thread keeps `count` ready.

    What `source` raises is raised here, after the items before it.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(count)
    stopped = threading.Event()

    def put(item: Item | None, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=0.1)
                return

    def run() -> None:
        try:
            for item in source:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # handed over, not swallowed
            put(None, error)
        else:
            put(None, StopIteration())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            assert item is not None
            yield item
    finally:
        stopped.set()
        thread.join()
