"""The columnar index: the same set by another way, and nothing of it taken on trust."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline import mapped
from data_pipeline.config import DataConfig, OrderConfig
from data_pipeline.errors import InputError
from data_pipeline.features.checksums import SUM
from data_pipeline.features.columns import ALL, Columns, Samples, of_entries
from data_pipeline.features.index import NAME
from data_pipeline.features.shards import FeatureSet, Provenance, write_index
from data_pipeline.features.verify import verify
from data_pipeline.features.writing import ShardWriter, write_manifest
from data_pipeline.mapped import Mapped, write_arrays
from data_pipeline.storage import Location
from data_pipeline.stream.stream import PairStream
from launch import shards as shards_command
from tests.conftest import build_sample


@pytest.fixture(scope="module")
def original(
    make_features: Callable[..., FeatureSet], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three shards of four videos of three queries, with an index."""
    folder = tmp_path_factory.mktemp("index") / "set"
    make_features(folder, videos=12, queries=3)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(original, tmp_path / "set")


def is_mapped(features: FeatureSet) -> bool:
    return str(features.columns.arrays.source).endswith(NAME)


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, str]], object]) -> None:
    """Write an index again, with right checksums, after `change` of its arrays and notes."""
    found = Mapped.of_file(path)
    arrays = {name: np.array(array) for name, array in found.items()}
    notes = dict(found.notes)
    change(arrays, notes)
    path.unlink()
    with path.open("wb") as file:
        write_arrays(file, arrays, notes)


def test_a_set_is_the_same_by_its_index_and_by_those_of_its_shards(folder: Path) -> None:
    fast, slow = FeatureSet(folder), FeatureSet(folder, indexed=False)
    assert is_mapped(fast)
    assert not is_mapped(slow)
    assert list(fast.samples) == list(slow.samples)
    assert fast.columns.digest() == slow.columns.digest()
    assert (fast.pairs, fast.left_out, fast.faults) == (36, 0, [])
    stored = [json.loads((folder / f"0000{n}.json").read_bytes())["samples"] for n in range(3)]
    assert [entry.to_json() for entry in fast.samples] == [e for of_one in stored for e in of_one]


def test_the_index_of_a_set_is_written_with_the_bytes_that_the_set_determines(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = (folder / NAME).read_bytes()
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / NAME).unlink()
    assert shards_command.main(["index", str(copy)]) == 0
    assert "12 videos, 36 sentences" in capsys.readouterr().out
    assert (copy / NAME).read_bytes() == first
    assert is_mapped(FeatureSet(copy))


def test_an_index_that_is_written_already_stays_and_a_damaged_one_is_made_anew(
    folder: Path,
) -> None:
    write_index(folder)
    path = folder / "index.safetensors"
    before, data = path.stat(), path.read_bytes()
    write_index(folder)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    write_index(folder)
    assert path.read_bytes() == data


def test_an_older_set_opens_with_one_line_that_names_the_index(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FeatureSet(folder)
    assert caplog.records == []
    (folder / NAME).unlink()
    assert len(FeatureSet(folder)) == 12
    (record,) = caplog.records
    assert f"python -m launch.shards index {folder}" in record.getMessage()


def other_shard(folder: Path) -> None:
    """Another index of a shard, of the same length, and a manifest that knows nothing of it."""
    path = folder / "00001.json"
    path.write_bytes(path.read_bytes().replace(b'"clips":', b'"clipz":', 1))


def other_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")


def truncate(folder: Path) -> None:
    os.truncate(folder / NAME, (folder / NAME).stat().st_size - 8)


def lengthen(folder: Path) -> None:
    with (folder / NAME).open("ab") as file:
        file.write(bytes(8))


def flip(folder: Path) -> None:
    data = bytearray((folder / NAME).read_bytes())
    data[-100] ^= 1
    (folder / NAME).write_bytes(data)


def name_twice(folder: Path) -> None:
    data = (folder / NAME).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    more = b',"clips":{"dtype":"I64","shape":[0],"data_offsets":[0,0]}}'
    header = data[8:end].rstrip().removesuffix(b"}") + more
    (folder / NAME).write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def unseal(folder: Path) -> None:
    found = Mapped.of_file(folder / NAME)
    data = (folder / NAME).read_bytes()
    for digest in found.sums.values():
        data = data.replace(digest.encode(), b"0" * len(digest))
    (folder / NAME).unlink()
    (folder / NAME).write_bytes(data)


def empty(folder: Path) -> None:
    (folder / NAME).write_bytes(b"")


def deep(folder: Path) -> None:
    header = b'{"__metadata__":' + b"[" * 5000
    (folder / NAME).write_bytes(len(header).to_bytes(8, "little") + header)


def vast(folder: Path) -> None:
    header = b'{"first":{"dtype":"I64","shape":[281474976710655],"data_offsets":[0,8]}}'
    (folder / NAME).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def foreign(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((2, 3), np.float32)}, folder / NAME)


def of_another_set(folder: Path) -> None:
    from tests.conftest import build_feature_set

    build_feature_set(folder.parent / "other", videos=12, queries=3, seed=5)
    shutil.copyfile(folder.parent / "other" / NAME, folder / NAME)


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another manifest": (other_manifest, "of another state of the set"),
    "of another set": (of_another_set, "of another state of the set"),
    "cut off": (truncate, "cut off"),
    "lengthened": (lengthen, "bytes follow its end"),
    "an altered byte": (flip, "is not what was written"),
    "an array twice": (name_twice, "is not behind the array before it"),
    "without checksums": (unseal, "is not what was written"),
    "empty": (empty, "it is empty"),
    "nested": (deep, "not valid JSON"),
    "vast": (vast, "is not behind the array before it"),
    "other tensors": (foreign, "malformed"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_an_index_that_is_not_of_the_set_is_passed_over_with_one_line(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = list(FeatureSet(folder).samples)
    spoil, message = SPOILS[name]
    spoil(folder)
    features = FeatureSet(folder)
    assert not is_mapped(features)
    assert list(features.samples) == expected
    (record,) = caplog.records
    text = record.getMessage()
    assert message in text
    assert NAME in text
    assert text.endswith(f"launch.shards index {folder} makes it anew")
    assert "\n" not in text
    faults = [str(fault) for fault in verify(folder)]
    assert len(faults) == 1
    assert message in faults[0]
    assert shards_command.main(["index", str(folder)]) == 0
    assert is_mapped(FeatureSet(folder))
    assert list(verify(folder)) == []


def set_to(name: str, index: int, value: Any) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(arrays: dict[str, Any], notes: dict[str, str]) -> None:
        arrays[name][index] = value

    return change


def cut(name: str) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def change(arrays: dict[str, Any], notes: dict[str, str]) -> None:
        arrays[name] = arrays[name][:-1]

    return change


def renamed(vids: list[str]) -> Callable[[dict[str, Any], dict[str, str]], None]:
    """The first videos are called otherwise."""

    def change(arrays: dict[str, Any], notes: dict[str, str]) -> None:
        from data_pipeline.features.texts import Texts

        old = Texts(arrays["vids words"], arrays["vids ends"])
        texts = Texts.of(vids + [old[n] for n in range(len(vids), len(old))])
        arrays["vids words"], arrays["vids ends"] = texts.words, texts.ends

    return change


def word(name: str, place: int, value: bytes) -> Callable[[dict[str, Any], dict[str, str]], None]:
    return set_to(name, place, np.frombuffer(value, "<u8")[0])


LIES: dict[str, tuple[Callable[[dict[str, Any], dict[str, str]], object], str]] = {
    "a place beyond the tar": (set_to("offset", 11, 2**40), "'offset' out of its bounds"),
    "a place before it": (set_to("offset", 0, -512), "'offset' out of its bounds"),
    "a size that overflows": (set_to("bytes", 3, 2**63 - 1), "'bytes' out of its bounds"),
    "a member of another sample": (set_to("text.npy offset", 5, 0), "'text.npy' out of"),
    "a member that is too long": (set_to("json bytes", 5, 2**30), "'json' out of its bounds"),
    "shared bytes": (
        lambda a, _: [a[name].__setitem__(1, a[name][0]) for name in a if a[name].shape == (12,)
                      and name not in ("clips", "first", "vids ends")],
        "share bytes",
    ),
    "negative clips": (set_to("clips", 0, -1), "other clips than manifest.json lists"),
    "exchanged clips": (
        lambda a, _: a["clips"].__setitem__([0, 1], a["clips"][[0, 1]] + [-40, 40]),
        "'clips' out of its bounds",
    ),
    "another shard": (set_to("shard", 3, 1), "other videos than manifest.json lists"),
    "a shard that is none": (set_to("shard", 11, 3), "'shard' out of its bounds"),
    "shards in disorder": (
        lambda a, _: a["shard"].__setitem__([3, 4], a["shard"][[4, 3]]),
        "in no order of shards",
    ),
    "queries of nobody": (set_to("first", 0, 1), "belong to no sample"),
    "queries backwards": (set_to("first", 5, 0), "belong to no sample"),
    "negative tokens": (set_to("tokens", 7, -3), "'tokens' out of its bounds"),
    "a kind of checksums": (set_to("kind", 2, 9), "'kind' out of its bounds"),
    "a kind of qids": (set_to("qid kind", 2, 9), "'qid kind' out of its bounds"),
    "a large number that is none": (set_to("qid kind", 2, 3), "malformed"),
    "fewer samples": (cut("clips"), "'clips' of another length"),
    "fewer queries": (cut("text sum"), "'text sum' of another length"),
    "fewer shards": (cut("index sum"), "of other shards"),
    "another type": (
        lambda a, _: a.__setitem__("clips", a["clips"].view(np.uint64)),
        "'clips' of another type",
    ),
    "a column less": (lambda a, _: a.pop("finite"), "malformed"),
    "another version": (lambda _, n: n.__setitem__("format", "2"), "of another version"),
    "texts without end": (set_to("vids ends", 11, 500), "texts that end elsewhere"),
    "texts backwards": (set_to("vids ends", 3, 0), "end before they begin"),
    "a zero in a text": (word("vids words", 0, b"a\0b\0\0\0\0\0"), "zero bytes"),
    "a text of zeros": (word("qids words", 0, bytes(8)), "zero bytes"),
    "half of a letter": (word("vids words", 0, b"s0v\xc3\0\0\0\0"), "not UTF-8"),
    "a video twice": (word("vids words", 1, b"s0v0\0\0\0\0"), "holds something twice"),
    "a qid twice": (word("qids words", 1, b"s0v0/0\0\0"), "holds something twice"),
    "a way out": (renamed([".."]), "lead out of their folder"),
    "a way up": (renamed(["a/../b"]), "lead out of their folder"),
    "here": (renamed(["a/."]), "lead out of their folder"),
    "a path from the root": (renamed(["/etc"]), "empty or too long"),
    "a path that ends in nothing": (renamed(["abcdefg/"]), "empty or too long"),
    "no name": (renamed([""]), "empty or too long"),
    "a long name": (renamed(["v" * 256]), "empty or too long"),
    "a long path": (renamed(["/".join(["v" * 255] * 9)]), "too long"),
    "a new line": (renamed(["a\nb"]), "control characters"),
    "a backslash": (renamed(["a\\b"]), "backslashes"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_and_is_sealed_again_is_passed_over(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = LIES[name]
    rewrite(folder / NAME, change)
    features = FeatureSet(folder)
    assert not is_mapped(features)
    assert message in caplog.text
    assert features.samples[0].vid == "s0v0"


def test_odd_and_good_names_stand_the_check(
    tmp_path: Path, provenance: Provenance, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    vids = ["a", "x/y.mp4", "...", "ä" * 127, "12345678", "映画/犬 .mp4", "é1234567/é", ".a/..b"]
    vids += ["/".join(["ä" * 100] * 20), "v" * 255, "x y"]
    with ShardWriter(tmp_path, "00000") as writer:
        for vid in vids:
            writer.add(build_sample(random, vid, 1))
        index = writer.commit()
    write_manifest(tmp_path, "val", provenance, {"name": "a"}, [index])
    write_index(tmp_path)
    features = FeatureSet(tmp_path)
    assert is_mapped(features)
    assert [entry.vid for entry in features.samples] == vids
    assert list(features.samples) == list(FeatureSet(tmp_path, indexed=False).samples)
    assert caplog.records == []


def test_qids_of_every_kind_come_back(folder: Path) -> None:
    entry = FeatureSet(folder).samples[0]
    kinds = [
        replace(entry, vid="a", qids=(1, "1", -(2**63))),
        replace(entry, vid="b", qids=(2**70, "ä" * 50, "")),
        replace(entry, vid="c", qids=None),
        replace(entry, vid="d", queries=(), checksums=replace(entry.checksums, text=()), qids=()),
        replace(entry, vid="e", qids=(7, 8, 9), checksums=replace(entry.checksums, kind=SUM)),
    ]
    columns = Columns.of([of_entries(kinds[:2]), of_entries([]), of_entries(kinds[2:])])
    found = list(Samples(columns))
    # Of a video without queries it is not kept whether its index knows of qids.
    assert found[:3] + found[4:] == kinds[:3] + kinds[4:]
    assert found[3].qids == ()
    assert not columns.twice()
    rows = np.array([4, 1])
    assert list(Samples(columns.take(rows))) == [kinds[4], kinds[1]]
    doubled = Columns.of([of_entries([kinds[0], replace(kinds[1], qids=("x", "y", "1"))])])
    assert doubled.twice()


def test_a_shard_that_was_made_anew_since_is_noticed_though_nothing_else_changed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other_shard(folder)
    with pytest.raises(InputError, match=r"00001\.json: malformed"):
        FeatureSet(folder)
    assert "is older than 00001.json, which has changed" in caplog.text


def test_files_that_were_copied_are_compared_and_the_index_used(folder: Path) -> None:
    for number in range(3):
        path = folder / f"0000{number}.json"
        path.write_bytes(path.read_bytes())  # newer than the index
    assert is_mapped(FeatureSet(folder))


@pytest.mark.parametrize("gone", ["00001.tar", "00001.json"])
def test_what_is_gone_is_named_as_ever(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(InputError, match=rf"{gone}: the shard('s index)? is missing"):
        FeatureSet(folder)
    rest = FeatureSet(folder, skip_damaged=True)
    assert len(rest) == (12 if gone == "00001.tar" else 8)


def test_an_index_that_other_entries_than_the_shards_hold_is_found_by_verify(folder: Path) -> None:
    rewrite(folder / NAME, set_to("video sum", 4, 12345))
    assert any("holds other entries" in str(fault) for fault in verify(folder))


def test_a_process_is_given_where_a_set_lies_and_not_what_it_holds(
    make_features: Callable[..., FeatureSet], tmp_path: Path
) -> None:
    few = make_features(tmp_path / "small", videos=4)
    large = make_features(tmp_path / "large", videos=200, queries=1, per_shard=20)
    by_index = FeatureSet(tmp_path / "small"), FeatureSet(tmp_path / "large")
    for small, features in ((few, large), by_index):
        data = pickle.dumps(features)
        assert len(data) - len(pickle.dumps(small)) < 20
        again = pickle.loads(data)
        assert list(again.samples) == list(large.samples)
        assert again.manifest == large.manifest
        assert again.read(7).vid == large.read(7).vid


def test_a_set_that_is_indexed_anew_stays_open_as_it_was(folder: Path) -> None:
    features = FeatureSet(folder)
    before = list(features.samples)
    rewrite(folder / NAME, set_to("clips", 0, 77))  # in the place of the file that is mapped
    assert shards_command.main(["index", str(folder)]) == 0
    assert list(pickle.loads(pickle.dumps(features)).samples) == before


def test_ranks_agree_whether_they_have_the_index_or_not(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / NAME).unlink()
    fast, slow = FeatureSet(folder), FeatureSet(copy)
    assert slow.columns.digest() == fast.columns.digest()
    config = DataConfig(
        batch_size=8, eval_batch_size=8, clip_dropout=0.2, order=OrderConfig(lanes=8, window=4)
    )
    for rank in (0, 1):
        one, other = (PairStream(each, config, 3, rank, 2) for each in (fast, slow))
        for ways in ((one.train(1), other.train(1)), (one.evaluate(), other.evaluate())):
            for mine, theirs in zip(*ways, strict=True):
                assert mine.annotations == theirs.annotations
                pairs = zip(mine.tensors().values(), theirs.tensors().values(), strict=True)
                assert all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


def test_the_index_of_a_set_in_a_store_is_fetched_once_a_host(
    folder: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in sorted(folder.iterdir()):
        (Location(bucket) / "set" / path.name).write_bytes(path.read_bytes())
    asked: list[tuple[str, int]] = []
    read_range = Location.read_range

    def counted(self: Location, offset: int, size: int) -> bytes:
        asked.append((self.name, size))
        return read_range(self, offset, size)

    monkeypatch.setattr(Location, "read_range", counted)
    monkeypatch.setattr("data_pipeline.features.index.PIECE", 1000)
    first, second = FeatureSet(f"{bucket}/set"), FeatureSet(f"{bucket}/set")
    assert list(first.samples) == list(second.samples) == list(FeatureSet(folder).samples)
    size = (folder / NAME).stat().st_size
    assert sum(n for name, n in asked if name == NAME) == size
    (kept,) = (tmp_path / "cache/sdst/indexes").glob("*-*")
    assert kept.read_bytes() == (folder / NAME).read_bytes()
    # What was kept is damaged: it is not used, and fetched anew by who opens the set next.
    kept.write_bytes(kept.read_bytes()[:-8] + b"damaged!")
    assert list(FeatureSet(f"{bucket}/set").samples) == list(first.samples)
    assert list(FeatureSet(f"{bucket}/set").samples) == list(first.samples)
    assert kept.read_bytes() == (folder / NAME).read_bytes()
    # Where nothing can be kept, every process has its own.
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    features = FeatureSet(f"{bucket}/set")
    assert list(features.samples) == list(first.samples)
    assert is_mapped(features)


OPEN = """
    import os, signal, sys, time
    from data_pipeline.features import index
    from data_pipeline.features.shards import FeatureSet
    from data_pipeline.storage import Location

    url, dies = sys.argv[1], sys.argv[2] == "dies"
    read_range, asked = Location.read_range, []

    def counted(self, offset, size):
        if self.name == index.NAME:
            asked.append(size)
            if dies and len(asked) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)  # there is time for the other to ask for it too
        return read_range(self, offset, size)

    Location.read_range, index.PIECE = counted, 1000
    sys.stdin.readline()
    features = FeatureSet(url)
    assert str(features.columns.arrays.source) != "shared memory", "opened by shards"
    print(sum(asked), features.columns.digest())
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_processes_that_open_a_set_in_a_store_at_once_fetch_its_index_once_also_after_a_kill(
    folder: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = tmp_path / "cache/sdst/indexes"
    for path in sorted(folder.iterdir()):
        (Location(bucket) / "set" / path.name).write_bytes(path.read_bytes())

    def processes(*ways: str) -> list[tuple[int, list[str]]]:
        command = [sys.executable, "-c", textwrap.dedent(OPEN), f"{bucket}/set"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = [subprocess.Popen([*command, way], **pipes) for way in ways]  # type: ignore[call-overload]
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=200)[0].split() for process in started]
        return [(each.returncode, words) for each, words in zip(started, said, strict=True)]

    assert processes("dies") == [(-signal.SIGKILL, [])]
    assert any(path.name.endswith(".tmp") for path in kept.iterdir())
    found = processes("lives", "lives")
    assert [code for code, _ in found] == [0, 0]
    size = (folder / NAME).stat().st_size
    assert sorted(int(words[0]) for _, words in found) == [0, size]
    assert {" ".join(words[1:]) for _, words in found} == {FeatureSet(folder).columns.digest()}
    assert not any(path.name.endswith(".tmp") for path in kept.iterdir())


def test_where_the_disk_has_no_room_for_the_index_each_process_has_its_own(
    folder: Path,
    bucket: str,
    fill: Callable[[], Path],
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    for path in sorted(folder.iterdir()):
        (Location(bucket) / "set" / path.name).write_bytes(path.read_bytes())
    filler = fill()
    with filler.open("ab") as file, contextlib.suppress(OSError):
        file.write(bytes(8192))
        file.flush()
    features = FeatureSet(f"{bucket}/set")
    assert is_mapped(features)
    assert features.columns.digest() == FeatureSet(folder).columns.digest()
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "No space left on device" in record.getMessage()
    assert "every process reads" in record.getMessage()
    assert not [p for p in small_disk.rglob("*") if p.suffix == ".tmp"]
    filler.unlink()
    FeatureSet(f"{bucket}/set")
    assert len(list((small_disk / "sdst/indexes").glob("*-*"))) == 1


def test_safetensors_itself_reads_the_index(folder: Path) -> None:
    from safetensors.numpy import load_file

    columns = load_file(folder / NAME)
    assert set(ALL) < set(columns)
    assert columns["clips"].tolist() == [entry.clips for entry in FeatureSet(folder).samples]


def test_no_object_is_made_of_samples_that_nobody_looks_at(
    make_features: Callable[..., FeatureSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_features(tmp_path / "set", videos=300, queries=1, per_shard=100)
    made: list[int] = []
    entry = Columns.entry
    monkeypatch.setattr(Columns, "entry", lambda self, n: made.append(n) or entry(self, n))
    config = DataConfig(batch_size=8, eval_batch_size=8)
    stream = PairStream(FeatureSet(tmp_path / "set"), config, seed=0)
    assert made == []
    next(stream.train(0))
    assert len(set(made)) < 60  # a batch, and the visits that are begun ahead


def test_arrays_that_are_shared_are_copied_by_nobody() -> None:
    arrays = Mapped.of({"a": np.arange(1000), "b": [np.ones(2), np.zeros(3)], "c": np.empty(0)})
    again = pickle.loads(pickle.dumps(arrays))
    assert len(pickle.dumps(arrays)) < 200
    arrays["a"][5] = -1
    assert again["a"][5] == -1
    assert again["b"].tolist() == [1, 1, 0, 0, 0]
    assert len(again["c"]) == 0
    with pytest.raises(ValueError, match="read-only"):
        again["a"][0] = 1
    assert mapped.checksum(again["a"]) == arrays.sums["a"]
