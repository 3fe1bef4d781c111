"""How do features that stay on the device become the batches that reading them would make?

All of a set is read once. The stream then serves numbers: in the place of a clip's or a token's
features, the row where they stand. Row 0 is zero, and padding and dropout name it. What is gathered
by these numbers is, byte for byte, what would have been read, in the same order and with the same
pairs in the place of damaged ones.

The ranks of a host share the rows, in memory that has no name and ends with them; a GPU has a copy.
"""

import dataclasses
import logging
import math
import os
import socket
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor, distributed

from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.features.columns import Columns
from data_pipeline.features.samples import Damaged, StoredQuery, query_rows, stored_query
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.texts import Texts
from data_pipeline.features.writing import to_json
from data_pipeline.mapped import Array, Mapped
from data_pipeline.stream import memory
from data_pipeline.stream.batches import PairBatch
from data_pipeline.stream.fetching import make_fetcher
from data_pipeline.stream.order import Ints
from data_pipeline.untrusted import parse_json

LOG = logging.getLogger(__name__)

PART = 0.9
"""Of the memory that is free, what features may take."""


class Rows:
    """Where the features of each sample stand, and the sentences about it: what a reader needs.

    It goes to loader workers as a few paths, whatever the size of the set.
    """

    def __init__(self, columns: Columns, details: Mapped, faults: "Faults") -> None:
        self._columns, self._details, self._faults = columns, details, faults
        self._texts = Texts(details["words"], details["ends"])
        self._known: dict[int, tuple[StoredQuery, ...]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self._columns, self._details, self._faults)

    def visit(self, index: int) -> "RowsVisit":
        """Begin to serve sample `index` of the set; raises Damaged as reading it would."""
        if index in self._faults.opening:
            raise Damaged(self._faults.opening[index])
        queries = self._known.get(index)
        if queries is None:
            vid, rows = self._columns.vids[index], parse_json(self._texts[index], "its sentences")
            queries = self._known[index] = tuple(stored_query(vid, row) for row in rows)
        first = self._columns.first.item(index)
        return RowsVisit(
            queries,
            1 + self._details["clips before"].item(index),
            1 + self._details["tokens before"][first : first + len(queries)],
            self._faults.video.get(index),
            {q: self._faults.text.get(first + q) for q in range(len(queries))},
        )

    def close(self) -> None:
        """Nothing is held open."""


@dataclass
class Faults:
    """What was damaged, as reading says it: samples at all, their videos, pairs' sentences."""

    opening: dict[int, str] = dataclasses.field(default_factory=dict)
    video: dict[int, str] = dataclasses.field(default_factory=dict)
    text: dict[int, str] = dataclasses.field(default_factory=dict)


@dataclass
class RowsVisit:
    """A sample whose queries are being served, by the numbers of its rows."""

    queries: tuple[StoredQuery, ...]
    video: int
    texts: Ints
    video_fault: str | None
    text_faults: dict[int, str | None]
    size: int = 0

    def keep_video(self) -> None:
        """It is where it was."""

    def read_video(self, into: Any) -> None:
        """Fill (L,) with the numbers of the video's rows."""
        if self.video_fault is not None:
            raise Damaged(self.video_fault)
        into[:] = np.arange(self.video, self.video + len(into))

    def read_text(self, query: int, into: Any) -> None:
        """Fill (T,) with the numbers of a sentence's rows."""
        if (fault := self.text_faults[query]) is not None:
            raise Damaged(fault)
        first = self.texts.item(query)
        into[:] = np.arange(first, first + len(into))


class Resident:
    """All features of a set on a device: `video` (1 + clips, K, Dv), `text` (1 + tokens, K, Dt)."""

    def __init__(self, features: FeatureSet, config: DataConfig, device: torch.device) -> None:
        """Read them: once on each host, of whose ranks each calls this at the same time.

        Raises InputError, on all ranks alike, where they do not fit, or where a sample is damaged
        and `data.skip_damaged` is not set.
        """
        mine = _Turn(_complaint(features, config, device))
        held: tuple[Mapped, Mapped, Faults] | None = None
        problem: str | None = None
        if mine.reads:
            try:
                held = _read(features, config)
            except InputError as error:
                problem = str(error)
        rows, details, faults = mine.given(held, problem)
        self.rows = Rows(features.columns, details, faults)
        self.video = _tensor(rows["video"]).view(-1, *features.video_shape).to(device)
        self.text = _tensor(rows["text"]).view(-1, *features.text_shape).to(device)
        mine.end()

    def gather(self, batch: PairBatch) -> PairBatch:
        """The batch with features in the place of their numbers, on the device."""
        return dataclasses.replace(
            batch, video=_taken(self.video, batch.video), text=_taken(self.text, batch.text)
        )


def _tensor(rows: Array) -> Tensor:
    with warnings.catch_warnings():  # of rows that another rank made; nobody writes into them
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows)


def _taken(rows: Tensor, numbers: Tensor) -> Tensor:
    """(B, N, K, D) of rows (R, K, D) by numbers (B, N)."""
    shape = (*numbers.shape, *rows.shape[1:])
    if rows.device.type == "cpu":
        into = memory.reused(shape, rows.dtype)
        torch.index_select(rows, 0, numbers.flatten(), out=into.view(-1, *rows.shape[1:]))
        return into
    return rows.index_select(0, numbers.to(rows.device, non_blocking=True).flatten()).view(shape)


def bytes_of(features: FeatureSet) -> int:
    """What the features of a set take."""
    columns = features.columns
    clips, tokens = 1 + int(columns.clips.sum()), 1 + int(columns.tokens.sum())
    return 2 * (clips * math.prod(features.video_shape) + tokens * math.prod(features.text_shape))


def _complaint(features: FeatureSet, config: DataConfig, device: torch.device) -> str | None:
    """Why the features do not fit, in one line; None if they do."""
    size = bytes_of(features)
    free = {"this host": int(psutil.virtual_memory().available)}
    if device.type == "cuda":
        free[str(device)] = int(torch.cuda.mem_get_info(device)[0])
    says = f"{features.folder}: its features take {size / 1e9:.3g} GB"
    if config.resident_gb is not None and size > config.resident_gb * 1e9:
        allowed = f"data.resident_gb allows {config.resident_gb:g}"
        return f"{says}, {allowed}; raise it, or set data.resident false"
    for where, room in free.items():
        if config.resident_gb is None and size > PART * room:
            return f"{says}, {where} has {room / 1e9:.3g} GB free; set data.resident false"
    return None


def _read(features: FeatureSet, config: DataConfig) -> tuple[Mapped, Mapped, Faults]:
    """The rows of a set, its sentences, and what is damaged: that is raised unless skipped."""
    columns, faults = features.columns, Faults()
    ends = {"video": np.cumsum(columns.clips), "text": np.cumsum(columns.tokens)}
    shapes = {"video": features.video_shape, "text": features.text_shape}
    count = {name: 1 + (int(each[-1]) if len(each) else 0) for name, each in ends.items()}
    rows = Mapped.empty(
        **{name: (np.float16, count[name] * math.prod(shape)) for name, shape in shapes.items()}
    )
    video, text = (rows[name].reshape(-1, *shape) for name, shape in shapes.items())
    before = {name: each - of for (name, each), of in
              zip(ends.items(), (columns.clips, columns.tokens), strict=True)}  # fmt: skip
    reading = config.reading
    fetcher = make_fetcher(
        features,
        iter(range(len(features))),
        reading.connections,
        reading.cache,
        int(reading.cache_gb * 1e9),
    )

    def noted(of: dict[int, str], number: int, error: Damaged) -> None:
        if not config.skip_damaged:
            raise error
        of[number] = str(error)

    details: list[str] = []
    try:
        for index in range(len(features)):
            details.append("")
            try:
                visit = fetcher.visit(index)
            except Damaged as error:
                noted(faults.opening, index, error)
                continue
            details[-1] = to_json(query_rows(visit.queries))
            start, clips = 1 + before["video"].item(index), columns.clips.item(index)
            try:
                visit.read_video(video[start : start + clips])
            except Damaged as error:
                noted(faults.video, index, error)
            first = columns.first.item(index)
            for query in range(len(visit.queries)):
                start = 1 + before["text"].item(first + query)
                try:
                    visit.read_text(query, text[start : start + columns.tokens.item(first + query)])
                except Damaged as error:
                    noted(faults.text, first + query, error)
    finally:
        fetcher.close()
    packed = Texts.of(details)
    held = {"words": packed.words, "ends": packed.ends}
    held |= {"clips before": before["video"], "tokens before": before["text"]}
    return rows, Mapped.of(held), faults


class _Turn:
    """Which rank of each host reads, for all of that host; raises what any of them complains of."""

    def __init__(self, complaint: str | None) -> None:
        told = _everyone((_host(), complaint))
        _raise_first(complaint for _, complaint in told)
        self._hosts = [host for host, _ in told]
        rank = distributed.get_rank() if len(told) > 1 else 0
        self._reader = self._hosts.index(self._hosts[rank])
        self.reads = self._reader == rank
        self._group: Any = None  # of the ranks of this host, where there are several
        for host in dict.fromkeys(self._hosts):
            members = [number for number, its in enumerate(self._hosts) if its == host]
            if len(members) > 1:  # every rank takes part in making every group
                group = distributed.new_group(members)
                self._group = group if rank in members else self._group

    def given(self, held: Any, problem: str | None) -> Any:
        """What this rank, or the one that read for it, holds."""
        _raise_first(iter(_everyone(problem)))
        if self._group is None:
            return held
        # Among the ranks of this host alone: others could not map it.
        told = [held if self.reads else None]
        distributed.broadcast_object_list(told, src=self._reader, group=self._group)
        return told[0]

    def end(self) -> None:
        """Wait until everyone has what it was given: it ends with whoever gives it."""
        _everyone(None)
        if self._group is not None:
            distributed.destroy_process_group(self._group)


Told = TypeVar("Told")


def _everyone(mine: Told) -> list[Told]:
    """What every rank says, by rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    told: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(told, mine)
    return told


def _raise_first(problems: Iterator[str | None]) -> None:
    for problem in problems:
        if problem is not None:
            raise InputError(problem)


def _host() -> str:
    """Processes of which this is the same can map each other's memory."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    names = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {names} {os.getuid()}"
