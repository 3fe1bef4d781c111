"""The order of an epoch as it was made before: all of it at once, by sorting pairs."""

import numpy as np

from data_pipeline.config import OrderConfig
from data_pipeline.stream.order import NEAR, POOL, Ints, Pairs


def whole_order(pairs: Pairs, config: OrderConfig, seed: int, epoch: int) -> Ints:
    """The pairs by position."""
    queries = np.diff(pairs.first)
    sample = np.repeat(np.arange(len(queries)), queries)
    query = np.arange(len(sample)) - pairs.first[sample]
    shard, clips = pairs.shard[sample], pairs.clips[sample]

    random = np.random.default_rng([seed, epoch])
    count, lanes, window = len(pairs), config.lanes, config.window
    shard_rank = random.permutation(int(shard.max()) + 1)
    sample_rank = random.permutation(int(sample.max()) + 1)
    run = np.lexsort((query, sample_rank[sample], shard_rank[shard]))
    if config.bucket:
        size = lanes * window
        run = by_length(run, sample, clips, sample_rank, size, random)
        rounds = [
            pieces(min(size, count - start), lanes, random) for start in range(0, count, size)
        ]
        lane = np.concatenate([lane for lane, _ in rounds])
        place = np.concatenate([place + window * r for r, (_, place) in enumerate(rounds)])
    else:
        lane, place = pieces(count, lanes, random)

    draw = random.random(count)
    places = np.arange(count // lanes + 1)
    if config.bucket:
        within = np.lexsort((draw, clips[run], place // window, lane))
        for start in range(0, count // lanes, window):
            random.shuffle(places[start : min(start + window, count // lanes)])
    else:
        within = np.lexsort((draw, place // window, lane))
    slots = np.lexsort((place, lane))
    ordered = np.empty(count, dtype=np.int64)
    ordered[places[place[slots]] * lanes + lane[slots]] = run[within]
    return ordered


def pieces(count: int, lanes: int, random: np.random.Generator) -> tuple[Ints, Ints]:
    """Lane and place in it of each of a run."""
    lane_of_piece = random.permutation(lanes)
    lengths = count // lanes + (lane_of_piece < count % lanes)
    place = np.arange(count) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(lane_of_piece, lengths), place


def by_length(
    run: Ints, sample: Ints, clips: Ints, rank: Ints, size: int, random: np.random.Generator
) -> Ints:
    """The run in rounds of videos alike in length."""
    seen = clips * (1 - NEAR * random.random(len(rank)))[sample]
    found = np.empty_like(run)
    for start in range(0, len(run), POOL * size):
        pool = run[start : start + POOL * size]
        pool = pool[np.lexsort((rank[sample[pool]], seen[pool]))]
        full, rest = divmod(len(pool), size)
        at = size * int(random.integers(full + 1))
        whole = np.delete(pool, slice(at, at + rest)).reshape(full, size)[random.permutation(full)]
        found[start : start + len(pool)] = np.append(whole, pool[at : at + rest])
    return found[np.lexsort((rank[sample[found]], np.arange(len(run)) // size))]
