"""Damaged shards: named when met, or replaced on all ranks alike."""

import dataclasses
import itertools
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import DataConfig, OrderConfig
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.stream import PairStream

CONFIG = DataConfig(batch_size=8, eval_batch_size=8, order=OrderConfig(lanes=8, window=4))
SKIP = dataclasses.replace(CONFIG, skip_damaged=True)


def qids(batch):
    return [annotation.qid for annotation in batch.annotations]


@pytest.fixture
def features(make_features, tmp_path):
    """Three shards of four videos of three queries."""
    return make_features(tmp_path / "train", videos=12, queries=3)


def spoil(features, index, member="video.npy", value=None):
    """Flip a bit in the last value of a member of a stored sample, or write `value` there."""
    entry = features.samples[index]
    place, size = entry.members[member]
    path = features.path(entry.shard).local
    data = bytearray(path.read_bytes())
    if value is None:
        data[place + size - 2] ^= 1
    else:
        data[place + size - 2 : place + size] = np.float16(value).tobytes()
    path.write_bytes(data)


def truncate(features, index):
    """End a tar in the middle of a sample."""
    entry = features.samples[index]
    os.truncate(features.path(entry.shard).local, entry.offset + entry.size // 2)


DAMAGES = {
    "altered": (lambda f: spoil(f, 1), "its video features are not what was written"),
    "nan": (lambda f: spoil(f, 1, value=np.nan), "values that are not finite"),
    "altered text": (lambda f: spoil(f, 1, "text.npy"), "its text features are not what"),
    "altered json": (lambda f: spoil(f, 1, "json"), "its json is not what was written"),
    "truncated": (lambda f: truncate(f, 1), "truncated"),
    "missing": (lambda f: f.path(0).unlink(), "the shard is missing"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_by_shard_and_sample_when_it_is_met(features, kind):
    damage, message = DAMAGES[kind]
    damage(features)
    with pytest.raises(InputError, match=rf"00000\.tar: sample 's0v\d': .*{message}"):
        list(PairStream(features, CONFIG, 0).evaluate())


@pytest.mark.parametrize("kind", ["truncated", "missing"])
def test_a_missing_or_truncated_shard_is_named_before_it_is_met(features, kind):
    DAMAGES[kind][0](features)
    with pytest.raises(InputError, match=r"00000\.tar: (holds|the shard is missing)"):
        FeatureSet(features.folder)
    assert len(FeatureSet(features.folder, skip_damaged=True).samples) == 12


@pytest.mark.parametrize("kind", DAMAGES)
def test_training_goes_on_with_other_pairs_and_the_same_batches_for_any_ranks(features, kind):
    whole = [qids(batch) for batch in PairStream(features, CONFIG, 0).train(0)]
    DAMAGES[kind][0](features)
    features = FeatureSet(features.folder, skip_damaged=True)
    single = PairStream(features, SKIP, 0)
    batches = [qids(batch) for batch in single.train(0)]
    steps = list(zip(whole, batches, strict=True))
    lost = {qid for before, after in steps for qid in set(before) - set(after)}
    assert lost
    assert sum(single.damaged.values()) >= len(lost)
    assert all("00000.tar: sample" in fault for fault in single.damaged)
    for before, after in steps:
        same = [a == b for a, b in zip(before, after, strict=True)]
        assert all(kept or row in lost for kept, row in zip(same, before, strict=True))
        assert not lost & set(after)
    for world in (2, 4):
        ranks = [PairStream(features, SKIP, 0, rank, world) for rank in range(world)]
        parts = [[qids(batch) for batch in rank.train(0)] for rank in ranks]
        together = [
            list(itertools.chain(*zip(*of_step, strict=True)))
            for of_step in zip(*parts, strict=True)
        ]
        assert together == batches
        assert sum((rank.damaged for rank in ranks), start=type(single.damaged)()) == single.damaged


def test_evaluation_leaves_damaged_pairs_out_and_sees_every_other_once(features):
    spoil(features, 5)
    stream = PairStream(features, SKIP, 0)
    seen = [
        annotation.qid
        for batch in stream.evaluate()
        for annotation, repeated in zip(batch.annotations, batch.repeated, strict=True)
        if not repeated
    ]
    expected = {f"s0v{v}/{q}" for v in range(12) if v != 5 for q in range(3)}
    assert len(seen) == len(expected)
    assert set(seen) == expected
    assert sum(stream.damaged.values()) == 3


def test_a_shard_without_its_index_is_left_out_with_its_pairs_counted(features):
    (features.folder / "00001.json").unlink()
    with pytest.raises(InputError, match=r"00001\.json: the shard's index is missing"):
        FeatureSet(features.folder)
    rest = FeatureSet(features.folder, skip_damaged=True)
    assert rest.left_out == 12
    assert len(list(PairStream(rest, SKIP, 0).evaluate())) == 3


@pytest.mark.timeout(60)
def test_a_set_without_a_whole_pair_ends_in_one_line(features):
    for shard in range(3):
        features.path(shard).unlink()
    features = FeatureSet(features.folder, skip_damaged=True)
    with pytest.raises(InputError, match="hardly a pair can be read"):
        list(PairStream(features, SKIP, 0).train(0))


RANK = """
    import sys
    from torch import distributed
    from data_pipeline.errors import InputError
    from data_pipeline.stream.order import OrderConfig
    from data_pipeline.features.shards import FeatureSet
    from data_pipeline.stream.stream import DataConfig, PairStream

    rank, address, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        config = DataConfig(batch_size=8, skip_damaged=True, order=OrderConfig(lanes=8, window=4))
        stream = PairStream(FeatureSet(folder, skip_damaged=True), config, 0, rank, 2)
        steps = 0
        for batch in stream.train(0):
            distributed.barrier()
            steps += 1
        print("steps", steps, "replaced", sum(stream.damaged.values()))
    except InputError as error:
        print("refused", error)
"""


def run_two_ranks(tmp_path: Path, folders) -> list[str]:
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), f"file://{tmp_path}/meet", str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank, folder in enumerate(folders)
    ]
    try:
        return [rank.communicate(timeout=90)[0].strip().splitlines()[-1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.mark.slow
def test_two_processes_take_the_same_steps_over_damage_that_one_of_them_meets(features, tmp_path):
    spoil(features, 1)
    said = run_two_ranks(tmp_path, [features.folder] * 2)
    assert [line.split()[:2] for line in said] == [["steps", "4"]] * 2
    replaced = [int(line.split()[-1]) for line in said]
    assert 1 <= sum(replaced) <= 3


@pytest.mark.slow
def test_two_processes_with_different_sets_both_refuse(features, make_features, tmp_path):
    other = make_features(tmp_path / "other", videos=12, queries=3, seed=1)
    said = run_two_ranks(tmp_path, [features.folder, other.folder])
    assert all("ranks [1] see other shards there than rank 0" in line for line in said)
