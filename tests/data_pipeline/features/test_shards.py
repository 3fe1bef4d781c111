"""Shards: bytes that samples determine, samples read back exactly, damage named."""

import dataclasses
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.annotations import Annotation
from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.shards import FeatureSet, Provenance
from data_pipeline.features.verify import verify
from data_pipeline.features.writing import Failure, ShardWriter, sample_key, write_manifest
from data_pipeline.storage import Location, Source
from data_pipeline.stream.stream import PairStream
from launch import shards as shards_command


def sample(vid: str, clips: int = 3, seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    saliency = {1: (4, 3, 2)}
    return Sample(
        vid=vid,
        duration=2.0 * clips,
        clip_length=2.0,
        video=random.normal(size=(clips, 2, 5)).astype(np.float16),
        text=random.normal(size=(7, 2, 4)).astype(np.float16),
        queries=(
            StoredQuery(Annotation(f"{vid}-0", "a dog", vid, 6.0, ((0.5, 2.0),), saliency), (0, 3)),
            StoredQuery(Annotation(f"{vid}-1", "a cät", vid, 6.0), (3, 7)),
        ),
    )


VIDS = ("Ab.c_1.0", "ab.c_1.0", "x/y " * 40)


WriteSet = Callable[[Source, list[list[Sample]]], FeatureSet]


@pytest.fixture
def write_set(provenance: Provenance) -> WriteSet:
    def write(folder: Source, samples: list[list[Sample]]) -> FeatureSet:
        Location(folder).mkdir()
        indexes = []
        for number, group in enumerate(samples):
            with ShardWriter(folder, f"{number:05d}") as writer:
                for one in group:
                    writer.add(one)
                indexes.append(writer.commit([Failure("gone", "missing", "gone: no such file")]))
        write_manifest(folder, "train", provenance, {"name": "a.jsonl"}, indexes)
        return FeatureSet(folder)

    return write


@pytest.fixture
def features(tmp_path: Path, write_set: WriteSet) -> FeatureSet:
    samples = [sample(vid, clips=2 + n, seed=n) for n, vid in enumerate(VIDS)]
    return write_set(tmp_path / "set", [samples[:2], samples[2:]])


def test_a_set_in_an_object_store_has_the_bytes_of_a_local_one_and_verifies(
    features: FeatureSet, bucket: str, write_set: WriteSet
) -> None:
    samples = [sample(vid, clips=2 + n, seed=n) for n, vid in enumerate(VIDS)]
    stored = write_set(f"{bucket}/set", [samples[:2], samples[2:]])
    for name in ("00000.tar", "00000.json", "00001.tar", "00001.json", "manifest.json"):
        assert (stored.folder / name).read_bytes() == (features.folder / name).read_bytes()
    assert np.array_equal(stored.read(2).video, features.read(2).video)
    assert list(verify(stored.folder)) == []
    assert shards_command.main(["verify", str(stored.folder)]) == 0


def test_samples_come_back_as_they_went_in(features: FeatureSet, provenance: Provenance) -> None:
    assert [entry.shard for entry in features.samples] == [0, 0, 1]
    assert [entry.clips for entry in features.samples] == [2, 3, 4]
    assert features.samples[0].queries == (3, 4)
    assert features.pairs == 6
    for index, vid in enumerate(VIDS):
        expected, found = sample(vid, clips=2 + index, seed=index), features.read(index)
        assert np.array_equal(found.video, expected.video)
        assert np.array_equal(found.text, expected.text)
        assert found.queries == expected.queries
        assert (found.vid, found.duration) == (vid, expected.duration)
    assert features.read(0).queries[1].tokens == (3, 7)
    assert features.read(0).queries[1].annotation.query == "a cät"
    assert (features.video_shape, features.text_shape) == ((2, 5), (2, 4))
    assert features.provenance == provenance


def test_equal_samples_make_equal_bytes(
    features: FeatureSet, tmp_path: Path, write_set: WriteSet
) -> None:
    samples = [sample(vid, clips=2 + n, seed=n) for n, vid in enumerate(VIDS)]
    again = write_set(tmp_path / "again", [samples[:2], samples[2:]])
    for name in ("00000.tar", "00000.json", "00001.tar", "00001.json", "manifest.json"):
        assert (again.folder / name).read_bytes() == (features.folder / name).read_bytes()


def test_webdataset_and_tarfile_read_the_same_shard(features: FeatureSet) -> None:
    wds = pytest.importorskip("webdataset")
    path = str(features.path(0))
    found = list(wds.WebDataset(path, shardshuffle=False))
    assert [json.loads(one["json"])["vid"] for one in found] == list(VIDS[:2])
    assert {"video.npy", "text.npy", "json"} <= set(found[0])
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert len(members) == 6
    assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in members)


def test_others_read_a_shard_in_the_five_lines_of_the_readme(
    features: FeatureSet, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = Path(__file__).parents[3] / "data_pipeline" / "README.md"
    blocks = readme.read_text(encoding="utf-8").split("```python\n")[1:]
    (code,) = (block.partition("```")[0] for block in blocks if "import webdataset" in block)
    assert len([line for line in code.splitlines() if line]) <= 5
    named = "data/quickstart/features/val/00000.tar"
    assert named in code
    exec(code.replace(named, str(features.path(0))), {})
    lines = capsys.readouterr().out.splitlines()
    first = features.read(0)
    assert len(lines) == 2
    assert f"{first.vid} {first.video.shape} {first.text.shape}" in lines[0]
    assert first.queries[0].annotation.query in lines[0]


@given(st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_keys_differ_where_ids_differ_even_without_regard_to_case(vids: list[str]) -> None:
    try:
        keys = [sample_key(vid) for vid in vids]
    except UnicodeEncodeError:  # a lone surrogate is in no JSON file
        return
    assert len({key.lower() for key in keys}) == 2
    assert all("." not in key and "/" not in key for key in keys)


def test_an_uncommitted_shard_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, "00000") as writer:
            writer.add(sample("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_whole_set_verifies_and_every_flipped_bit_is_found(features: FeatureSet) -> None:
    assert list(verify(features.folder)) == []
    path = features.path(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    faults = [str(fault) for fault in verify(features.folder)]
    assert any("00001.tar" in fault and "SHA-256" in fault for fault in faults)


def test_values_and_lengths_are_verified(tmp_path: Path, write_set: WriteSet) -> None:
    bad = sample("nan")
    bad.video[0, 0, 0] = np.nan
    short = Sample(**{**vars(sample("short")), "duration": 60.0})
    faults = [str(f) for f in verify(write_set(tmp_path / "bad", [[bad, short]]).folder)]
    assert len(faults) == 2
    assert "00000.tar: sample 'nan': video features hold values that are not finite" in faults[0]
    assert "sample 'short': 3 clips, its 60.00 s make 30" in faults[1]


def test_counts_are_verified(tmp_path: Path, write_set: WriteSet) -> None:
    folder = tmp_path / "set"
    with pytest.raises(InputError, match=r"00001\.json: video 'a' is stored twice"):
        write_set(folder, [[sample("a")], [sample("a")]])
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["totals"]["clips"] += 1
    (folder / "manifest.json").write_bytes(json.dumps(manifest).encode())
    faults = "\n".join(str(fault) for fault in verify(folder))
    assert "manifest.json: its total of clips is 7, its shards hold 6" in faults
    assert "00001.json: video 'a' is stored twice" in faults


def test_verification_goes_on_where_a_shard_is_missing(features: FeatureSet) -> None:
    features.path(0).unlink()
    (features.folder / "00001.json").unlink()
    faults = [str(fault) for fault in verify(features.folder)]
    assert any("00000.tar: not found" in fault for fault in faults)
    assert any("00001.json: the shard's index is missing" in fault for fault in faults)


def test_coverage_of_the_annotations_is_verified(features: FeatureSet, tmp_path: Path) -> None:
    rows = [q.annotation for n in range(3) for q in features.read(n).queries]
    rows.append(Annotation("new", "a bird", "unknown", 10.0))
    rows.append(Annotation("lost", "a bird", "gone", 10.0))
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(row.to_row()) + "\n" for row in rows[1:]))
    (features.folder / "failures.jsonl").write_bytes(b'{"vid": "gone", "kind": "missing"}\n')
    faults = [str(fault) for fault in verify(features.folder, path)]
    assert len(faults) == 2
    assert "qid 'new': video 'unknown' is neither stored nor in failures.jsonl" in faults[0]
    assert f"qid '{VIDS[0]}-0' is stored and not in" in faults[1]


def test_damage_is_named_by_shard_and_sample(features: FeatureSet) -> None:
    path = features.path(0)
    data = path.read_bytes()
    entry = features.samples[1]
    start = entry.members["video.npy"][0]
    path.write_bytes(data[:start] + b"x" * 64 + data[start + 64 :])
    with pytest.raises(InputError, match=r"00000\.tar: sample 'ab\.c_1\.0'"):
        features.read(1)
    features.read(0)
    path.write_bytes(data[: entry.offset + 10])
    with pytest.raises(InputError, match="truncated; remove it and run the extraction again"):
        features.read(1)
    with pytest.raises(InputError, match=r"00000\.tar: holds \d+ bytes and not"):
        FeatureSet(features.folder)


def test_features_of_an_object_type_are_not_unpickled(features: FeatureSet) -> None:
    entry = features.samples[0]
    start, _ = entry.members["video.npy"]
    data = bytearray(features.path(0).read_bytes())
    head = data[start : start + 128]
    head[:] = head.replace(b"'<f2'", b"'|O' ")
    data[start : start + 128] = head
    features.path(0).write_bytes(data)
    with pytest.raises(InputError, match=r"sample 'Ab\.c_1\.0': an array .* of object"):
        features.read(0)


def test_sets_that_do_not_fit_are_refused(features: FeatureSet, tmp_path: Path) -> None:
    features.check_widths(5, 4)
    with pytest.raises(InputError, match=r"5 \(video\) and 4 \(text\) wide, the model expects 6"):
        features.check_widths(6, 4)
    with pytest.raises(InputError, match="extract the features of this split first"):
        FeatureSet(tmp_path)
    (features.folder / "00001.json").unlink()
    with pytest.raises(InputError, match=r"00001\.json: the shard's index is missing"):
        FeatureSet(features.folder)
    features.path(0).unlink()
    with pytest.raises(InputError, match=r"00000\.tar: the shard is missing"):
        FeatureSet(features.folder)
    with pytest.raises(InputError, match=r"00000\.tar: sample 'Ab.c_1.0': the shard is missing"):
        features.read(0)


def test_a_sample_without_one_of_the_layers_is_refused_when_it_is_written(tmp_path: Path) -> None:
    fewer = sample("fewer")
    fewer = Sample(**{**vars(fewer), "video": fewer.video[:, :1]})
    with ShardWriter(tmp_path, "00000") as writer:
        writer.add(sample("first"))
        with pytest.raises(InputError, match=r"video 'fewer' has features .*\[1, 5\]"):
            writer.add(fewer)


def test_an_index_of_other_layers_than_the_manifest_is_refused(
    tmp_path: Path, write_set: WriteSet
) -> None:
    fewer = sample("fewer")
    fewer = Sample(**{**vars(fewer), "video": fewer.video[:, :1]})
    with pytest.raises(InputError, match=r"00001\.json: features are .*\[1, 5\]"):
        write_set(tmp_path / "mixed", [[sample("a")], [fewer]])


def test_an_altered_value_is_found_when_it_is_read_and_nan_is_named(features: FeatureSet) -> None:
    entry = features.samples[1]
    start, size = entry.members["video.npy"]
    data = bytearray(features.path(0).read_bytes())
    data[start + size - 3] ^= 1
    features.path(0).write_bytes(data)
    with pytest.raises(InputError, match=r"sample 'ab\.c_1\.0': its video features are not what"):
        features.read(1)
    data[start + size - 2 : start + size] = np.float16(np.nan).tobytes()
    features.path(0).write_bytes(data)
    with pytest.raises(InputError, match=r"sample 'ab\.c_1\.0': .* values that are not finite"):
        features.read(1)


def test_a_row_with_faults_is_refused_where_it_is_written_and_where_a_stream_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provenance: Provenance
) -> None:
    whole = sample("v")
    first, second = whole.queries
    odd = dataclasses.replace(first.annotation, saliency={-1: (4.0,)})
    bad = dataclasses.replace(whole, queries=(dataclasses.replace(first, annotation=odd), second))
    with (
        pytest.raises(InputError, match="qid 'v-0': clip -1 of 'relevant_clip_ids'"),
        ShardWriter(tmp_path, "00000") as writer,
    ):
        writer.add(bad)
    # A set of before these checks: it says nothing of them, and its rows are looked at.
    monkeypatch.setattr("data_pipeline.features.writing.row_faults", lambda _: ())
    monkeypatch.setattr("data_pipeline.features.writing.ROWS_CHECKED", 0)
    with ShardWriter(tmp_path, "00000") as writer:
        writer.add(bad)
        index = writer.commit()
    write_manifest(tmp_path, "train", provenance, {"name": "rows"}, [index])
    with pytest.raises(InputError, match=r"00000\.tar: sample 'v': clip -1 .*lies outside"):
        PairStream(FeatureSet(tmp_path), DataConfig(batch_size=1, eval_batch_size=1), seed=0)


def test_a_damaged_record_of_failures_is_a_fault_beside_the_others(features: FeatureSet) -> None:
    (features.folder / "failures.jsonl").write_bytes(b'{"vid": "gone"}\n')
    [fault] = verify(features.folder)
    assert str(fault).endswith("failures.jsonl:1: not a failure; remove this line")
    (features.folder / "00001.json").unlink()
    faults = [str(each) for each in verify(features.folder)]
    assert any("00001.json: the shard's index is missing" in each for each in faults)
    assert any("not a failure" in each for each in faults)


def test_options_that_belong_to_no_encoder_tell_features_apart_too(provenance: Provenance) -> None:
    noisy = dataclasses.replace(provenance, options={"noise": 0.5})
    assert noisy.differences(dataclasses.replace(provenance, options={"noise": 0.1})) == [
        "options.noise: 0.5, not 0.1"
    ]
    assert noisy.differences(provenance) == ["options.noise: 0.5, not {}"]
    assert noisy.differences(noisy) == []


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Provenance)][:-6])
def test_each_field_by_itself_tells_features_apart(provenance: Provenance, name: str) -> None:
    held = getattr(provenance, name)
    changed = (0, 1, 2, 3, 4) if isinstance(held, tuple) else 7 if held is None else held * 2
    other = dataclasses.replace(provenance, **{name: changed})
    assert provenance.differences(other) == [f"{name}: {held}, not {changed}"]
    assert other.differences(provenance) == [f"{name}: {changed}, not {held}"]


@pytest.mark.parametrize("name", ["version", "batch", "threads", "origin", "preset"])
def test_who_made_features_where_does_not_tell_them_apart(
    provenance: Provenance, name: str
) -> None:
    assert provenance.differences(dataclasses.replace(provenance, **{name: "other"})) == []
