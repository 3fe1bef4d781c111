"""In which order does an epoch serve its pairs, and which rank and worker serves which?

The global sequence of pairs is a function of (data set, seed, epoch) alone; global batch b is its
slice [b G, (b + 1) G). It is composed over a fixed number of *lanes*: position p of the sequence
belongs to lane p mod C, rank r of W owns the lanes c with c mod W = r, and the loader workers of a
rank share its lanes the same way. So any number of ranks and workers sees the same global batches,
a rank reads only the shards of its lanes, and resuming means to begin at another b.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import OrderConfig
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.texts import ranges
from data_pipeline.mapped import Array, Mapped

Ints = NDArray[np.int64]

POOL = 32
"""Rounds that are sorted by length together."""
NEAR = 0.1
"""Part of its length by which a video may count as shorter."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of a data set in storage order, described without reading a feature.

    Those of a sample (a video) stand together: `first` (samples + 1) tells where they begin. Arrays
    over the samples are the shard that holds it, the shards in their order, and its length; an
    array over the pairs is the length of the sentence.
    """

    first: Ints
    shard: Ints
    clips: Ints
    tokens: Ints

    def __len__(self) -> int:
        return len(self.tokens)

    def sample_of(self, pairs: Ints) -> Ints:
        """The samples that hold these pairs."""
        return np.searchsorted(self.first, pairs, "right") - 1

    def clips_of(self, pairs: Ints) -> Ints:
        """The lengths of the videos of these pairs."""
        return self.clips[self.sample_of(pairs)]

    def means(self) -> tuple[float, float]:
        """Clips and tokens of an average pair; there must be one."""
        counts = np.diff(self.first)
        return float(self.clips @ counts) / len(self), float(self.tokens.mean())


def list_pairs(features: FeatureSet) -> Pairs:
    """All pairs of a feature set in storage order, from its index alone."""
    columns = features.columns
    return Pairs(columns.first, columns.shard, columns.clips, columns.tokens)


class Order(Protocol):
    """The sequence of one epoch: which pair stands at which position, and in which window.

    The pairs of a window of a lane are drawn, and may be held, together.
    """

    lanes: int
    window: int

    def __len__(self) -> int:
        """Number of positions, one for each pair."""

    def at(self, positions: Ints) -> Ints:
        """The pairs at these positions."""

    @property
    def pairs(self) -> Ints:
        """The pairs at all positions."""


class StorageOrder:
    """The order of evaluation: every pair once, as stored; no lane needs a window."""

    window = 1

    def __init__(self, count: int, lanes: int) -> None:
        self._count, self.lanes = count, lanes

    def __len__(self) -> int:
        return self._count

    def at(self, positions: Ints) -> Ints:
        """The pairs at these positions."""
        return positions

    @property
    def pairs(self) -> Ints:
        """The pairs at all positions."""
        return np.arange(self._count)


class EpochOrder:
    """The order of one training epoch: every pair exactly once.

    Shards are shuffled, then the samples within each shard; the resulting run of pairs is cut into
    `lanes` equal pieces (lengths differ by one at most), each lane shuffles within its windows, and
    the lanes are interleaved. With `bucket` the run is first put in rounds of videos alike in
    length, and each round is dealt to the lanes, one window a lane. Seeded through NumPy's
    SeedSequence, never through `hash`, whose values differ from one interpreter to the next.

    What stands in a window is made when it is asked for; what grows with the set is shared between
    processes.
    """

    def __init__(self, pairs: Pairs, config: OrderConfig, seed: int, epoch: int) -> None:
        random = np.random.default_rng([seed, epoch])
        count, lanes = len(pairs), config.lanes
        self.lanes, self.window, self._count, self._bucket = (
            lanes,
            config.window,
            count,
            config.bucket,
        )
        size = lanes * config.window
        samples, sample_rank = _shuffled(pairs, random)
        first = pairs.first[samples]
        counts = pairs.first[samples + 1] - first
        arrays: dict[str, Array] = {}
        if config.bucket:
            run = ranges(first, counts)
            sample = np.repeat(samples, counts)
            run = _by_length(run, sample, pairs.clips, sample_rank, size, random)
            arrays |= {"run": run, "clips": pairs.clips_of(run)}
            rounds = [
                (start, *_pieces(min(size, count - start), lanes, random))
                for start in range(0, count, size)
            ]
            begins = np.concatenate([start + begins for start, begins, _ in rounds])
            lengths = np.concatenate([lengths for *_, lengths in rounds])
        else:
            arrays |= {"first": first, "ends": np.cumsum(counts)}
            begins, lengths = _pieces(count, lanes, random)
        arrays |= {"begins": begins, "lengths": lengths, "draw": random.random(count)}
        if config.bucket:
            arrays["places"] = _shared_shuffle(count // lanes, config.window, random)
        self._arrays = Mapped.of(arrays)
        self._made: tuple[int, Ints] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self._count

    @property
    def pairs(self) -> Ints:
        """The pairs at all positions."""
        blocks = range(-(-self._count // (self.lanes * self.window)))
        return np.concatenate([self._block(number) for number in blocks])[: self._count]

    def at(self, positions: Ints) -> Ints:
        """The pairs at these positions; those of a window are best asked for together."""
        block = self.lanes * self.window
        blocks = positions // block
        found = np.empty_like(positions)
        for number in np.unique(blocks).tolist():
            if self._made[0] != number:
                self._made = (number, self._block(number))
            here = blocks == number
            found[here] = self._made[1][positions[here] - number * block]
        return found

    def _block(self, number: int) -> Ints:
        """The pairs of window `number` of every lane, by position from the window's first on."""
        arrays, start = self._arrays, number * self.window
        if self._bucket:
            of_block = slice(number * self.lanes, (number + 1) * self.lanes)
            begins, lengths = arrays["begins"][of_block], arrays["lengths"][of_block]
            places = arrays["places"][start : start + self.window] - start
        else:
            begins, lengths = arrays["begins"] + start, arrays["lengths"] - start
            places = np.arange(min(self.window, int(lengths.max())))
        rank = np.arange(len(places))
        inside = rank < lengths[:, None]  # (lanes, window); at the end not all
        at = np.where(inside, begins[:, None] + rank, 0)
        draw = np.where(inside, arrays["draw"][at], np.inf)
        if self._bucket:
            pairs = arrays["run"][at]
            within = np.lexsort((draw, arrays["clips"][at], ~inside), axis=1)
        else:
            pairs = self._pairs_at(at)
            within = np.argsort(draw, axis=1, kind="stable")
        found = np.empty((len(places), self.lanes), np.int64)
        found[places] = np.take_along_axis(pairs, within, axis=1).T
        return found.reshape(-1)

    def _pairs_at(self, places: Ints) -> Ints:
        """The pairs at places of the run, in which samples follow each other."""
        ends, first = self._arrays["ends"], self._arrays["first"]
        sample = np.searchsorted(ends, places, "right")
        return first[sample] + places - np.where(sample > 0, ends[sample - 1], 0)


def _shuffled(pairs: Pairs, random: np.random.Generator) -> tuple[Ints, Ints]:
    """The samples, shuffled within shuffled shards, and the rank that each of them drew."""
    held = int(pairs.sample_of(np.array([len(pairs) - 1]))[0]) + 1  # with a pair, or before one
    shard = pairs.shard[:held]
    shard_rank = random.permutation(int(shard[-1]) + 1)
    sample_rank = random.permutation(held)
    samples = np.empty(held, np.int64)
    samples[sample_rank] = np.arange(held)
    ranks = shard_rank[shard[samples]]
    if len(shard_rank) <= 1 << 16:  # which NumPy sorts by counting
        ranks = ranks.astype(np.uint16)
    return samples[np.argsort(ranks, kind="stable")], sample_rank


def _pieces(count: int, lanes: int, random: np.random.Generator) -> tuple[Ints, Ints]:
    """A run of `count` pairs cut in one piece a lane: where that of each begins, its length."""
    # Lane c holds positions c, c + C, c + 2 C, ...; so the first (count mod C) lanes are longer.
    # Neighbouring pieces of the run may share a video; a permutation keeps them apart.
    lane_of_piece = random.permutation(lanes)
    lengths = count // lanes + (lane_of_piece < count % lanes)
    begins = np.empty_like(lengths)
    begins[lane_of_piece] = np.cumsum(lengths) - lengths
    return begins, count // lanes + (np.arange(lanes) < count % lanes)


def _by_length(
    run: Ints,
    sample: Ints,
    clips: Ints,
    sample_rank: Ints,
    size: int,
    random: np.random.Generator,
) -> Ints:
    """The run in rounds of `size` pairs whose videos are about as long, in random order; in a round
    the pairs of a video follow each other. The last round is what is left over.

    `sample` are the samples of the run's pairs, `clips` the length of each sample. Only `POOL`
    neighbouring rounds of the run are sorted together, so that what is read at a time lies in few
    shards. Lengths count as a little shorter than they are, by another part in every epoch, so that
    it is not always the same videos that meet.
    """
    seen = clips[sample] * (1 - NEAR * random.random(len(sample_rank)))[sample]
    rank = sample_rank[sample]
    order = np.empty_like(run)
    for start in range(0, len(run), POOL * size):
        stop = min(start + POOL * size, len(run))
        pool = start + np.lexsort((rank[start:stop], seen[start:stop]))
        full, rest = divmod(len(pool), size)
        at = size * int(random.integers(full + 1))  # what is left over may be of any length
        whole = np.delete(pool, slice(at, at + rest)).reshape(full, size)
        whole = whole[random.permutation(full)]
        order[start:stop] = np.append(whole, pool[at : at + rest])
    number = np.arange(len(run)) // size
    return run[order[np.lexsort((rank[order], number))]]


def _shared_shuffle(length: int, window: int, random: np.random.Generator) -> Ints:
    """A shuffle within windows that all lanes share, so that equal ranks of length meet.

    Lanes differ in length by one; the odd last place is left where it is.
    """
    places = np.arange(length + 1)
    for start in range(0, length, window):
        random.shuffle(places[start : min(start + window, length)])
    return places


@dataclass(frozen=True)
class Share:
    """Which part of each global batch this process reads: rank `rank` of `world`, and of that rank
    the loader worker `worker` of `workers`."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1

    def rows(self, start: int, stop: int, lanes: int) -> tuple[Ints, Ints]:
        """Positions in [start, stop) that this rank owns, in order, and those of them (as places
        among the rank's rows) that this worker reads."""
        positions = np.arange(start, stop)
        positions = positions[positions % self.world == self.rank]
        lane_of_rank = positions % lanes // self.world
        return positions, np.flatnonzero(lane_of_rank % self.workers == self.worker)


def check_divides(world: int, batch: int, lanes: int) -> None:
    """Raises ValueError unless `world` ranks can share batches of `batch` pairs from `lanes`."""
    if batch % world:
        raise ValueError(
            f"data.batch_size {batch} (pairs over all ranks) must be a multiple of the number of "
            f"ranks, {world}"
        )
    if lanes % world:
        raise ValueError(
            f"data.order.lanes {lanes} must be a multiple of the number of ranks, {world}"
        )
