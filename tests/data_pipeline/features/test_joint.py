"""A vector per clip and per sentence in the space that the encoders share is stored with them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import InputError
from data_pipeline.features.samples import Damaged, Sample
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.verify import verify
from data_pipeline.features.writing import ShardWriter, write_manifest
from tests.conftest import PROVENANCE, build_sample

WIDTH = 5


def sample(vid: str, width: int | None = WIDTH) -> Sample:
    random = np.random.default_rng(len(vid))
    plain = build_sample(random, vid, queries=2)
    if width is None:
        return plain
    joint = random.normal(0, 1, (len(plain.video) + 2, width)).astype(np.float16)
    return dataclasses.replace(plain, joint=joint)


def write(folder: Path, *samples: Sample) -> FeatureSet:
    folder.mkdir()
    with ShardWriter(folder, "00000") as writer:
        for each in samples:
            writer.add(each)
        index = writer.commit()
    rows: dict[str, Any] = {"name": "rows", "sha256": "", "videos": 2, "queries": 4}
    write_manifest(folder, "val", PROVENANCE, rows, [index])
    return FeatureSet(folder)


def test_joint_vectors_are_read_with_a_sample_and_alone(tmp_path: Path) -> None:
    samples = [sample("a"), sample("bb")]
    features = write(tmp_path / "set", *samples)
    assert features.joint_width == features.manifest["shapes"]["joint"] == WIDTH
    for number, written in enumerate(samples):
        found = features.read(number)
        assert found.joint is not None
        np.testing.assert_array_equal(found.joint, written.joint)
        queries, joint = features.read_joint(number)
        assert queries == written.queries
        np.testing.assert_array_equal(joint, written.joint)
        np.testing.assert_array_equal(found.video, written.video)
    assert list(verify(tmp_path / "set")) == []


def test_a_set_without_them_says_nothing_of_them(tmp_path: Path) -> None:
    features = write(tmp_path / "set", sample("a", None), sample("bb", None))
    assert features.joint_width is None
    assert features.read(0).joint is None
    for file in ("manifest.json", "00000.json"):
        assert "joint" not in (tmp_path / "set" / file).read_text()


def test_altered_joint_vectors_are_found(tmp_path: Path) -> None:
    features = write(tmp_path / "set", sample("a"), sample("bb"))
    place, size = features.samples[1].members["joint.npy"]
    with open(tmp_path / "set" / "00000.tar", "r+b") as tar:
        tar.seek(place + size - 1)
        tar.write(b"\x11")
    for read in (features.read, features.read_joint):
        read(0)
        with pytest.raises(Damaged, match=r"sample 'bb': its joint features are not what"):
            read(1)


def test_a_manifest_that_claims_another_width_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set", sample("a"))
    path = tmp_path / "set" / "manifest.json"
    manifest = json.loads(path.read_text())
    for width in (WIDTH + 1, 0, -1, "5", 1 << 40, [5]):
        manifest["shapes"]["joint"] = width
        path.write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"manifest\.json|00000\.json"):
            FeatureSet(tmp_path / "set")


def test_a_shard_holds_joint_vectors_of_all_or_of_none(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "00000") as writer:
        writer.add(sample("a"))
        with pytest.raises(InputError, match="with one configuration"):
            writer.add(sample("bb", None))
