"""Before training starts it is told what its annotations hardly mean."""

from dataclasses import replace

import pytest

from data_pipeline.features.samples import StoredQuery
from data_pipeline.features.shards import FeatureSet
from data_pipeline.features.writing import ShardWriter, write_manifest
from trainer.main import main
from trainer.training import splits as opened


@pytest.fixture
def altered(splits, tmp_path):
    """Stores the training split with windows of its own for every pair."""

    def store(windows):
        features, folder = FeatureSet(splits / "train"), tmp_path / "train"
        folder.mkdir()
        with ShardWriter(folder, "00000") as writer:
            for index in range(len(features.samples)):
                sample = features.read(index)
                queries = tuple(
                    StoredQuery(replace(each.annotation, windows=windows), each.tokens)
                    for each in sample.queries
                )
                writer.add(replace(sample, queries=queries))
            index = writer.commit()
        names = {"name": "generated", "sha256": "", "videos": 0, "queries": 0}
        write_manifest(folder, "train", features.provenance, names, [index])
        return folder

    return store


def test_pairs_without_windows_are_counted_when_training_starts(altered, command, capsys):
    assert main(command(epochs=1, **{"data.train": altered(None)})) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: 48 of 48 training pairs have no window" in printed


def test_windows_that_nobody_means_are_counted_when_training_starts(altered, monkeypatch):
    features = FeatureSet(altered(((6.0, 2.0),)))
    [line] = opened.doubts_of(features)
    assert line.startswith("48 of 48 training pairs have a window that ends before it begins")
    monkeypatch.setattr(opened, "LOOKED_AT", 5)
    [line] = opened.doubts_of(features)
    assert line.startswith("12 of 12 training pairs that were looked at have a window")


def test_of_sound_annotations_nothing_is_told(splits):
    assert opened.doubts_of(FeatureSet(splits / "train")) == []
