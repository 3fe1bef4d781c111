"""Features that stay in memory: the same batches, byte for byte; one line where they do not fit."""

import dataclasses
import pickle
import re
import shutil
import subprocess
import sys
import textwrap

import psutil
import pytest
import torch

from data_pipeline.config import DataConfig, OrderConfig, ShapesConfig
from data_pipeline.errors import InputError
from data_pipeline.features.samples import query_rows, stored_query
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import to_json
from data_pipeline.stream import resident
from data_pipeline.stream.resident import bytes_of
from data_pipeline.stream.stream import PairStream
from data_pipeline.untrusted import parse_json
from tests.data_pipeline.stream.test_damage import DAMAGES

CONFIG = DataConfig(batch_size=8, eval_batch_size=8, order=OrderConfig(lanes=8, window=4))
RESIDENT = dataclasses.replace(CONFIG, resident=True)


@pytest.fixture(scope="module")
def features(make_features, tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("resident") / "train", videos=11, queries=3)


def same(one, other):
    """Whether batches hold the same, to the last byte."""
    return (one.annotations, one.damaged) == (other.annotations, other.damaged) and all(
        a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes() and a.shape == b.shape
        for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True)
    )


def check_same(features, rank=0, world=1, start=0, **changes):
    plain, held = (
        PairStream(features, dataclasses.replace(config, **changes), 3, rank, world)
        for config in (CONFIG, RESIDENT)
    )
    for epoch in (0, 1):
        found = list(held.train(epoch, start))
        expected = list(plain.train(epoch, start))
        assert len(found) == len(expected) > 0
        assert all(map(same, found, expected))
    assert all(map(same, held.evaluate(), plain.evaluate()))
    assert held.damaged == plain.damaged


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"last_batch": "wrap"},
        {"clip_dropout": 0.4, "text_dropout": 0.3},
        {"shapes": ShapesConfig(clips=(16,), tokens=(8,), windows=(3,))},
        {"order": OrderConfig(lanes=4, window=4, bucket=True)},
        pytest.param({"workers": 2, "clip_dropout": 0.4}, marks=pytest.mark.slow),
    ],
)
def test_batches_of_resident_features_are_those_that_are_read(features, changes):
    check_same(features, **changes)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_resumes_gets_the_rest_of_its_own(features, rank):
    check_same(features, rank, world=2, start=2, clip_dropout=0.2)


def test_what_a_batch_held_stays_when_the_next_is_made(features):
    held = PairStream(features, RESIDENT, 0).train(0)
    first = next(held)
    before = first.video.clone(), first.text.clone()
    next(held)
    assert torch.equal(first.video, before[0])
    assert torch.equal(first.text, before[1])


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_samples_are_replaced_by_the_same_others(make_features, tmp_path, kind):
    features = make_features(tmp_path / "train", videos=12, queries=3)
    DAMAGES[kind][0](features)
    with pytest.raises(InputError, match=rf"00000\.tar: sample 's0v\d': .*{DAMAGES[kind][1]}"):
        PairStream(features, RESIDENT, 0)
    check_same(FeatureSet(features.folder, skip_damaged=True), skip_damaged=True)


def test_a_set_in_a_store_is_read_as_a_local_one(features, bucket):
    for path in sorted(features.folder.local.iterdir()):
        (type(features.folder)(bucket) / "set" / path.name).write_bytes(path.read_bytes())
    held = PairStream(FeatureSet(f"{bucket}/set"), RESIDENT, 3)
    assert all(map(same, held.train(0), PairStream(features, CONFIG, 3).train(0)))


def test_nothing_is_read_again_once_the_features_are_in_memory(make_features, tmp_path):
    features = make_features(tmp_path / "train", videos=11, queries=3)
    plain = list(PairStream(features, CONFIG, 3).train(0))
    held = PairStream(features, RESIDENT, 3)
    shutil.rmtree(tmp_path / "train")
    assert all(map(same, held.train(0), plain))


def test_what_a_loader_worker_is_given_does_not_grow_with_the_features(make_features, tmp_path):
    sizes = []
    for videos in (4, 40):
        features = make_features(tmp_path / str(videos), videos=videos, per_shard=40)
        held = PairStream(features, RESIDENT, 0)
        list(held.evaluate())
        sizes.append(len(pickle.dumps(held._resident.rows)))
    assert sizes[1] - sizes[0] < 50


def test_a_set_that_does_not_fit_is_refused_in_one_line_before_anything_is_read(
    features, monkeypatch
):
    size = bytes_of(features)
    read = PairStream(features, RESIDENT, 0)._resident
    assert size == read.video.nbytes + read.text.nbytes
    few = dataclasses.replace(RESIDENT, resident_gb=0.9 * size / 1e9)
    monkeypatch.setattr("data_pipeline.stream.resident._read", None)
    with pytest.raises(InputError, match=r"train: its features take .* data\.resident_gb allows"):
        PairStream(features, few, 0)
    memory = psutil.virtual_memory()._replace(available=size)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InputError, match=r"this host has .* GB free; set data\.resident false"):
        PairStream(features, RESIDENT, 0)
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size, 100 * size))
    graphics = torch.device("cuda", 1)
    complaint = resident._complaint(features, RESIDENT, graphics)
    assert re.search(r"cuda:1 has .* GB free; set data\.resident false", complaint)
    with pytest.raises(ValueError, match=r"data\.resident_gb must be a positive"):
        DataConfig(resident_gb=0)


def test_sentences_come_back_from_the_rows_that_hold_them(features):
    for sample in features:
        rows = parse_json(to_json(query_rows(sample.queries)), "rows")
        assert tuple(stored_query(sample.vid, row) for row in rows) == sample.queries


RANKS = """
    import sys, unittest.mock
    import numpy as np
    import torch
    from torch import distributed
    from tests.data_pipeline.stream.test_resident import CONFIG, RESIDENT, same
    from data_pipeline.errors import InputError
    from data_pipeline.features.shards import FeatureSet
    from data_pipeline.stream.stream import PairStream
    from data_pipeline.stream import resident

    folder, rank, place, world = sys.argv[1], int(sys.argv[2]), sys.argv[3], 2
    distributed.init_process_group("gloo", f"file://{place}", world_size=world, rank=rank)
    read, reads = resident._read, []
    resident._read = lambda *args: reads.append(1) or read(*args)
    features = FeatureSet(folder)
    held, plain = (PairStream(features, config, 0, rank, world) for config in (RESIDENT, CONFIG))
    assert len(reads) == (rank == 0), reads
    assert all(map(same, held.train(0), plain.train(0)))
    assert all(map(same, held.evaluate(), plain.evaluate()))
    def nowhere(*_):
        raise AssertionError("looks for memory of another host")
    # On hosts of their own both read, and neither looks for what lies on the other.
    with unittest.mock.patch.multiple(
        "data_pipeline.stream.resident", _host=lambda: f"host {rank}", _read=read
    ), unittest.mock.patch("data_pipeline.mapped._reopened", nowhere):
        apart = PairStream(features, RESIDENT, 0, rank, world)
    assert all(map(same, apart.train(0), plain.train(0)))
    # One rank cannot read, or has no room: both are told, and neither waits.
    def fails(*_):
        raise InputError("train: is damaged")
    resident._read = fails
    for problem in ("is damaged", "no room"):
        try:
            PairStream(features, RESIDENT, 0, rank, world)
        except InputError as error:
            assert problem in str(error), error
        else:
            raise AssertionError(problem)
        if rank == 1:
            resident._complaint = lambda *_: "rank 1: no room"
    distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_ranks_of_a_host_share_what_one_of_them_reads(features, tmp_path):
    place = tmp_path / "meet"
    command = [sys.executable, "-c", textwrap.dedent(RANKS), str(features.folder)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(place)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)[-3000:]
    assert "not writable" not in "".join(said)
