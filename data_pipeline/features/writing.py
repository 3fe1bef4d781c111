"""How is a shard written: complete or not at all, with bytes that its inputs determine?"""

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.features.checksums import XXH3, Checksums, Half, checksum
from data_pipeline.features.samples import (
    JOINT,
    MEMBERS,
    Sample,
    SampleEntry,
    is_finite,
    npy_header,
    sample_key,
)
from data_pipeline.features.shards import FORMAT, ROWS_CHECKED, Provenance
from data_pipeline.rows import row_faults
from data_pipeline.storage import Location, NewFile, Source

NEXT = ".next"
"""Ending of the index of what a shard is about to become."""

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Failure:
    """A video that is in no shard: its id, a class to count by, and the cause in one line.

    With a `qid`, it is that one of its queries that is in none.
    """

    vid: str
    kind: str
    cause: str
    qid: int | str | None = None


class ShardWriter:
    """Writes one shard, on a disk or in an object store; `commit` lets it appear, its index last.

    A shard exists if and only if its index does. Headers carry no time and no owner, members stand
    in a fixed order: equal samples make equal bytes. Used in a `with` statement, it removes what
    was not committed.
    """

    def __init__(self, folder: Source, name: str) -> None:
        self._folder, self._name = Location(folder), name
        self._file = (self._folder / f"{name}.tar").create()
        self._hash = hashlib.sha256()
        self._offset = 0
        self._entries: list[SampleEntry] = []
        self._shapes: dict[str, Any] = {}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.discard()

    def add(self, sample: Sample) -> None:
        """Append a sample.

        Raises InputError if its layers or widths are not the shard's, or if a row of its queries
        has faults.
        """
        for query in sample.queries:
            for fault in row_faults(query.annotation.to_row()):
                raise InputError(
                    f"{self._folder}: video {sample.vid!r}, qid {query.annotation.qid!r}: {fault}"
                )
        shapes: dict[str, Any] = {
            "video": list(sample.video.shape[1:]),
            "text": list(sample.text.shape[1:]),
        }
        if sample.joint is not None:
            shapes["joint"] = sample.joint.shape[1]
        if self._entries and shapes != self._shapes:
            raise InputError(
                f"{self._folder}: video {sample.vid!r} has features {shapes}, others of its shard "
                f"{self._shapes}; extract all with one configuration"
            )
        self._shapes = shapes
        key, offset = sample_key(sample.vid), self._offset
        data = {
            "video.npy": _npy(sample.video),
            "text.npy": _npy(sample.text),
            "json": to_json(sample.details()).encode(),
        }
        names: tuple[str, ...] = MEMBERS
        if sample.joint is not None:
            names = (*MEMBERS, JOINT)
            data[JOINT] = _npy(sample.joint)
        members = {name: self._member(f"{key}.{name}", data[name]) for name in names}
        text = np.ascontiguousarray(sample.text)
        texts = [text[slice(*query.tokens)] for query in sample.queries]
        self._entries.append(
            SampleEntry(
                vid=sample.vid,
                shard=0,
                offset=offset,
                size=self._offset - offset,
                clips=len(sample.video),
                queries=tuple(query.tokens[1] - query.tokens[0] for query in sample.queries),
                members=members,
                checksums=Checksums(
                    video=checksum(np.ascontiguousarray(sample.video)),
                    text=tuple(checksum(part) for part in texts),
                    json=checksum(data["json"]),
                    joint=None if sample.joint is None else checksum(_plain(sample.joint)),
                ),
                finite=is_finite(sample.video) and is_finite(sample.text),
                qids=tuple(query.annotation.qid for query in sample.queries),
            )
        )

    def commit(
        self,
        failures: Sequence[Failure] = (),
        unread: Sequence[tuple[int | str, int]] = (),
        counted: Mapping[str, int] | None = None,
        warnings: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """Make the shard exist; returns its index.

        `unread` are the qids of sentences that were not read to their end, and how many of their
        tokens were left. `counted` says what was done to its samples that readers of the set should
        know of, and how often. `warnings` are ids of stored videos, and what is odd about each.
        """
        index = self._finished(failures, unread, counted, warnings)
        path = self._folder / f"{self._name}.json"
        path.unlink()  # of a shard that is made again: it would describe another tar for a moment
        self._file.commit()
        write_json(path, index)
        return index

    def replace(
        self,
        failures: Sequence[Failure] = (),
        unread: Sequence[tuple[int | str, int]] = (),
        counted: Mapping[str, int] | None = None,
        warnings: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """As `commit`, of a shard that is there; see `data_pipeline.features.rewriting`."""
        index = self._finished(failures, unread, counted, warnings)
        following = self._folder / f"{self._name}{NEXT}"
        write_json(following, index)
        self._file.commit()
        write_json(self._folder / f"{self._name}.json", index)
        following.unlink()
        return index

    def _finished(
        self,
        failures: Sequence[Failure],
        unread: Sequence[tuple[int | str, int]],
        counted: Mapping[str, int] | None,
        warnings: Sequence[tuple[str, str]],
    ) -> dict[str, Any]:
        """The index of the tar, which now has its end."""
        end = 2 * _BLOCK
        self._write(bytes(end + -(self._offset + end) % tarfile.RECORDSIZE))
        index = {
            "format": FORMAT,
            "name": self._name,
            "sha256": self._hash.hexdigest(),
            "bytes": self._offset,
            "shapes": self._shapes,
            "rows_checked": ROWS_CHECKED,
            "checksum": XXH3,
            "samples": [entry.to_json() for entry in self._entries],
            "failures": [_row(failure) for failure in failures if failure.qid is None],
        }
        if left_out := [_row(failure) for failure in failures if failure.qid is not None]:
            index["left_out"] = left_out
        if unread:
            index["unread"] = [list(each) for each in unread]
        if counted:
            index["counted"] = dict(counted)
        if warnings:
            index["warnings"] = [{"vid": vid, "warning": line} for vid, line in warnings]
        return index

    def _member(self, name: str, data: bytes) -> tuple[int, int]:
        info = tarfile.TarInfo(name)  # time, owner and group stay 0
        info.size, info.mode = len(data), 0o644
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        offset = self._offset
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset, len(data)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)


def _row(failure: Failure) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(failure).items() if value is not None}


def _plain(array: Half) -> Half:
    return np.ascontiguousarray(array)


def _npy(array: Half) -> bytes:
    return npy_header(array.shape) + np.ascontiguousarray(array).tobytes()


def to_json(value: Any) -> str:
    """JSON with one spelling for one value."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def write_json(path: Source, value: Any) -> None:
    """Write a JSON file, complete or not at all."""
    write_text(path, to_json(value) + "\n")


def write_text(path: Source, text: str) -> None:
    """Write a text file, complete or not at all."""
    Location(path).write_bytes(text.encode())


class Lines:
    """A file of JSON lines, written one by one, which appears when it is committed.

    Used in a `with` statement, it removes what was not.
    """

    def __init__(self, path: Location) -> None:
        self._path = path
        self._file: NewFile | None = None
        self.count = 0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.discard()

    def add(self, row: dict[str, Any]) -> None:
        """Append a line."""
        if self._file is None:
            self._file = self._path.create()
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.count += 1

    def commit(self, always: bool = False) -> None:
        """Let the file appear; without lines that is done only `always`, or to replace another."""
        if self._file is None and (always or self._path.is_file()):
            self._file = self._path.create()
        if self._file is not None:
            self._file.commit()


class Tally:
    """What a manifest counts, of shards whose indexes are taken in one after the other."""

    def __init__(self) -> None:
        self._shards: list[dict[str, Any]] = []
        self._shapes: dict[str, Any] | None = None
        self._rows_checked: list[int] = []

    def take(self, index: dict[str, Any]) -> None:
        """The next shard's."""
        samples = index["samples"]
        if samples and self._shapes is None:
            self._shapes = index["shapes"]
        self._rows_checked.append(index.get("rows_checked", 0))
        self._shards.append(
            {
                "name": index["name"],
                "sha256": index["sha256"],
                "bytes": index["bytes"],
                "videos": len(samples),
                "queries": sum(len(sample["queries"]) for sample in samples),
                "clips": sum(sample["clips"] for sample in samples),
                "failures": len(index["failures"]),
            }
        )

    @property
    def totals(self) -> dict[str, int]:
        """Over all shards so far."""
        names = ("videos", "queries", "clips", "bytes", "failures")
        return {name: sum(shard[name] for shard in self._shards) for name in names}

    def write(
        self, folder: Source, split: str, provenance: Provenance, annotations: dict[str, Any]
    ) -> dict[str, Any]:
        """Write manifest.json, as `write_manifest`."""
        assert self._shapes is not None
        manifest = {
            "format": FORMAT,
            "split": split,
            "provenance": dataclasses.asdict(provenance),
            "annotations": annotations,
            "rows_checked": min(self._rows_checked, default=0),
            "shapes": self._shapes,
            "shards": self._shards,
            "totals": self.totals,
        }
        write_json(Location(folder) / "manifest.json", manifest)
        return manifest


def write_manifest(
    folder: Source,
    split: str,
    provenance: Provenance,
    annotations: dict[str, Any],
    indexes: Iterable[dict[str, Any]],
) -> dict[str, Any]:
    """Write manifest.json, which makes a set of committed shards a data set; returns it.

    `annotations` says which file the rows came from (`name`, `sha256`, `videos`, `queries`).
    """
    tally = Tally()
    for index in indexes:
        tally.take(index)
    return tally.write(folder, split, provenance, annotations)
