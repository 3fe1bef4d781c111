import dataclasses
import itertools

import pytest
import torch

from data_pipeline.errors import InputError
from data_pipeline.order import OrderConfig
from data_pipeline.stream import DataConfig, PairStream

CONFIG = DataConfig(batch_size=8, eval_batch_size=8, order=OrderConfig(lanes=8, window=4))


@pytest.fixture(scope="module")
def features(make_features, tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("stream") / "train", videos=11, queries=3)


def qids(batch):
    return [annotation.qid for annotation in batch.annotations]


def same(a, b):
    return qids(a) == qids(b) and all(
        torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True)
    )


def stream(features, rank=0, world=1, **changes):
    return PairStream(features, dataclasses.replace(CONFIG, **changes), 0, rank, world)


def test_an_epoch_serves_every_pair_at_most_once_and_leaves_out_less_than_a_batch(features):
    served = [qid for batch in stream(features).train(0) for qid in qids(batch)]
    assert len(served) == len(set(served)) == 32  # of 33 pairs


def test_wrapping_fills_the_last_batch_with_the_first_pairs_of_the_epoch(features):
    served = [q for b in stream(features, last_batch="wrap").train(0) for q in qids(b)]
    assert len(served) == 40
    assert len(set(served)) == 33
    assert served[33:] == served[:7]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_global_batches_of_one_rank(features, world):
    whole = [qids(batch) for batch in stream(features).train(1)]
    parts = [[qids(b) for b in stream(features, rank, world).train(1)] for rank in range(world)]
    for step, batch in enumerate(whole):
        merged = list(itertools.chain(*zip(*(part[step] for part in parts), strict=True)))
        assert merged == batch


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_loader_workers_change_no_byte_of_any_batch(features, workers):
    plain = list(stream(features).train(0))
    loaded = list(stream(features, workers=workers).train(0))
    assert len(plain) == len(loaded)
    assert all(map(same, plain, loaded))


def test_resuming_at_a_batch_gives_the_rest_of_the_epoch_and_reads_nothing_else(
    features, monkeypatch
):
    whole = list(stream(features).train(2))
    read = []
    original = type(features).read
    monkeypatch.setattr(
        type(features), "read", lambda self, index: read.append(index) or original(self, index)
    )
    rest = list(stream(features).train(2, start=3))
    assert all(map(same, whole[3:], rest))
    assert len(read) <= 8


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_sees_every_pair_exactly_once_for_any_number_of_ranks(features, world):
    batches = [list(stream(features, rank, world).evaluate()) for rank in range(world)]
    assert len({len(of_rank) for of_rank in batches}) == 1
    seen = [
        annotation.qid
        for of_rank in batches
        for batch in of_rank
        for annotation, repeated in zip(batch.annotations, batch.repeated, strict=True)
        if not repeated
    ]
    assert len(seen) == len(set(seen)) == 33


def test_a_video_is_read_once_per_visit_and_not_once_per_query(
    make_features, tmp_path, monkeypatch
):
    features = make_features(tmp_path / "many", videos=4, queries=30)
    reads = []
    original = type(features).read
    monkeypatch.setattr(
        type(features), "read", lambda self, index: reads.append(index) or original(self, index)
    )
    config = DataConfig(batch_size=8, order=OrderConfig(lanes=2, window=60))
    list(PairStream(features, config, 0).train(0))
    assert len(reads) <= 4 + 2  # each video once, and once more where a lane's border cuts it


def test_windows_are_normalised_by_the_span_that_decodes_them(features):
    for batch in stream(features).evaluate():
        for row, annotation in enumerate(batch.annotations):
            centre, width = batch.windows[row, 0] * batch.span[row]
            start, end = annotation.windows[0]
            assert (centre - width / 2).item() == pytest.approx(start, abs=1e-4)
            assert (centre + width / 2).item() == pytest.approx(end, abs=1e-4)
            assert batch.span[row] == 2.0 * batch.video_mask[row].sum()


def test_a_set_smaller_than_one_batch_is_refused_with_the_mend(make_features, tmp_path):
    tiny = make_features(tmp_path / "tiny", videos=1, queries=3)
    with pytest.raises(InputError, match=r"3 pairs.*lower data\.batch_size"):
        _ = stream(tiny).steps
    assert stream(tiny, last_batch="wrap").steps == 1
