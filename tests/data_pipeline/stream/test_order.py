import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import OrderConfig
from data_pipeline.stream.order import POOL, Pairs, Share, check_divides, epoch_order


def make_pairs(queries_per_sample: list[int], samples_per_shard: int = 4) -> Pairs:
    sample = np.repeat(np.arange(len(queries_per_sample)), queries_per_sample)
    query = np.concatenate([np.arange(n) for n in queries_per_sample])
    clips = np.random.default_rng(0).integers(5, 80, len(queries_per_sample))
    return Pairs(sample, query, sample // samples_per_shard, clips[sample], np.full(len(sample), 9))


counts = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(counts, st.integers(1, 16), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_every_pair_is_served_exactly_once_in_an_epoch(queries, lanes, window, bucket, epoch):
    pairs = make_pairs(queries)
    order = epoch_order(pairs, OrderConfig(lanes, window, bucket), seed=1, epoch=epoch)
    assert sorted(order.pairs) == list(range(len(pairs)))


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_ranks_and_workers_divide_the_same_global_batches(world, workers, bucket):
    pairs = make_pairs([3] * 50)
    order = epoch_order(pairs, OrderConfig(16, 4, bucket), seed=0, epoch=0)
    batch = 24
    for start in range(0, len(pairs) - batch + 1, batch):
        seen = []
        for rank in range(world):
            rows = [
                Share(rank, world, w, workers).rows(start, start + batch, 16)
                for w in range(workers)
            ]
            positions = rows[0][0]
            assert len(positions) == batch // world
            places = np.concatenate([places for _, places in rows])
            assert sorted(places) == list(range(len(positions)))
            seen.extend(order.pairs[positions])
        assert sorted(seen) == sorted(order.pairs[start : start + batch])


def test_a_rank_reads_the_pairs_of_its_own_lanes_only():
    pairs = make_pairs([2] * 640)
    order = epoch_order(pairs, OrderConfig(lanes=16, window=8), seed=0, epoch=0)
    read = [set(pairs.sample[order.pairs[rank::4]]) for rank in range(4)]
    assert sum(map(len, read)) <= 640 + 16  # only videos cut by a lane border are read twice


def test_epochs_and_seeds_give_different_orders_and_repeat_exactly():
    pairs = make_pairs([2] * 100)
    config = OrderConfig(lanes=8)
    first = epoch_order(pairs, config, 0, 0).pairs
    assert (first == epoch_order(pairs, config, 0, 0).pairs).all()
    assert (first != epoch_order(pairs, config, 0, 1).pairs).any()
    assert (first != epoch_order(pairs, config, 1, 0).pairs).any()


def test_many_queries_of_one_video_are_spread_over_batches():
    pairs = make_pairs([130] * 75, samples_per_shard=1)
    order = epoch_order(pairs, OrderConfig(lanes=64, window=64), seed=0, epoch=0)
    largest = [
        np.bincount(pairs.sample[order.pairs[start : start + 32]]).max()
        for start in range(0, len(pairs) - 32, 32)
    ]
    assert np.mean(largest) < 5


def test_bucketing_brings_similar_lengths_together():
    pairs = make_pairs([1] * 2048)
    padding = {}
    for bucket in (False, True):
        order = epoch_order(pairs, OrderConfig(lanes=32, window=32, bucket=bucket), 0, 0)
        clips = pairs.clips[order.pairs].reshape(-1, 32)
        padding[bucket] = (clips.max(1, keepdims=True) - clips).mean()
    assert padding[True] < padding[False] / 2


@pytest.mark.parametrize("epoch", range(3))
def test_bucketing_pads_little_where_a_window_holds_one_long_video_and_another_a_short_one(epoch):
    """75 videos of TACoS' lengths with 130 sentences each: without it, a batch is as long as its
    longest of 30 videos."""
    lengths = np.geomspace(25, 700, 75).astype(int)
    sample = np.repeat(np.arange(75), 130)
    query = np.tile(np.arange(130), 75)
    pairs = Pairs(sample, query, sample // 8, lengths[sample], np.full(len(sample), 9))
    padding = {}
    for bucket in (False, True):
        order = epoch_order(pairs, OrderConfig(32, 32, bucket), 0, epoch)
        batches = order.pairs[: len(pairs) // 32 * 32].reshape(-1, 32)
        clips = pairs.clips[batches]
        padding[bucket] = clips.max(1).mean() / clips.mean()
    assert padding[True] < 1.4 < 3 < padding[False]
    together = [np.unique(of_batch, return_counts=True)[1] for of_batch in sample[batches]]
    assert np.mean([len(counts) for counts in together]) > 6  # videos of a batch
    assert np.mean([counts.max() for counts in together]) < 9  # pairs of one of them


def test_bucketed_rounds_come_in_another_order_and_company_in_every_epoch():
    pairs = make_pairs([5] * 400)
    config = OrderConfig(8, 8, bucket=True)
    first, again, other = (epoch_order(pairs, config, 0, epoch).pairs for epoch in (0, 0, 1))
    assert (first == again).all()
    rounds, others = (
        {frozenset(part) for part in x[:1984].reshape(-1, 64)} for x in (first, other)
    )
    assert len(rounds) == 31
    assert len(rounds & others) < 4  # of the shortest videos, which differ by more than a tenth


def test_bucketing_sorts_neighbouring_shards_only():
    pairs = make_pairs([1] * 40_000, samples_per_shard=100)
    order = epoch_order(pairs, OrderConfig(8, 8, bucket=True), 0, 0)
    pool = 8 * 8 * POOL
    for start in range(0, len(pairs), pool):
        assert len(np.unique(pairs.shard[order.pairs[start : start + pool]])) <= pool / 100 + 2


def test_a_world_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"data\.batch_size 30"):
        check_divides(world=4, batch=30, lanes=64)
    with pytest.raises(ValueError, match="lanes 64"):
        check_divides(world=3, batch=30, lanes=64)
