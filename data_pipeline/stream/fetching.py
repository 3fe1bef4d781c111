"""How do the bytes of a stored video come here when its turn comes, from a disk or from a store?

On a disk, features are read straight into their place in a batch, by as few calls as there are
arrays, and checked there. From an object store, whole samples come by one request each, several at
a time and ahead of their use, through a cache if there is one.
"""

import itertools
import math
import os
from collections import OrderedDict, deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.features.checksums import Half, check_values
from data_pipeline.features.samples import (
    Damaged,
    Sample,
    SampleEntry,
    StoredQuery,
    npy_header,
    parse_details,
    parse_sample,
)
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.cache import Cache

OPEN_SHARDS = 128
"""Tars that a process keeps open; more than the lanes that it reads at a time."""

READ_TOGETHER = 32
"""Visits whose queries are read in one go: features in between would flush the processor's caches,
and with them all that parsing needs."""


class Visit(Protocol):
    """A stored video whose queries are being served.

    `read_*` fill an array of exactly the stored shape; they raise Damaged, naming shard and sample,
    where the bytes are not what was written. `size` is the memory that a kept visit takes.
    """

    queries: tuple[StoredQuery, ...]
    size: int

    def keep_video(self) -> None:
        """Hold the video's features: they are wanted more than once."""

    def read_video(self, into: Half) -> None:
        """Fill (L, K, Dv)."""

    def read_text(self, query: int, into: Half) -> None:
        """Fill (T, K, Dt)."""


class Fetcher(Protocol):
    """Opens visits; raises Damaged like them."""

    def visit(self, index: int) -> Visit:
        """Begin to serve sample `index` of the set."""

    def close(self) -> None:
        """Give back what is held open."""


Coming = TypeVar("Coming")


def take(coming: deque[tuple[int, Coming]], index: int) -> Coming | None:
    """What is coming for sample `index`, None if nothing is. What stands before it is dropped: it
    will not be asked for any more, as happens to samples that turned out to be damaged."""
    for place, (other, item) in enumerate(coming):
        if other == index:
            for _ in range(place + 1):
                coming.popleft()
            return item
    return None


class LocalFetcher:
    """Reads from tars on a disk; `upcoming` are the samples in the order of their visits."""

    def __init__(self, features: FeatureSet, upcoming: Iterable[int] = ()) -> None:
        self._features, self._upcoming = features, iter(upcoming)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._coming: deque[tuple[int, _LocalVisit | Damaged]] = deque()

    def visit(self, index: int) -> Visit:
        """Begin to serve sample `index` of the set."""
        if not self._coming:
            for following in itertools.islice(self._upcoming, READ_TOGETHER):
                self._coming.append((following, self._begin(following)))
        visit = take(self._coming, index) or self._begin(index)
        if isinstance(visit, Damaged):
            raise visit
        return visit

    def _begin(self, index: int) -> "_LocalVisit | Damaged":
        try:
            return _LocalVisit(self, self._features, self._features.samples[index])
        except Damaged as error:  # it is not its turn yet
            return error

    def close(self) -> None:
        """Close the tars."""
        while self._open:
            os.close(self._open.popitem()[1])

    def descriptor(self, shard: int) -> int:
        """The tar of a shard, open for reading."""
        if shard not in self._open:
            self._open[shard] = os.open(str(self._features.path(shard)), os.O_RDONLY)
            if len(self._open) > OPEN_SHARDS:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]


class _LocalVisit:
    def __init__(self, fetcher: LocalFetcher, features: FeatureSet, entry: SampleEntry) -> None:
        self._fetcher, self._features, self._entry = fetcher, features, entry
        self._video: Half | None = None
        self._shape = (entry.clips, *features.video_shape)
        self.size = 2 * math.prod(self._shape)
        with features.named(entry):
            check_finite(entry)
            place, size = entry.members["json"]
            data = os.pread(fetcher.descriptor(entry.shard), size, place)
            if len(data) != size:
                raise ValueError("truncated")
            _, self.queries = parse_details(data, entry, features.provenance.clip_length)
            self._video_place = self._place("video.npy", self._shape)
            self._text_place = self._place("text.npy", (sum(entry.queries), *features.text_shape))

    def _place(self, member: str, shape: tuple[int, ...]) -> int:
        """Where the values of a stored array of this shape begin in the tar."""
        place, size = self._entry.members[member]
        header = len(npy_header(shape))
        if size != header + 2 * math.prod(shape):
            raise ValueError(f"its {member} is not an array {shape} of float16")
        return place + header

    def keep_video(self) -> None:
        video = np.empty(self._shape, dtype=np.float16)
        self.read_video(video)
        self._video = video

    def read_video(self, into: Half) -> None:
        if self._video is not None:
            into[:] = self._video
            return
        with self._features.named(self._entry):
            self._read(self._video_place, into)
            sums = self._entry.checksums
            check_values("video", into, sums.video, sums.kind)

    def read_text(self, query: int, into: Half) -> None:
        with self._features.named(self._entry):
            row = 2 * into.shape[1] * into.shape[2]
            self._read(self._text_place + row * self.queries[query].tokens[0], into)
            sums = self._entry.checksums
            check_values("text", into, sums.text[query], sums.kind)

    def _read(self, place: int, into: Half) -> None:
        descriptor = self._fetcher.descriptor(self._entry.shard)
        if os.preadv(descriptor, [into.data], place) != into.nbytes:
            raise ValueError("truncated")


class StoreFetcher:
    """Reads from an object store, `connections` samples at a time, in the order of `upcoming`.

    Bytes are checked before they are cached, and again when they come from the cache: bad ones are
    asked for anew.
    """

    def __init__(
        self,
        features: FeatureSet,
        upcoming: Iterable[int],
        connections: int,
        cache: Cache | None,
    ) -> None:
        self._features, self._cache = features, cache
        self._upcoming, self._connections = iter(upcoming), connections
        self._threads = ThreadPoolExecutor(connections)
        self._coming: deque[tuple[int, Future[Sample]]] = deque()
        self._ask_ahead()

    def visit(self, index: int) -> Visit:
        """Begin to serve sample `index` of the set."""
        coming = take(self._coming, index)
        self._ask_ahead()
        sample = coming.result() if coming else self._fetch(index)
        return _StoreVisit(sample, self._features.samples[index].size)

    def close(self) -> None:
        """Forget what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask_ahead(self) -> None:
        for index in itertools.islice(self._upcoming, self._connections - len(self._coming)):
            self._coming.append((index, self._threads.submit(self._fetch, index)))

    def _fetch(self, index: int) -> Sample:
        entry = self._features.samples[index]
        tar = self._features.path(entry.shard)
        name = f"{tar} {self._features.shards[entry.shard]['sha256']} {entry.offset}"
        cached = self._cache.get(name) if self._cache else None
        if cached is not None and self._cache:
            try:
                return self._parse(cached, entry)
            except InputError:
                self._cache.drop(name)
        with self._features.named(entry):
            data = tar.read_range(entry.offset, entry.size)
        sample = self._parse(data, entry)
        if self._cache:
            self._cache.put(name, data)
        return sample

    def _parse(self, data: bytes, entry: SampleEntry) -> Sample:
        features = self._features
        with features.named(entry):
            check_finite(entry)
            return parse_sample(
                data,
                entry,
                features.provenance.clip_length,
                features.video_shape,
                features.text_shape,
            )


class _StoreVisit:
    """A sample that has come whole."""

    def __init__(self, sample: Sample, size: int) -> None:
        self._sample, self.size = sample, size
        self.queries = sample.queries

    def keep_video(self) -> None:
        pass

    def read_video(self, into: Half) -> None:
        into[:] = self._sample.video

    def read_text(self, query: int, into: Half) -> None:
        into[:] = self._sample.text[slice(*self.queries[query].tokens)]


def check_finite(entry: SampleEntry) -> None:
    """Raises ValueError for a sample that was written with NaN or infinity."""
    if not entry.finite:
        raise ValueError("its features hold values that are not finite")


def make_fetcher(
    features: FeatureSet,
    upcoming: Iterable[int],
    connections: int,
    cache: Path | None,
    cache_bytes: int,
) -> Fetcher:
    """The fetcher for where the features lie. `upcoming` are the samples in the order of their
    visits, for what can be done ahead."""
    if features.folder.local:
        return LocalFetcher(features, upcoming)
    return StoreFetcher(
        features, upcoming, connections, Cache(cache, cache_bytes) if cache else None
    )
