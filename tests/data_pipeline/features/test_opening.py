"""A set whose parts disagree is refused when it is opened; with skip_damaged, counted."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.config import DataConfig, OrderConfig
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet, Provenance
from data_pipeline.features.verify import verify
from data_pipeline.features.writing import ShardWriter, write_manifest
from data_pipeline.stream.stream import PairStream
from tests.conftest import build_sample

SKIP = DataConfig(
    batch_size=8, eval_batch_size=8, order=OrderConfig(lanes=8, window=4), skip_damaged=True
)


@pytest.fixture
def folder(make_features: Callable[..., FeatureSet], tmp_path: Path) -> Path:
    """Three shards of four videos of three queries: 36 pairs."""
    make_features(tmp_path / "val", videos=12, queries=3)
    return tmp_path / "val"


def change(path: Path, edit: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def in_index(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "00001.json", edit)


def in_manifest(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: change(folder / "manifest.json", edit)


def lose_a_query(sample: Any) -> None:
    sample["queries"].pop()
    sample["checksums"]["text"].pop()
    sample["qids"].pop()


def exchange_one_for_another(index: Any) -> None:
    index["samples"][1] = index["samples"][0] | {"clips": index["samples"][1]["clips"]}


def point_at_the_features_of_another(index: Any) -> None:
    """A sample whose video features, checksum and all, are those of the one before."""
    first, second = index["samples"][:2]
    second["members"]["video.npy"] = first["members"]["video.npy"]
    second["checksums"]["video"] = first["checksums"]["video"]
    second["bytes"] += second["offset"] - first["offset"]
    second["offset"] = first["offset"]


# What is done to a set, what opening says of it, and the pairs that are still read.
LIES: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "no samples": (
        in_index(lambda i: i["samples"].clear()),
        r"00001\.json: holds 0 videos.* 4",
        24,
    ),
    "a sample fewer": (in_index(lambda i: i["samples"].pop()), "holds 3 videos, .* lists 4", 33),
    "a query fewer": (
        in_index(lambda i: lose_a_query(i["samples"][2])),
        "holds 11 queries, .* lists 12",
        33,  # the others of its video do not agree with what is stored
    ),
    "a sample doubled": (
        in_index(lambda i: i["samples"].append(i["samples"][0])),
        "samples 's0v4' and 's0v4' share bytes",
        24,
    ),
    "a sample for another": (in_index(exchange_one_for_another), "share bytes", 24),
    "features of another": (in_index(point_at_the_features_of_another), "share bytes", 24),
    "a clip fewer": (
        in_index(lambda i: i["samples"][0].update(clips=i["samples"][0]["clips"] - 1)),
        "clips, manifest.json lists",
        33,
    ),
    "other bytes": (in_index(lambda i: i.update(bytes=i["bytes"] + 512)), "holds .* bytes", 36),
    "failures lost": (
        in_manifest(lambda m: [v.update(failures=1) for v in (m["shards"][1], m["totals"])]),
        "holds 0 failures, manifest.json lists 1",
        36,
    ),
    "a shard not listed": (
        in_manifest(lambda m: m["shards"].pop()),
        r"manifest\.json: its total of videos is 12, its shards hold 8",
        24,
    ),
    "a shard listed twice": (
        in_manifest(lambda m: m["shards"].append(m["shards"][1])),
        "its total of videos is 12, its shards hold 16",
        36,
    ),
    "a shard in the place of another": (
        in_manifest(lambda m: m["shards"].__setitem__(2, m["shards"][1])),
        "its total of",
        24,
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_set_that_does_not_hold_what_it_lists_is_refused_when_it_is_opened(
    folder: Path, name: str
) -> None:
    spoil, message, _ = LIES[name]
    spoil(folder)
    with pytest.raises(InputError, match=message):
        FeatureSet(folder)
    assert any("json: " in str(fault) for fault in verify(folder))


@pytest.mark.parametrize("name", LIES)
def test_with_skip_damaged_what_is_missing_is_counted_and_nothing_counts_twice(
    folder: Path, name: str
) -> None:
    spoil, _, left = LIES[name]
    spoil(folder)
    features = FeatureSet(folder, skip_damaged=True)
    assert features.faults
    stream = PairStream(features, SKIP, 0)
    read = [
        annotation.qid
        for batch in stream.evaluate()
        for annotation, repeated in zip(batch.annotations, batch.repeated, strict=True)
        if not repeated
    ]
    assert len(read) == len(set(read)) == left
    listed_twice = name == "a shard listed twice"
    assert stream.annotated == (48 if listed_twice else 36)


@pytest.mark.parametrize("apart", [False, True])
def test_a_qid_that_two_videos_have_is_refused(
    tmp_path: Path, provenance: Provenance, apart: bool
) -> None:
    random = np.random.default_rng(0)
    first, second = (build_sample(random, vid, 2) for vid in "ab")
    query = second.queries[0]
    same = replace(query, annotation=replace(query.annotation, qid="a/1"))
    second = replace(second, queries=(same, *second.queries[1:]))
    indexes = []
    for number, group in enumerate([[first], [second]] if apart else [[first, second]]):
        with ShardWriter(tmp_path, f"{number:05d}") as writer:
            for one in group:
                writer.add(one)
            indexes.append(writer.commit())
    write_manifest(tmp_path, "val", provenance, {"name": "a"}, indexes)
    with pytest.raises(InputError, match=r"json: qid 'a/1' is stored twice"):
        FeatureSet(tmp_path)
    rest = FeatureSet(tmp_path, skip_damaged=True)
    assert (rest.pairs, rest.left_out) == (2, 2)
    # Indexes of an earlier version do not name qids: what reads all samples tells.
    for path in tmp_path.glob("0*.json"):
        index = json.loads(path.read_text())
        for entry in index["samples"]:
            del entry["qids"]
        path.write_text(json.dumps(index))
    (fault,) = verify(tmp_path)
    assert str(fault).endswith("sample 'b': qid 'a/1' is stored twice")
