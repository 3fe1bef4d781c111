"""Do the indexes of a set hold what its manifest lists, and each thing once?

A fault is one line. Nothing of a tar is read for it.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.features.samples import SampleEntry
from data_pipeline.storage import Location
from data_pipeline.untrusted import natural

OPENED_AT_ONCE = 16
"""Indexes that are asked for at the same time: a store takes its time to answer."""

REMAKE = "remove it and run the extraction again"

COUNTED = ("videos", "queries", "clips", "bytes", "failures")
"""What a manifest counts, for each shard and in all."""

Counts = dict[str, int]


def listed(values: dict[str, Any]) -> Counts:
    """What a manifest says of a shard, or in its totals.

    Raises KeyError, TypeError or ValueError where it is not counts.
    """
    return {name: natural(values[name]) for name in COUNTED}


def held(entries: Sequence[SampleEntry], index: dict[str, Any]) -> Counts:
    """What an index, of which `entries` were taken, holds."""
    return {
        "videos": len(entries),
        "queries": sum(len(entry.queries) for entry in entries),
        "clips": sum(entry.clips for entry in entries),
        "bytes": natural(index["bytes"]),
        "failures": len(index["failures"]),
    }


def in_all(shards: Sequence[Counts]) -> Counts:
    """The sum."""
    return {name: sum(shard[name] for shard in shards) for name in COUNTED}


def count_faults(path: Location, found: Counts, expected: Counts) -> Iterator[str]:
    """Where an index, at `path`, holds more or less than its manifest lists."""
    for name in COUNTED:
        if found[name] != expected[name]:
            yield (
                f"{path}: holds {found[name]} {name}, manifest.json lists {expected[name]}; "
                f"{REMAKE}"
            )


def total_faults(path: Location, totals: Counts, shards: Counts) -> Iterator[str]:
    """Where a manifest's totals are not the sums over its shards."""
    for name in COUNTED:
        if totals[name] != shards[name]:
            yield (
                f"{path}: its total of {name} is {totals[name]}, its shards hold {shards[name]}; "
                f"{REMAKE}"
            )


def check_apart(path: Location, entries: Sequence[SampleEntry]) -> None:
    """Raises InputError where the bytes of one sample are another's too."""
    in_order = sorted(entries, key=lambda entry: entry.offset)
    for entry, following in itertools.pairwise(in_order):
        if following.offset < entry.offset + entry.size:
            raise InputError(
                f"{path}: samples {entry.vid!r} and {following.vid!r} share bytes; {REMAKE}"
            )


class Once:
    """Tells which samples of a set have a video and queries that no sample before had.

    `faults` says what is wrong with the others.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._vids: set[str] = set()
        self._qids: set[int | str] = set()

    def is_new(self, path: Location, entry: SampleEntry) -> bool:
        """Whether this one has, of the shard with its index at `path`."""
        qids = entry.qids or ()
        doubled = [qid for qid in qids if qid in self._qids or qids.count(qid) > 1]
        if entry.vid in self._vids:
            self.faults.append(f"{path}: video {entry.vid!r} is stored twice; {REMAKE}")
        elif doubled:
            self.faults.append(f"{path}: qid {doubled[0]!r} is stored twice; {REMAKE}")
        else:
            self._vids.add(entry.vid)
            self._qids.update(qids)
            return True
        return False
