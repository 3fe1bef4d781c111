import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import OrderConfig
from data_pipeline.stream.order import POOL, EpochOrder, Pairs, Share, check_divides
from tests.data_pipeline.stream.whole_order import whole_order


def make_pairs(queries: list[int], per_shard: int = 4, clips=None) -> Pairs:
    """Pairs of samples with so many queries each, of 5 to 80 clips or of the given numbers."""
    if clips is None:
        clips = np.random.default_rng(0).integers(5, 80, len(queries))
    shard = np.arange(len(queries)) // per_shard
    return Pairs(np.cumsum([0, *queries]), shard, clips, np.full(sum(queries), 9))


counts = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(counts, st.integers(1, 16), st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_every_pair_is_served_exactly_once_in_an_epoch(queries, lanes, window, bucket, epoch):
    pairs = make_pairs(queries)
    order = EpochOrder(pairs, OrderConfig(lanes, window, bucket), seed=1, epoch=epoch)
    assert sorted(order.pairs) == list(range(len(pairs)))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any),
    st.integers(1, 16),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 40),
)
def test_the_order_that_is_made_window_by_window_is_the_one_that_was_sorted_as_a_whole(
    queries, lanes, window, bucket, epoch, per_shard
):
    pairs, config = make_pairs(queries, per_shard), OrderConfig(lanes, window, bucket)
    whole = whole_order(pairs, config, 5, epoch)
    order = EpochOrder(pairs, config, 5, epoch)
    assert (order.pairs == whole).all()
    positions = np.random.default_rng(0).integers(0, len(pairs), 20)
    assert (order.at(positions) == whole[positions]).all()
    again = pickle.loads(pickle.dumps(order))
    assert (again.at(positions) == whole[positions]).all()


@pytest.mark.parametrize(
    ("config", "digest"),
    [
        (OrderConfig(), "7c1db89b4358b4bc"),
        (OrderConfig(bucket=True), "7db477d708ff7365"),
        (OrderConfig(8, 8, bucket=True), "d4eb8dea9ec5f49f"),  # rounds of several pools
    ],
)
def test_the_order_of_a_seed_is_the_one_of_earlier_versions(config, digest):
    """A run that is resumed after an update goes on with the pairs that it had not seen."""
    pairs = make_pairs([n % 4 for n in range(5000)], per_shard=70)
    found = EpochOrder(pairs, config, seed=3, epoch=2).pairs
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_what_another_process_is_given_of_an_order_does_not_grow_with_it():
    config = OrderConfig(lanes=4, window=4)
    small, large = (EpochOrder(make_pairs([2] * n), config, 0, 0) for n in (10, 10_000))
    assert len(pickle.dumps(large)) - len(pickle.dumps(small)) < 50


@pytest.mark.parametrize("bucket", [False, True])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_ranks_and_workers_divide_the_same_global_batches(world, workers, bucket):
    pairs = make_pairs([3] * 50)
    order = EpochOrder(pairs, OrderConfig(16, 4, bucket), seed=0, epoch=0)
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


def test_a_process_that_is_told_of_no_others_reads_the_whole_batch():
    positions, places = Share().rows(3, 9, 16)
    assert positions.tolist() == [3, 4, 5, 6, 7, 8]
    assert places.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_rank_reads_the_pairs_of_its_own_lanes_only():
    pairs = make_pairs([2] * 640)
    order = EpochOrder(pairs, OrderConfig(lanes=16, window=8), seed=0, epoch=0)
    read = [set(pairs.sample_of(order.pairs[rank::4])) for rank in range(4)]
    assert sum(map(len, read)) <= 640 + 16  # only videos cut by a lane border are read twice


def test_epochs_and_seeds_give_different_orders_and_repeat_exactly():
    pairs = make_pairs([2] * 100)
    config = OrderConfig(lanes=8)
    first = EpochOrder(pairs, config, 0, 0).pairs
    assert (first == EpochOrder(pairs, config, 0, 0).pairs).all()
    assert (first != EpochOrder(pairs, config, 0, 1).pairs).any()
    assert (first != EpochOrder(pairs, config, 1, 0).pairs).any()


def test_many_queries_of_one_video_are_spread_over_batches():
    pairs = make_pairs([130] * 75, per_shard=1)
    order = EpochOrder(pairs, OrderConfig(lanes=64, window=64), seed=0, epoch=0)
    largest = [
        np.bincount(pairs.sample_of(order.pairs[start : start + 32])).max()
        for start in range(0, len(pairs) - 32, 32)
    ]
    assert np.mean(largest) < 5


def test_bucketing_brings_similar_lengths_together():
    pairs = make_pairs([1] * 2048)
    padding = {}
    for bucket in (False, True):
        order = EpochOrder(pairs, OrderConfig(lanes=32, window=32, bucket=bucket), 0, 0)
        clips = pairs.clips_of(order.pairs).reshape(-1, 32)
        padding[bucket] = (clips.max(1, keepdims=True) - clips).mean()
    assert padding[True] < padding[False] / 2


@pytest.mark.parametrize("epoch", range(3))
def test_bucketing_pads_little_where_a_window_holds_one_long_video_and_another_a_short_one(epoch):
    """75 videos of TACoS' lengths with 130 sentences each: without it, a batch is as long as its
    longest of 30 videos."""
    lengths = np.geomspace(25, 700, 75).astype(int)
    pairs = make_pairs([130] * 75, 8, lengths)
    padding = {}
    for bucket in (False, True):
        order = EpochOrder(pairs, OrderConfig(32, 32, bucket), 0, epoch)
        batches = order.pairs[: len(pairs) // 32 * 32].reshape(-1, 32)
        clips = pairs.clips_of(batches)
        padding[bucket] = clips.max(1).mean() / clips.mean()
    assert padding[True] < 1.4 < 3 < padding[False]
    together = [np.unique(of_batch, return_counts=True)[1] for of_batch in pairs.sample_of(batches)]
    assert np.mean([len(counts) for counts in together]) > 6  # videos of a batch
    assert np.mean([counts.max() for counts in together]) < 9  # pairs of one of them


def test_bucketed_rounds_come_in_another_order_and_company_in_every_epoch():
    pairs = make_pairs([5] * 400)
    config = OrderConfig(8, 8, bucket=True)
    first, again, other = (EpochOrder(pairs, config, 0, epoch).pairs for epoch in (0, 0, 1))
    assert (first == again).all()
    rounds, others = (
        {frozenset(part) for part in x[:1984].reshape(-1, 64)} for x in (first, other)
    )
    assert len(rounds) == 31
    assert len(rounds & others) < 4  # of the shortest videos, which differ by more than a tenth


def test_bucketing_sorts_neighbouring_shards_only():
    pairs = make_pairs([1] * 40_000, per_shard=100)
    order = EpochOrder(pairs, OrderConfig(8, 8, bucket=True), 0, 0)
    pool = 8 * 8 * POOL
    for start in range(0, len(pairs), pool):
        read = pairs.shard[pairs.sample_of(order.pairs[start : start + pool])]
        assert len(np.unique(read)) <= pool / 100 + 2


def test_a_world_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"data\.batch_size 30"):
        check_divides(world=4, batch=30, lanes=64)
    with pytest.raises(ValueError, match="lanes 64"):
        check_divides(world=3, batch=30, lanes=64)
