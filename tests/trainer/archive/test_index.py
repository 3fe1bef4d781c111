"""An index holds every clip once, whatever killed its making, and nothing else opens as one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from model.layers.inputs import clip_endpoints
from tests.trainer.archive.conftest import LONGEST, index_of
from trainer.archive import building
from trainer.archive.archive import Archive
from trainer.archive.building import Source, add_sets, remove
from trainer.archive.index import Index, parts, read_manifest
from trainer.archive.writing import writer
from trainer.inference.pretrained import load_pretrained


def names(index: Index) -> list[str]:
    return [index.name(video) for video in range(len(index.videos))]


def contents(folder: Path) -> dict[str, bytes]:
    """What counts of each file, without the header, which has the index's own id."""
    return {
        role: (folder / name).read_bytes()[64 : 64 + size]
        for role, (name, size) in parts(read_manifest(folder)).items()
    }


def test_rows_are_the_clips_that_the_model_projects(
    indexed: Path, run: Path, features: FeatureSet
) -> None:
    index, (model, _) = Index(indexed), load_pretrained(run)
    assert names(index) == [sample.vid for sample in features]
    for video, sample in enumerate(features):
        row = index.rows(video)
        halves = np.array_split(sample.video, -(-len(sample.video) // LONGEST))
        for half, stored in zip(
            halves, np.array_split(index.vectors[row], len(halves)), strict=True
        ):
            ends = clip_endpoints(torch.ones(1, len(half), dtype=torch.bool))[0]
            with torch.no_grad():
                clips = model.video(torch.from_numpy(half[:, -1].astype(np.float32)), ends)
            expected = clips / clips.norm(dim=-1, keepdim=True)
            assert stored == pytest.approx(expected.numpy(), abs=1e-3)
        assert (index.clips["video"][row] == video).all()
        assert index.clips["clip"][row].tolist() == list(range(len(sample.video)))
        assert index.clips["time"][row].tolist() == [2.0 * i for i in range(len(sample.video))]


def test_an_addition_that_is_cut_off_goes_on_where_it_was(
    tmp_path: Path, run: Path, features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "BLOCK", 2)
    monkeypatch.setattr(building, "COMMIT_SECONDS", 0.0)
    whole = index_of(tmp_path / "whole", run, features)
    source = Source(run, "projected", None)
    taken = []

    def cut_off(features: FeatureSet, samples: range):
        taken.append(len(samples))
        yield from list(source.blocks(features, samples))[:2]
        raise KeyboardInterrupt

    for _ in range(2):
        with (
            pytest.raises(KeyboardInterrupt),
            writer(tmp_path / "cut", str(run), source.made_with(features)) as target,
        ):
            add_sets(target, [(features, None)], cut_off)
    assert taken == [12, 8]
    assert len(Index(tmp_path / "cut").videos) == 8  # searchable meanwhile
    index_of(tmp_path / "cut", run, features)
    assert contents(tmp_path / "cut") == contents(whole)


def test_what_was_written_but_never_counted_is_nobodys(
    tmp_path: Path, indexed: Path, run: Path, make_features: Callable[..., FeatureSet]
) -> None:
    more = make_features(tmp_path / "more", videos=5, seed=8)
    expected = contents(
        index_of(tmp_path / "other", run, *(FeatureSet(tmp_path / "features"), more))
    )
    for name, _ in parts(read_manifest(indexed)).values():
        with open(indexed / name, "ab") as file:
            file.write(b"unfinished")
    assert len(Index(indexed).videos) == 12
    index_of(indexed, run, more)
    assert contents(indexed) == expected


def test_videos_that_are_there_already_are_passed_over(
    tmp_path: Path, indexed: Path, run: Path, make_features: Callable[..., FeatureSet]
) -> None:
    before = contents(indexed)
    larger = make_features(tmp_path / "larger", videos=13, queries=1, seed=3)
    source = Source(run, "projected", None)
    with writer(indexed, str(run), source.made_with(larger)) as target:
        added = add_sets(target, [(larger, None)], source.blocks)
    assert (added.videos, added.before) == (1, 12)
    assert {role: data[: len(before[role])] for role, data in contents(indexed).items()} == before


def test_removal_leaves_the_others_as_they_were(
    tmp_path: Path, indexed: Path, run: Path, make_features: Callable[..., FeatureSet]
) -> None:
    more = make_features(tmp_path / "more", videos=5, seed=8)
    index_of(indexed, run, more)
    before = Index(indexed)
    kept = {before.name(v): before.vectors[before.rows(v)].copy() for v in range(12)}
    with writer(indexed, "", None) as target:
        assert remove(target, [str(tmp_path / "more"), "s3v4"]) == 6
    del kept["s3v4"]
    after = Index(indexed)
    assert names(after) == list(kept)
    for video, name in enumerate(kept):
        assert np.array_equal(after.vectors[after.rows(video)], kept[name])
        assert (after.clips["video"][after.rows(video)] == video).all()
    assert [Path(each.path).name for each in after.manifest.sets] == ["features"]
    assert len(list(indexed.glob("vectors.*"))) == 1
    assert len(before.vectors[before.rows(12)])  # who has it open goes on
    index_of(indexed, run, FeatureSet(tmp_path / "features"))  # brings back what is missing
    assert sorted(names(Index(indexed))) == sorted([*kept, "s3v4"])


def test_a_name_of_nothing_is_not_removed(indexed: Path) -> None:
    with (
        pytest.raises(InputError, match="no set and no video called 'nobody'"),
        writer(indexed, "", None) as target,
    ):
        remove(target, ["s3v4", "nobody"])
    assert len(Index(indexed).videos) == 12


def test_a_damaged_sample_is_left_out_and_told(
    tmp_path: Path, run: Path, features: FeatureSet
) -> None:
    entry = features.samples[5]
    with open(features.path(entry.shard).local, "r+b") as file:  # type: ignore[arg-type]
        file.seek(entry.members["video.npy"][0] + 200)
        file.write(b"\x00\x7e" * 8)
    index = Index(index_of(tmp_path / "index", run, features))
    assert entry.vid not in names(index)
    assert len(index.videos) == 11
    assert index.manifest.sets[0].left_out == 1


@pytest.mark.parametrize("role", ["vectors", "clips", "videos", "names"])
def test_a_file_that_is_cut_off_or_of_another_index_is_one_line(
    tmp_path: Path, indexed: Path, run: Path, features: FeatureSet, role: str
) -> None:
    name, _ = parts(read_manifest(indexed))[role]
    other = index_of(tmp_path / "other", run, features)
    shutil.copy(indexed / name, tmp_path / "good")
    with open(indexed / name, "r+b") as file:
        file.truncate((indexed / name).stat().st_size - 1)
    with pytest.raises(InputError, match=f"{name}: is cut off"):
        Index(indexed)
    shutil.copy(other / name, indexed / name)
    with pytest.raises(InputError, match=f"{name}: belongs to another index"):
        Index(indexed)
    shutil.copy(tmp_path / "good", indexed / name)
    Index(indexed)
    (indexed / name).unlink()
    with pytest.raises(InputError, match=f"{name}: cannot be read: No such file"):
        Index(indexed)
    for replaced in (Path.mkdir, lambda path: path.symlink_to(path.name)):
        replaced(indexed / name)
        with pytest.raises(InputError, match=f"{name}: cannot be read: .*; make the index again"):
            Index(indexed)
        (indexed / name).rmdir() if (indexed / name).is_dir() else (indexed / name).unlink()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "sdst index 2"},
        {"clips": 10**6},
        {"videos": 11},
        {"videos": -1},
        {"made_with": None},
        {"made_with": {"width": 0}},
        {"made_with": {"vectors": "guessed"}},
        {"sets": []},
        {"sets": [{"path": 3, "manifest": ""}]},
        {"sets": [{"where": "x"}]},
        {"id": 7},
        {"model": None},
        {"generation": 1},
    ],
)
def test_a_manifest_that_does_not_fit_is_one_line(indexed: Path, change: dict[str, object]) -> None:
    value = json.loads((indexed / "index.json").read_text())
    for key, new in change.items():
        value[key] = value[key] | new if isinstance(new, dict) else new
    (indexed / "index.json").write_text(json.dumps(value))
    with pytest.raises(InputError) as caught:
        Index(indexed)
    assert "\n" not in str(caught.value)


def test_a_table_of_videos_that_does_not_fit_the_rows_is_refused(indexed: Path) -> None:
    (path,) = indexed.glob("videos.*")
    data = bytearray(path.read_bytes())
    data[64 + 8] ^= 1  # the first row of the first video
    path.write_bytes(data)
    with pytest.raises(InputError, match="does not fit"):
        Index(indexed)


def test_another_model_or_other_features_do_not_write_into_an_index(
    tmp_path: Path, indexed: Path, run: Path, features: FeatureSet
) -> None:
    made = Source(run, "projected", None).made_with(features)
    others = {
        "weights": replace(made, weights="0" * 64),
        "configuration": replace(made, architecture="0" * 64),
        "clip_length": replace(made, features=replace(made.features, clip_length=1.0)),
        "vectors": replace(made, vectors="joint"),
    }
    for what, other in others.items():
        with pytest.raises(InputError, match=what), writer(indexed, str(run), other):
            pass


def test_one_process_writes_at_a_time(indexed: Path) -> None:
    with (
        writer(indexed, "", None),
        pytest.raises(InputError, match="another launch"),
        writer(indexed, "", None),
    ):
        pass


def test_a_folder_of_other_files_is_not_written_into(
    tmp_path: Path, run: Path, features: FeatureSet
) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "videos.0.bin").write_bytes(b"a friend's")
    with pytest.raises(InputError, match="holds other files"):
        index_of(tmp_path / "index", run, features)
    assert (tmp_path / "index" / "videos.0.bin").read_bytes() == b"a friend's"


def test_a_set_that_changed_or_went_is_told(
    tmp_path: Path, indexed: Path, run: Path, make_features: Callable[..., FeatureSet]
) -> None:
    shutil.move(tmp_path / "features", tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--add it where it lies now"):
        Archive.open(indexed)
    index_of(indexed, run, FeatureSet(tmp_path / "elsewhere"))
    assert len(Archive.open(indexed).index.videos) == 12
    shutil.rmtree(tmp_path / "elsewhere")
    make_features(tmp_path / "elsewhere", videos=12, queries=2, seed=4)
    with pytest.raises(InputError, match="has changed since it was indexed"):
        Archive.open(indexed)
    with pytest.raises(InputError, match="has changed since it was indexed"):
        index_of(indexed, run, FeatureSet(tmp_path / "elsewhere"))
