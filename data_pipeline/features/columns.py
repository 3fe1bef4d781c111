"""What does an index over all samples of a set hold, with no object for any of them?

One array for each thing that is known of a sample (its shard, place, lengths, checksums), one for
each thing that is known of a query; `first` tells where a sample's queries begin. All of it comes
from the indexes of the shards, and an entry that is made of it equals the one that they hold.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from data_pipeline.features.checksums import SUM, XXH3, Checksums
from data_pipeline.features.opening import Counts
from data_pipeline.features.samples import JOINT, MEMBERS, SampleEntry
from data_pipeline.features.texts import Ints, Texts, ranges
from data_pipeline.mapped import Array, Mapped
from data_pipeline.untrusted import shown

ABSENT = -1
"""The size of a member that a sample does not have."""
NO_QID, NUMBER, TEXT, LARGE = 0, 1, 2, 3
"""Kinds of qids: none (in indexes of an earlier version), a number of 64 bits, a text, and a number
that is larger, which stands among the texts."""
KINDS = (SUM, XXH3)
PLACES = (*MEMBERS, JOINT)

OF_SAMPLE = {
    "shard": np.int64,
    "offset": np.int64,
    "bytes": np.int64,
    "clips": np.int64,
    **{f"{name} {what}": np.int64 for name in PLACES for what in ("offset", "bytes")},
    "video sum": np.uint64,
    "json sum": np.uint64,
    "joint sum": np.uint64,
    "kind": np.uint8,
    "finite": np.uint8,
}
OF_QUERY = {"tokens": np.int64, "text sum": np.uint64, "qid": np.int64, "qid kind": np.uint8}
ALL: dict[str, Any] = {
    "first": np.int64,
    **OF_SAMPLE,
    **OF_QUERY,
    **{f"{name} {part}": kind for name in ("vids", "qids")
       for part, kind in (("words", np.uint64), ("ends", np.int64))},
}  # fmt: skip

PIECE = 1 << 18
"""Samples or queries that are checked together: what is made for that stays small."""


class Columns:
    """The samples of a set, and their queries, as arrays that processes share."""

    def __init__(self, arrays: Mapped) -> None:
        self.arrays = arrays
        self.vids = Texts(arrays["vids words"], arrays["vids ends"])
        self.qids = Texts(arrays["qids words"], arrays["qids ends"])
        self.first: Ints = arrays["first"]
        self.shard: Ints = arrays["shard"]
        self.clips: Ints = arrays["clips"]
        self.tokens: Ints = arrays["tokens"]

    @classmethod
    def of(cls, shards: Iterable[Mapping[str, Array]]) -> "Columns":
        """Those of a set, from those of its shards, see `of_entries`."""
        parts = list(shards)
        arrays: dict[str, list[Array]] = {name: [p[name] for p in parts] for name in ALL}
        for name, what in (("vids ends", "vids words"), ("qids ends", "qids words"), ("first", "")):
            lengths = [len(part[what]) if what else part["first"].item(-1) for part in parts]
            before = np.cumsum([0, *lengths])
            arrays[name] = [p[name] + start for p, start in zip(parts, before, strict=False)]
        if parts:  # one end of a shard is the begin of the next
            arrays["first"] = [*(first[:-1] for first in arrays["first"]), arrays["first"][-1][-1:]]
            return cls(Mapped.of(arrays))
        return cls(Mapped.empty(**{n: (kind, int(n == "first")) for n, kind in ALL.items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        return Columns, (self.arrays,)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.shard)

    @property
    def queries(self) -> Ints:
        """Number of queries of each sample."""
        return np.diff(self.first)

    def counts(self, shards: int) -> dict[str, Ints]:
        """Videos, queries and clips of each shard."""
        ends = np.searchsorted(self.shard, np.arange(shards + 1))
        clips = np.concatenate(([0], np.cumsum(self.clips)))
        return {
            "videos": np.diff(ends),
            "queries": np.diff(self.first[ends]),
            "clips": np.diff(clips[ends]),
        }

    def entry(self, index: int) -> SampleEntry:
        """What the shard's index holds of sample `index`."""
        arrays = self.arrays

        def of(name: str) -> int:
            return int(arrays[name].item(index))

        start, end = self.first.item(index), self.first.item(index + 1)
        names = MEMBERS if of(f"{JOINT} bytes") == ABSENT else PLACES
        kinds = arrays["qid kind"][start:end]
        qids: tuple[int | str, ...] | None = None
        if not (kinds == NO_QID).any():
            numbers = arrays["qid"][start:end].tolist()
            qids = tuple(
                number if kind == NUMBER else _qid(self.qids[start + place], kind)
                for place, (kind, number) in enumerate(zip(kinds.tolist(), numbers, strict=True))
            )
        return SampleEntry(
            vid=self.vids[index],
            shard=of("shard"),
            offset=of("offset"),
            size=of("bytes"),
            clips=of("clips"),
            queries=tuple(self.tokens[start:end].tolist()),
            members={name: (of(f"{name} offset"), of(f"{name} bytes")) for name in names},
            checksums=Checksums(
                of("video sum"),
                tuple(arrays["text sum"][start:end].tolist()),
                of("json sum"),
                of("joint sum") if names is PLACES else None,
                KINDS[of("kind")],
            ),
            finite=of("finite") == 1,
            qids=qids,
        )

    def take(self, rows: Ints) -> "Columns":
        """The columns of these samples alone, in memory of their own."""
        starts, lengths = self.first[rows], self.queries[rows]
        queries = ranges(starts, lengths)
        vids, qids = self.vids.take(rows), self.qids.take(queries)
        return Columns(
            Mapped.of(
                {
                    "first": np.concatenate(([0], np.cumsum(lengths))),
                    **{name: self.arrays[name][rows] for name in OF_SAMPLE},
                    **{name: self.arrays[name][queries] for name in OF_QUERY},
                    "vids words": vids.words,
                    "vids ends": vids.ends,
                    "qids words": qids.words,
                    "qids ends": qids.ends,
                }
            )
        )

    def digest(self) -> str:
        """A text that is the same for the same samples, whatever file they come from."""
        return " ".join(self.arrays.sums[name] for name in sorted(ALL))

    def check(self, shards: Sequence[Counts]) -> None:
        """Raises ValueError, or KeyError, unless the arrays are columns of a set of such shards.

        Lengths, places, counts and texts, but not whether anything is there twice.
        """
        self._check_lengths()
        self.vids.check(names=True)
        self.qids.check(names=False)
        _within("shard", self.shard, 0, len(shards) - 1)
        if (np.diff(self.shard) < 0).any():
            raise ValueError("samples that stand in no order of shards")
        for name, found in self.counts(len(shards)).items():
            if found.tolist() != [shard[name] for shard in shards]:
                raise ValueError(f"other {name} than manifest.json lists")
        ends = np.array([shard["bytes"] for shard in shards], np.int64)
        for piece in _pieces(len(self)):
            self._check_places(piece, ends)
        self._check_apart()
        for piece in _pieces(len(self.tokens)):
            _within("tokens", self.tokens[piece], 0, MOST)
            _within("qid kind", self.arrays["qid kind"][piece], NO_QID, LARGE)
        for index in np.flatnonzero(self.arrays["qid kind"] == LARGE).tolist():
            text = self.qids[index]
            if len(text) > MAX_DIGITS or str(int(text)) != text:
                raise ValueError(f"{shown(text)} is no number")

    def _check_lengths(self) -> None:
        for name, kind in ALL.items():
            if self.arrays[name].dtype != kind:
                raise ValueError(f"{shown(name)} of another type")
        samples, queries = len(self.shard), len(self.tokens)
        lengths = {"first": samples + 1, "vids ends": samples, "qids ends": queries}
        lengths |= dict.fromkeys(OF_SAMPLE, samples) | dict.fromkeys(OF_QUERY, queries)
        for name, length in lengths.items():
            if len(self.arrays[name]) != length:
                raise ValueError(f"{shown(name)} of another length")
        if self.first[0] != 0 or self.first[-1] != queries or (np.diff(self.first) < 0).any():
            raise ValueError("queries that belong to no sample")

    def _check_places(self, piece: slice, ends: Ints) -> None:
        columns = {name: self.arrays[name][piece] for name in OF_SAMPLE}
        start, size = columns["offset"], columns["bytes"]
        _within("clips", columns["clips"], 0, MOST)
        _within("kind", columns["kind"], 0, len(KINDS) - 1)
        _within("finite", columns["finite"], 0, 1)
        _within("offset", start, 0, MOST)
        _within("bytes", size, 0, MOST)
        _within("offset", start + size, 0, ends[columns["shard"]])
        for name in PLACES:
            place, length = columns[f"{name} offset"], columns[f"{name} bytes"]
            there = length != ABSENT if name == JOINT else slice(None)
            _within(name, place[there], start[there], MOST)
            _within(name, length[there], 0, MOST)
            _within(name, (place + length)[there], 0, (start + size)[there])

    def _check_apart(self) -> None:
        """Samples of a shard follow each other, in whatever order."""
        start, shard = self.arrays["offset"], self.shard
        end = start + self.arrays["bytes"]
        same = shard[1:] == shard[:-1]
        if (start[1:] < end[:-1])[same].any():
            order = np.lexsort((start, shard))
            if (start[order][1:] < end[order][:-1])[same].any():
                raise ValueError("samples that share bytes")

    def twice(self) -> bool:
        """Whether a video or a qid is there twice. (Or, once in a long life, seems to be.)"""
        kinds = self.arrays["qid kind"]
        qids = self.qids.hashes()
        numbers = kinds == NUMBER
        # An odd factor keeps different numbers apart.
        qids[numbers] = self.arrays["qid"][numbers].view(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        return _doubled(self.vids.hashes()) or _doubled(qids[kinds != NO_QID])


MOST = 2**48
"""As `natural` allows."""
MAX_DIGITS = 4000
"""Of a number, which Python takes from no longer text."""


def _pieces(count: int) -> Iterator[slice]:
    return (slice(start, start + PIECE) for start in range(0, count, PIECE))


def _within(name: str, values: NDArray[Any], low: Any, high: Any) -> None:
    if ((values < low) | (values > high)).any():
        raise ValueError(f"{shown(name)} out of its bounds")


def _doubled(values: NDArray[np.uint64]) -> bool:
    values.sort()
    return bool((values[1:] == values[:-1]).any())


def _kind(qid: int | str | None) -> int:
    if qid is None:
        return NO_QID
    if isinstance(qid, str):
        return TEXT
    return NUMBER if -(2**63) <= qid < 2**63 else LARGE


def _qid(text: str, kind: int) -> int | str:
    return int(text) if kind == LARGE else text


def of_entries(entries: Sequence[SampleEntry]) -> dict[str, Array]:
    """The columns of one shard."""
    qids = [qid for entry in entries for qid in entry.qids or (None,) * len(entry.queries)]
    vids = Texts.of([entry.vid for entry in entries])
    kinds = [_kind(qid) for qid in qids]
    texts = [str(q) if k in (TEXT, LARGE) else "" for q, k in zip(qids, kinds, strict=True)]
    packed = Texts.of(texts)
    nowhere = (0, ABSENT)
    columns: dict[str, list[Any]] = {
        "first": np.cumsum([0, *(len(entry.queries) for entry in entries)]).tolist(),
        "shard": [entry.shard for entry in entries],
        "offset": [entry.offset for entry in entries],
        "bytes": [entry.size for entry in entries],
        "clips": [entry.clips for entry in entries],
        "video sum": [entry.checksums.video for entry in entries],
        "json sum": [entry.checksums.json for entry in entries],
        "joint sum": [entry.checksums.joint or 0 for entry in entries],
        "kind": [KINDS.index(entry.checksums.kind) for entry in entries],
        "finite": [entry.finite for entry in entries],
        "tokens": [tokens for entry in entries for tokens in entry.queries],
        "text sum": [each for entry in entries for each in entry.checksums.text],
        "qid": [q if k == NUMBER else 0 for q, k in zip(qids, kinds, strict=True)],
        "qid kind": kinds,
    }
    for name in PLACES:
        places = [entry.members.get(name, nowhere) for entry in entries]
        columns[f"{name} offset"] = [place for place, _ in places]
        columns[f"{name} bytes"] = [size for _, size in places]
    return {
        **{name: np.array(values, ALL[name]) for name, values in columns.items()},
        "vids words": vids.words,
        "vids ends": vids.ends,
        "qids words": packed.words,
        "qids ends": packed.ends,
    }


class Samples(Sequence[SampleEntry]):
    """The entries of a set, each made when it is looked at."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, index: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[SampleEntry]: ...
    def __getitem__(self, index: int | slice) -> SampleEntry | list[SampleEntry]:
        if isinstance(index, slice):
            return [self._columns.entry(place) for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._columns.entry(index % len(self))
