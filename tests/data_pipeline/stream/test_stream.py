import dataclasses
import gc
import itertools
import os
import pickle
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from data_pipeline.annotations import read_annotations
from data_pipeline.config import DataConfig, OrderConfig, ReadingConfig, ShapesConfig, padded
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import ShardWriter, write_manifest
from data_pipeline.stream import fetching
from data_pipeline.stream.order import EpochOrder, Pairs, Share, list_pairs
from data_pipeline.stream.reading import Parts, Serving, _visits
from data_pipeline.stream.stream import PairStream, ahead
from tests.conftest import PROVENANCE, build_sample

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


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"clips": (4, 9, 40), "tokens": (6,), "windows": (3,)}, {"clips": {9, 40}, "tokens": {6}}),
        ({"clips": (7,)}, {"clips": {7, 14, 21}}),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_padded_to_the_configured_shapes_and_hold_the_same(
    features, changes, sizes, workers
):
    plain = list(stream(features, workers=workers).train(0))
    shaped = stream(features, workers=workers, shapes=ShapesConfig(**changes))
    found = {"clips": set(), "tokens": set(), "windows": set()}
    for before, after in zip(plain, shaped.train(0), strict=True):
        assert qids(before) == qids(after)
        for name, tensor in after.tensors().items():
            was = before.tensors()[name]
            assert torch.equal(tensor[tuple(map(slice, was.shape))], was)
            assert tensor.count_nonzero() == was.count_nonzero()  # padding is zero, and masked
        found["clips"].add(after.video.shape[1])
        found["tokens"].add(after.text.shape[1])
        found["windows"].add(after.windows.shape[1])
    for name, allowed in sizes.items():
        assert found[name] <= allowed
    if "windows" in changes:
        assert found["windows"] == {3}
    assert {batch.video.shape[1] for batch in shaped.evaluate()} <= sizes["clips"]


@pytest.mark.parametrize(
    ("length", "sizes", "result"),
    [(5, (), 5), (5, (5, 9), 5), (6, (5, 9), 9), (10, (5, 9), 18), (1, (32,), 32), (65, (32,), 96)],
)
def test_beyond_the_last_configured_length_its_multiples_follow(length, sizes, result):
    assert padded(length, sizes) == result


@pytest.mark.parametrize("sizes", [(0,), (5, 5), (9, 5), (-1, 4), (1 << 17,)])
def test_lengths_that_are_no_list_of_growing_lengths_are_refused(sizes):
    with pytest.raises(ValueError, match=r"data\.shapes\.tokens"):
        ShapesConfig(tokens=sizes)


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


def test_what_a_loader_worker_is_given_does_not_grow_with_the_set(make_features, tmp_path):
    sizes = []
    for videos in (4, 120):
        features = make_features(tmp_path / str(videos), videos=videos, queries=2, per_shard=40)
        order = EpochOrder(list_pairs(features), OrderConfig(lanes=4, window=4), 0, 0)
        serving = Serving(order, 4, range(1), ShapesConfig())
        sizes.append(len(pickle.dumps(Parts(features, serving, ReadingConfig(), Share()))))
    assert sizes[1] - sizes[0] < 50


class Reads:
    """What the stream reads of a local set: bytes, and the samples whose video it reads."""

    def __init__(self, monkeypatch):
        self.bytes, self.videos = 0, []
        pread, preadv, read = os.pread, os.preadv, fetching._LocalVisit._read

        def count(data):
            self.bytes += len(data)
            return data

        def counted_read(visit, place, into):
            if place == visit._video_place:
                self.videos.append(visit._entry.vid)
            return read(visit, place, into)

        def counted_preadv(descriptor, buffers, offset):
            size = preadv(descriptor, buffers, offset)
            self.bytes += size
            return size

        monkeypatch.setattr(os, "pread", lambda *args: count(pread(*args)))
        monkeypatch.setattr(os, "preadv", counted_preadv)
        monkeypatch.setattr(fetching._LocalVisit, "_read", counted_read)


@pytest.mark.parametrize("world", [1, 2])
def test_resuming_gives_the_rest_of_the_epoch_and_reads_nothing_of_what_was_skipped(
    features, monkeypatch, world
):
    whole = [qids(batch) for batch in stream(features).train(2)]
    reads = Reads(monkeypatch)
    parts = [[qids(b) for b in stream(features, r, world).train(2, start=3)] for r in range(world)]
    steps = zip(*parts, strict=True)
    rest = [list(itertools.chain(*zip(*of_step, strict=True))) for of_step in steps]
    assert rest == whole[3:]
    served = [features.samples[int(qid[3:].split("/")[0])] for batch in rest for qid in batch]
    assert reads.bytes < sum(sample.size for sample in served)
    assert len(reads.videos) <= len(served)


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
    reads = Reads(monkeypatch)
    config = DataConfig(batch_size=8, order=OrderConfig(lanes=2, window=60))
    batches = list(PairStream(features, config, 0).train(0))
    assert len(reads.videos) <= 4 + 2  # each video once, and once more where a lane's border cuts
    text = sum(int(batch.text_mask.sum()) for batch in batches) * features.text_shape[0]
    video = sum(s.clips for s in features.samples) * features.video_shape[0]
    of_features = 2 * (text * features.text_shape[1] + 1.5 * video * features.video_shape[1])
    details = 6 * max(s.members["json"][1] for s in features.samples)
    assert reads.bytes <= of_features + details  # of the text, only the sentences that are served


def test_a_buffer_without_room_reads_again_and_changes_no_byte(
    make_features, tmp_path, monkeypatch
):
    features = make_features(tmp_path / "many", videos=4, queries=30)
    whole = list(stream(features).train(0))
    reads = Reads(monkeypatch)
    cramped = list(stream(features, reading=ReadingConfig(buffer_mb=0)).train(0))
    assert all(map(same, whole, cramped))
    assert len(reads.videos) == 120


def test_more_shards_than_are_kept_open_change_no_byte(make_features, tmp_path, monkeypatch):
    features = make_features(tmp_path / "many", videos=9, queries=2, per_shard=1)
    whole = list(stream(features).train(0))
    monkeypatch.setattr("data_pipeline.stream.fetching.OPEN_SHARDS", 2)
    found, most = [], 0
    for batch in stream(features).train(0):
        found.append(batch)
        files = [each.path for each in psutil.Process().open_files()]
        most = max(most, sum(file.startswith(str(features.folder)) for file in files))
    assert all(map(same, whole, found))
    assert 0 < most <= 2


def test_what_is_damaged_and_left_out_is_told(make_features, tmp_path, caplog):
    features = make_features(tmp_path / "gap", videos=9, per_shard=3)
    (features.folder / "00001.json").unlink()
    kept = FeatureSet(features.folder, skip_damaged=True)
    stream(kept, skip_damaged=True)
    [line] = [each for each in caplog.messages if "left out" in each]
    assert "9 pairs are left out" in line
    assert any("00001.json: the shard's index is missing" in each for each in caplog.messages)


def test_dropout_is_drawn_per_pair_whoever_reads_it(features):
    dropping = {"clip_dropout": 0.3, "text_dropout": 0.3}
    plain = list(stream(features).train(1))
    whole = list(stream(features, **dropping).train(1))
    half = list(stream(features, 0, 2, **dropping).train(1))
    assert all(torch.equal(a.video[::2], b.video) for a, b in zip(whole, half, strict=True))
    assert all(torch.equal(a.text[::2], b.text) for a, b in zip(whole, half, strict=True))
    zeroed = total = 0
    for before, after in zip(plain, whole, strict=True):
        clips = (after.video == 0).flatten(2).all(-1) & after.video_mask
        assert not torch.any(clips.sum(1) == after.video_mask.sum(1))  # one always stays
        kept = ~clips[..., None, None]
        assert torch.equal(after.video * kept, before.video * kept)
        assert torch.equal(after.video_mask, before.video_mask)
        zeroed += int(clips.sum())
        total += int(after.video_mask.sum())
    assert 0.2 < zeroed / total < 0.4
    other = list(stream(features, **dropping).train(2))
    again = {q: v for b in other for q, v in zip(qids(b), b.video, strict=True)}
    first = {q: v for b in whole for q, v in zip(qids(b), b.video, strict=True)}
    common = [q for q in first if q in again and first[q].shape == again[q].shape]
    assert not all(torch.equal(first[q], again[q]) for q in common)
    for batch, unchanged in zip(
        stream(features, **dropping).evaluate(), stream(features).evaluate(), strict=True
    ):
        assert same(batch, unchanged)


@pytest.mark.parametrize("bucket", [False, True])
def test_the_queries_of_one_video_are_spread_over_the_batches(bucket):
    """With TACoS' own numbers of queries and lengths where its annotations are at hand."""
    shared = [folder / "shared" / "annotations" for folder in Path(__file__).parents]
    folders = [Path(os.environ.get("SDST_ANNOTATIONS", "../shared/annotations")), *shared]
    files = [f for folder in folders if (f := folder / "tacos" / "tacos_train.jsonl").is_file()]
    counts = Counter(row.vid for row in read_annotations(files[0])) if files else {}
    queries = np.array(list(counts.values()) or [130] * 75)
    video = np.repeat(np.arange(len(queries)), queries)
    clips = np.random.default_rng(0).integers(40, 700, len(queries))
    pairs = Pairs(
        first=np.cumsum([0, *queries]),
        shard=np.arange(len(queries)) // 20,
        clips=clips,
        tokens=np.ones_like(video),
    )
    order = EpochOrder(pairs, OrderConfig(bucket=bucket), 0, 0)
    batches = video[order.pairs[: len(order) // 32 * 32]].reshape(-1, 32)
    most = [np.bincount(batch).max() for batch in batches]
    assert np.mean(most) < 4
    assert max(most) <= 12
    assert np.mean(video[order.pairs[1:]] == video[order.pairs[:-1]]) < 0.1  # seldom in a row
    *_, last = _visits(np.arange(len(order)), order, pairs)
    assert last.sum() < len(pairs) / 20  # over twenty queries are served for one reading


def test_a_provenance_other_than_the_configuration_asks_for_is_refused(features):
    assert stream(features, provenance={"video_encoder": "generated", "video_layers": [0, 1]})
    with pytest.raises(InputError, match=r"clip_length of the features is 2\.0, .* asks for 1\.0"):
        stream(features, provenance={"clip_length": 1.0})
    with pytest.raises(InputError, match=r"'encoder' is no part of a provenance; choose"):
        stream(features, provenance={"encoder": "internvideo2-1b"})


def test_batches_made_ahead_end_with_the_error_of_their_maker_and_stop_with_their_reader():
    def source(count):
        yield from range(count)
        raise InputError("broken")

    items = []
    with pytest.raises(InputError, match="broken"):  # noqa: PT012
        for item in ahead(source(3), 2):
            items.append(item)
    assert items == [0, 1, 2]
    before = threading.active_count()
    for item in ahead(source(100), 2):
        assert item == 0
        break  # its thread must not wait for a reader any more
    gc.collect()
    assert threading.active_count() == before


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


def test_a_set_of_videos_without_sentences_is_refused_with_the_way_to_some(tmp_path):
    sample = build_sample(np.random.default_rng(0), "v", queries=1)
    with ShardWriter(tmp_path, "00000") as writer:
        writer.add(dataclasses.replace(sample, text=sample.text[:0], queries=()))
        index = writer.commit()
    rows = {"name": "archive", "sha256": "", "videos": 1, "queries": 0}
    write_manifest(tmp_path, "val", PROVENANCE, rows, [index])
    with pytest.raises(InputError, match="no sentences about them; join some"):
        PairStream(FeatureSet(tmp_path), DataConfig(), seed=0)
