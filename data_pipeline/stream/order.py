"""In which order does an epoch serve its pairs, and which rank and worker serves which?

The global sequence of pairs is a function of (data set, seed, epoch) alone; global batch b is its
slice [b G, (b + 1) G). It is composed over a fixed number of *lanes*: position p of the sequence
belongs to lane p mod C, rank r of W owns the lanes c with c mod W = r, and the loader workers of a
rank share its lanes the same way. So any number of ranks and workers sees the same global batches,
a rank reads only the shards of its lanes, and resuming means to begin at another b.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import OrderConfig

Ints = NDArray[np.int64]

POOL = 32
"""Rounds that are sorted by length together."""
NEAR = 0.1
"""Part of its length by which a video may count as shorter."""


@dataclass(frozen=True)
class Pairs:
    """All pairs of a data set in storage order, described without reading a feature.

    Arrays over the pairs: the sample (video) that holds the pair, the query's place in that sample,
    the shard that holds the sample, and the lengths of video and sentence.
    """

    sample: Ints
    query: Ints
    shard: Ints
    clips: Ints
    tokens: Ints

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True)
class Order:
    """The sequence of one epoch: pair ids by position, and for each the window it was drawn in."""

    pairs: Ints
    windows: Ints
    lanes: int

    def __len__(self) -> int:
        return len(self.pairs)


def epoch_order(pairs: Pairs, config: OrderConfig, seed: int, epoch: int) -> Order:
    """The order of one training epoch: every pair exactly once.

    Shards are shuffled, then the samples within each shard; the resulting run of pairs is cut into
    `lanes` equal pieces (lengths differ by one at most), each lane shuffles within its windows, and
    the lanes are interleaved. With `bucket` the run is first put in rounds of videos alike in
    length, and each round is dealt to the lanes, one window a lane. Seeded through NumPy's
    SeedSequence, never through `hash`, whose values differ from one interpreter to the next.
    """
    random = np.random.default_rng([seed, epoch])
    count, lanes = len(pairs), config.lanes
    shard_rank = random.permutation(int(pairs.shard.max()) + 1)
    sample_rank = random.permutation(int(pairs.sample.max()) + 1)
    run = np.lexsort((pairs.query, sample_rank[pairs.sample], shard_rank[pairs.shard]))
    if config.bucket:
        size = lanes * config.window
        run = _by_length(run, pairs, sample_rank, size, random)
        rounds = [
            _pieces(min(size, count - start), lanes, random) for start in range(0, count, size)
        ]
        lane = np.concatenate([lane for lane, _ in rounds])
        place = np.concatenate([place + config.window * r for r, (_, place) in enumerate(rounds)])
    else:
        lane, place = _pieces(count, lanes, random)
    window = place // config.window

    draw = random.random(count)
    if config.bucket:
        within = np.lexsort((draw, pairs.clips[run], window, lane))
        place_in_window = _shared_shuffle(count // lanes, config.window, random)
    else:
        within = np.lexsort((draw, window, lane))
        place_in_window = np.arange(count // lanes + 1)
    # `within` lists the run lane by lane and window by window: row i takes the i-th slot.
    slots = np.lexsort((place, lane))
    position = place_in_window[place[slots]] * lanes + lane[slots]
    ordered = np.empty(count, dtype=np.int64)
    windows = np.empty(count, dtype=np.int64)
    ordered[position] = run[within]
    windows[position] = window[within]
    return Order(ordered, windows, lanes)


def _pieces(count: int, lanes: int, random: np.random.Generator) -> tuple[Ints, Ints]:
    """A run of `count` pairs cut in one piece a lane: the lane of each, and its place there."""
    # Lane c holds positions c, c + C, c + 2 C, ...; so the first (count mod C) lanes are longer.
    # Neighbouring pieces of the run may share a video; a permutation keeps them apart.
    lane_of_piece = random.permutation(lanes)
    lengths = count // lanes + (lane_of_piece < count % lanes)
    place = np.arange(count) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(lane_of_piece, lengths), place


def _by_length(
    run: Ints, pairs: Pairs, sample_rank: Ints, size: int, random: np.random.Generator
) -> Ints:
    """The run in rounds of `size` pairs whose videos are about as long, in random order; in a round
    the pairs of a video follow each other. The last round is what is left over.

    Only `POOL` neighbouring rounds of the run are sorted together, so that what is read at a time
    lies in few shards. Lengths count as a little shorter than they are, by another part in every
    epoch, so that it is not always the same videos that meet.
    """
    seen = pairs.clips * (1 - NEAR * random.random(len(sample_rank)))[pairs.sample]
    sorted_run = np.empty_like(run)
    for start in range(0, len(run), POOL * size):
        pool = run[start : start + POOL * size]
        pool = pool[np.lexsort((sample_rank[pairs.sample[pool]], seen[pool]))]
        full, rest = divmod(len(pool), size)
        at = size * int(random.integers(full + 1))  # what is left over may be of any length
        whole = np.delete(pool, slice(at, at + rest)).reshape(full, size)
        whole = whole[random.permutation(full)]
        sorted_run[start : start + len(pool)] = np.append(whole, pool[at : at + rest])
    number = np.arange(len(run)) // size
    return sorted_run[np.lexsort((sample_rank[pairs.sample[sorted_run]], number))]


def _shared_shuffle(length: int, window: int, random: np.random.Generator) -> Ints:
    """A shuffle within windows that all lanes share, so that equal ranks of length meet.

    Lanes differ in length by one; the odd last place is left where it is.
    """
    places = np.arange(length + 1)
    for start in range(0, length, window):
        random.shuffle(places[start : min(start + window, length)])
    return places


def storage_order(count: int, lanes: int) -> Order:
    """The order of evaluation: every pair once, as stored; no lane needs a window."""
    return Order(np.arange(count), np.arange(count) // lanes, lanes)


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
