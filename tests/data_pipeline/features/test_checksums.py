"""Bytes that were altered or moved are noticed; older indexes are read as they were written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.config import DataConfig, OrderConfig
from data_pipeline.errors import InputError
from data_pipeline.features.checksums import SUM, checksum
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.verify import verify
from data_pipeline.stream.stream import PairStream

CONFIG = DataConfig(batch_size=4, eval_batch_size=4, order=OrderConfig(lanes=4, window=4))


@pytest.fixture
def features(make_features: Callable[..., FeatureSet], tmp_path: Path) -> FeatureSet:
    return make_features(tmp_path / "val", videos=4, queries=2)


def exchange_halves(features: FeatureSet, member: str) -> None:
    """Put the second half of the values of sample 1 before the first, in words of 8 bytes."""
    place, size = features.samples[1].members[member]
    path = features.path(0).local
    assert path is not None
    data = bytearray(path.read_bytes())
    start, end = place + size - (size - 128) // 16 * 16, place + size
    half = (end - start) // 2
    data[start:end] = data[start + half : end] + data[start : start + half]
    path.write_bytes(data)


WAYS: dict[str, Callable[[FeatureSet], object]] = {
    "read": lambda features: features.read(1),
    "stream": lambda features: list(PairStream(features, CONFIG, 0).evaluate()),
}


@pytest.mark.parametrize("way", WAYS)
def test_exchanged_halves_of_a_video_are_noticed(features: FeatureSet, way: str) -> None:
    exchange_halves(features, "video.npy")
    with pytest.raises(InputError, match="its video features are not what was written"):
        WAYS[way](features)


@given(st.binary(min_size=2, max_size=200), st.data())
def test_any_two_bytes_that_change_places_change_the_checksum(raw: bytes, data: st.DataObject):
    first, second = (data.draw(st.integers(0, len(raw) - 1)) for _ in "ab")
    moved = bytearray(raw)
    moved[first], moved[second] = moved[second], moved[first]
    assert (checksum(bytes(moved)) == checksum(raw)) == (bytes(moved) == raw)


def as_written_before(folder: Path) -> None:
    """The index as earlier versions wrote it: sums, no kind, no qids; and none over all shards."""
    (folder / "index.safetensors").unlink()
    features = FeatureSet(folder)
    path = folder / "00000.json"
    index = json.loads(path.read_text())
    for number, entry in enumerate(index["samples"]):
        sample = features.read(number)
        place, size = entry["members"]["json"]
        tar = (folder / "00000.tar").read_bytes()
        entry["checksums"] = {
            "video": checksum(sample.video, SUM),
            "text": [checksum(sample.text[slice(*q.tokens)], SUM) for q in sample.queries],
            "json": checksum(tar[place : place + size], SUM),
        }
        del entry["qids"]
    del index["checksum"]
    path.write_text(json.dumps(index))


def test_a_set_of_an_earlier_version_is_read_and_its_damage_noticed(features: FeatureSet) -> None:
    folder = features.folder.local
    assert folder is not None
    expected = [features.read(number).video for number in range(4)]
    as_written_before(folder)
    old = FeatureSet(folder)
    assert all(np.array_equal(old.read(n).video, video) for n, video in enumerate(expected))
    assert len(list(PairStream(old, CONFIG, 0).evaluate())) == 2
    assert list(verify(folder)) == []
    data = bytearray((folder / "00000.tar").read_bytes())
    data[old.samples[0].members["video.npy"][0] + 130] ^= 1
    (folder / "00000.tar").write_bytes(data)
    with pytest.raises(InputError, match="its video features are not what was written"):
        old.read(0)


def test_a_kind_of_checksum_that_is_not_known_is_refused(features: FeatureSet) -> None:
    path = features.folder.local / "00000.json"
    path.write_text(path.read_text().replace("xxh3-64", "later-64"))
    with pytest.raises(InputError, match=r"00000\.json: has checksums of a kind .*'later-64'"):
        FeatureSet(features.folder)
