"""The stream over an object store: the batches of a local set, few requests, a bounded cache."""

import dataclasses
import fcntl
import multiprocessing
import shutil
import time
from collections import deque

import pytest
import torch

from data_pipeline.config import DataConfig, OrderConfig, ReadingConfig
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.storage import Location
from data_pipeline.stream.cache import Cache
from data_pipeline.stream.fetching import take
from data_pipeline.stream.stream import PairStream

CONFIG = DataConfig(batch_size=8, order=OrderConfig(lanes=8, window=4))


@pytest.fixture
def local(make_features, tmp_path):
    return make_features(tmp_path / "train", videos=11, queries=3)


@pytest.fixture
def stored(local, bucket):
    """The same set in an object store."""
    folder = Location(bucket) / "train"
    for name in local.folder.names():
        (folder / name).write_bytes((local.folder / name).read_bytes())
    return FeatureSet(folder)


@pytest.fixture
def requests(monkeypatch):
    """Byte ranges that are asked for, as (name, offset)."""
    asked = []
    read_range = Location.read_range

    def counted(location, offset, size):
        asked.append((location.name, offset))
        return read_range(location, offset, size)

    monkeypatch.setattr(Location, "read_range", counted)
    return asked


def batches(features, start=0, **reading):
    config = dataclasses.replace(CONFIG, reading=ReadingConfig(**reading))
    return list(PairStream(features, config, 0).train(0, start))


def same(a, b):
    return a.annotations == b.annotations and all(
        torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True)
    )


def test_an_object_store_gives_the_batches_of_a_disk(local, stored, requests, tmp_path):
    expected = batches(local)
    assert all(map(same, expected, batches(stored)))
    asked = len(requests)
    assert asked <= 33
    cache = tmp_path / "cache"
    assert all(map(same, expected, batches(stored, cache=cache, connections=1)))
    assert len(requests) == asked + 11  # each sample once, however often it is visited
    requests.clear()
    assert all(map(same, expected, batches(stored, cache=cache)))
    assert requests == []


def test_resuming_asks_the_store_for_nothing_of_what_was_skipped(stored, requests):
    rest = batches(stored, start=3)
    vids = {annotation.vid for batch in rest for annotation in batch.annotations}
    places = {(e.shard, e.offset) for e in stored.samples if e.vid in vids}
    assert {(int(name[:5]), offset) for name, offset in requests} == places


def test_bytes_that_were_spoilt_in_the_cache_are_asked_for_anew(local, stored, requests, tmp_path):
    cache = tmp_path / "cache"
    batches(stored, cache=cache)
    for path in cache.glob("??/*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    requests.clear()
    assert all(map(same, batches(local), batches(stored, cache=cache)))
    assert requests


def test_a_damaged_object_is_named_and_a_store_that_fails_is_no_damage(stored, monkeypatch):
    tar = stored.path(0)
    data = bytearray(tar.read_bytes())
    entry = stored.samples[1]
    data[entry.members["video.npy"][0] + 200] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"s3://.*/train/00000\.tar: sample 's0v1': its video"):
        batches(stored)

    def outage(*_):
        raise InputError("s3://x: cannot be read: the store is down")

    monkeypatch.setattr(Location, "read_range", outage)
    config = dataclasses.replace(CONFIG, skip_damaged=True)
    with pytest.raises(InputError, match="the store is down"):
        list(PairStream(stored, config, 0).train(0))


def test_what_stands_before_the_sample_that_is_asked_for_is_not_waited_for_any_more():
    coming = deque([(1, "a"), (2, "b"), (3, "c")])
    assert take(coming, 2) == "b"
    assert list(coming) == [(3, "c")]
    assert take(coming, 2) is None
    assert list(coming) == [(3, "c")]


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path):
    cache = Cache(tmp_path, limit=1000)
    for name in "abcd":
        cache.put(name, name.encode() * 240)
    assert cache.get("a") is not None  # used again
    cache.put("e", b"e" * 240)
    assert cache.get("a") is not None
    assert cache.get("b") is None
    assert cache.get("e") == b"e" * 240
    cache.put("too large", bytes(1001))
    assert cache.get("too large") is None
    cache.put("just not", bytes(1000))
    assert cache.get("just not") == bytes(1000)
    cache.drop("just not")
    cache.drop("just not")  # another process was faster
    assert cache.get("just not") is None
    shutil.rmtree(tmp_path)


def fill(folder, limit, number):
    cache = Cache(folder, limit)
    for name in range(100) if number % 2 else reversed(range(100)):
        data = cache.get(str(name))
        assert data is None or data == bytes([name]) * 1000
        cache.put(str(name), bytes([name]) * 1000)


@pytest.mark.slow
def test_processes_share_a_cache_that_never_exceeds_its_limit(tmp_path):
    limit = 20_000
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=fill, args=(tmp_path, limit, number)) for number in range(3)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        with open(tmp_path / "size", "a") as accounts:
            fcntl.flock(accounts, fcntl.LOCK_EX)  # nobody writes while we look
            assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) <= limit
        time.sleep(0.005)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert not list(tmp_path.glob("??/*.tmp"))
