"""What is told of a whole set, with a shard of it in memory at a time."""

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray")

from data_pipeline.annotations import Annotation
from data_pipeline.config import JobConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction import account as account_module
from data_pipeline.extraction import annotating
from data_pipeline.extraction.account import Account
from data_pipeline.extraction.annotating import annotate
from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.extraction.job import make_shards
from data_pipeline.extraction.plan import PlannedShard, PlannedVideo
from data_pipeline.features import shards as shards_module
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import FeatureSet, write_index
from data_pipeline.features.verify import verify
from data_pipeline.features.writing import Failure, ShardWriter, write_manifest
from data_pipeline.storage import Location
from tests.conftest import LAYERS, PROVENANCE, TEXT_WIDTH, build_sample

AT_ONCE = 32
"""Indexes that threads may hold at the same time: of the folder's check, on machines with many
processors; the opening of a set has `OPENED_AT_ONCE`."""
SHARDS = 2 * AT_ONCE


class Encoder:
    """Sentences become ones."""

    provenance = PROVENANCE
    text_shape = (LAYERS, TEXT_WIDTH)

    def encode_sentences(self, sentences: list[str]) -> list[SentenceFeatures]:
        return [SentenceFeatures(np.ones((2, *self.text_shape), np.float16), None, 3)
                for _ in sentences]  # fmt: skip


class Tars:
    """The plan of an archive of tars."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {}

    def shards(self) -> list[PlannedShard]:
        return [PlannedShard(f"{n:05d}", (), {}, f"{n}.tar", str(n)) for n in range(SHARDS)]

    def rows(self, videos: int, queries: int) -> dict[str, Any]:
        return {"name": "tars", "sha256": "", "videos": videos, "queries": queries}

    def noted(self) -> dict[str, list[str]]:
        return {}


class Held(dict[str, Any]):
    """An index, of which it is known whether it is still there."""


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """How many indexes were in memory at each that was read: of those that are told of one after
    the other, and of all, which several threads read."""
    Held.__hash__ = object.__hash__  # type: ignore[method-assign,assignment]

    def watched(
        read: Callable[..., dict[str, Any]], counts: list[int]
    ) -> Callable[..., dict[str, Any]]:
        there: weakref.WeakSet[Held] = weakref.WeakSet()

        def wrapped(*args: Any) -> dict[str, Any]:
            found = Held(read(*args))
            if "samples" in found:
                there.add(found)
                counts.append(len(there))
            return found

        return wrapped

    told: list[int] = []
    everything: list[int] = []
    read_json = watched(shards_module.read_json, told)
    for module in (account_module, annotating):
        monkeypatch.setattr(module, "read_json", read_json)
    parse_ours = watched(shards_module.parse_ours, everything)
    monkeypatch.setattr(shards_module, "parse_ours", parse_ours)
    return told, everything


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Many shards of a video each, with nothing over all of them yet."""
    (tmp_path / "set").mkdir()
    random = np.random.default_rng(0)
    for number in range(SHARDS):
        with ShardWriter(tmp_path / "set", f"{number:05d}") as writer:
            writer.add(build_sample(random, f"{number}/v.mp4", 2))
            writer.commit()
    return tmp_path / "set"


def unasked() -> Any:
    raise AssertionError("nothing is to be made")


def test_a_set_is_finished_and_joined_to_with_a_shard_in_memory_at_a_time(
    folder: Path, most: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    config = JobConfig(annotations=None, output=folder, split="train")
    summary = make_shards(config, PROVENANCE, folder, unasked, lambda _: None, plan=Tars())
    assert (summary.videos, summary.stored, summary.queries) == (SHARDS, SHARDS, 2 * SHARDS)
    told, everything = most
    assert len(told) == SHARDS
    assert max(told) <= 2  # one is let go when another has come
    assert max(everything) <= AT_ONCE + 2 < SHARDS
    told.clear()
    rows = tmp_path / "rows.jsonl"
    new = [Annotation(f"new{n}", "a cat", f"{n}/v", 4.0) for n in (0, 30)]
    rows.write_text("".join(json.dumps(row.to_row()) + "\n" for row in new))
    joined = annotate(folder, rows, lambda _: Encoder())  # type: ignore[arg-type,return-value]
    assert (joined.joined, joined.shards, joined.unread) == (2, 2, 2)
    assert len(told) >= 2 * SHARDS
    assert max(told) <= 2
    assert max(everything) <= AT_ONCE + 2
    features = FeatureSet(folder)
    assert features.pairs == 2 * SHARDS + 2
    assert str(features.columns.arrays.source).endswith("index.safetensors")
    unread = (folder / "unread.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in unread] == [
        {"qid": "new0", "tokens": 3},
        {"qid": "new30", "tokens": 3},
    ]
    assert list(verify(folder)) == []


def write(folder: Path, name: str, samples: list[Sample], **more: Any) -> None:
    with ShardWriter(folder, name) as writer:
        for sample in samples:
            writer.add(sample)
        writer.commit(**more)


def test_lists_name_what_is_missing_odd_or_cut_and_not_what_came_later(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    one, two = (build_sample(random, vid, 1) for vid in ("one", "two"))
    gone, late = Failure("gone", "missing", "no such file"), Failure("two", "io", "cut off")
    query = Failure("one", "other contents", "no such row", "q7")
    alone = Failure("two", "other contents", "no such row", "q8")  # its shard lacks nothing else
    write(tmp_path, "00000", [one], failures=[gone, late, query], unread=[("é", 4)])
    write(
        tmp_path,
        "00001",
        [two],
        failures=[alone],
        counted={"odd": 2},
        warnings=[("two", "two: is odd")],
    )
    planned = PlannedVideo("one", (Annotation("q", "a dog", "one", 900.0),))
    with Account(Location(tmp_path), 2.0) as account:
        account.take(PlannedShard("00000", (planned,), {}))
        account.take(PlannedShard("00001", (), {}))
        account.write_failures()
        account.write_lists()

    def told(name: str) -> list[Any]:
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    assert [(row["vid"], row.get("qid")) for row in told("failures.jsonl")] == [
        ("gone", None),
        ("one", "q7"),
        ("two", "q8"),
    ]
    assert (account.failures, account.left_out) == ({"missing": 1}, 2)
    assert account.first_cause == "no such file"
    assert told("unread.jsonl") == [{"qid": "é", "tokens": 4}]
    assert told("warnings.jsonl") == [{"vid": "two", "warning": "two: is odd"}]
    (row,) = told("lengths.jsonl")
    assert (row["vid"], row["annotated"], row["stored"]) == ("one", 900.0, one.duration)
    assert account.lengths_named == (f"one (900 s annotated, about {one.duration:g} s found)",)
    assert account.counted == {"odd": 2}
    # Told again without them, lists become empty; of what was never told there is none.
    write(tmp_path, "00000", [one])
    (tmp_path / "lengths.jsonl").unlink()
    with Account(Location(tmp_path), 2.0) as account:
        account.take(PlannedShard("00000", (), {}))
        account.write_failures()
        account.write_lists()
    assert told("failures.jsonl") == told("unread.jsonl") == told("warnings.jsonl") == []
    assert not (tmp_path / "lengths.jsonl").exists()


def test_a_damaged_index_leaves_no_list_half_written(tmp_path: Path) -> None:
    write(tmp_path, "00000", [build_sample(np.random.default_rng(0), "one", 1)], unread=[("q", 1)])
    (tmp_path / "00001.json").write_text('{"format": 2, "name": "00001"}')
    with Account(Location(tmp_path), 2.0) as account:
        account.take(PlannedShard("00000", (), {}))
        with pytest.raises(InputError, match=r"00001\.json: malformed .*'samples'"):
            account.take(PlannedShard("00001", (), {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000.json",
        "00000.tar",
        "00001.json",
    ]


def test_rows_of_a_set_are_covered_whatever_they_call_its_videos(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    samples = [build_sample(random, vid, 1) for vid in ("a/film.mp4", "film.mkv", "film.mp4")]
    with ShardWriter(folder, "00000") as writer:
        for sample in samples:
            writer.add(sample)
        index = writer.commit([Failure("lost.mp4", "io", "cut off")])
    write_manifest(folder, "val", PROVENANCE, {"name": "rows"}, [index])
    write_index(folder)
    (folder / "failures.jsonl").write_text(json.dumps({"vid": "lost.mp4", "kind": "io"}) + "\n")
    stored = [sample.queries[0].annotation.to_row() for sample in samples]

    def faults(*rows: dict[str, Any]) -> list[str]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return [str(fault).partition(": ")[2] for fault in verify(folder, path)]

    short = [stored[0] | {"vid": "a/film"}, *stored[1:]]
    assert faults(*short, stored[0] | {"vid": "lost", "qid": "lost"}) == []
    # `film` names two videos, and so none; another sentence is not what is stored.
    other = [
        "qid 'film.mkv/0': is stored with other contents",
        "qid 'film.mp4/0': is stored with other contents",
    ]
    for number in (1, 2):
        rows = [*short]
        rows[number] = short[number] | {"vid": "film"}
        assert faults(*rows) == [other[number - 1]]
    assert faults(short[0], *(row | {"query": "a cat"} for row in short[1:])) == other
    (unasked,) = faults(*short[:2])
    assert unasked.startswith("qid 'film.mp4/0' is stored and not in")
