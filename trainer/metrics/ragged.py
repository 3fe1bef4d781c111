"""Lists of unequal length as arrays, so that the measures need no loop over queries."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

_BLOCK = 1 << 18
"""Entries (rows x width) handled at once: bounds the memory, whatever the number of queries."""


@dataclass(frozen=True)
class Ragged:
    """Q lists of unequal length, end to end.

    `values` (total, ...) holds the entries of all lists, `counts` (Q,) the length of each.
    """

    values: Floats
    counts: Integers

    @classmethod
    def of(cls, lists: Sequence[Sequence[Any]], *entry: int) -> "Ragged":
        """From nested lists of numbers; `entry` is the shape of one entry, () for a number."""
        counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        values = np.array(list(chain.from_iterable(lists)), dtype=np.float64)
        return cls(values.reshape(-1, *entry), counts)

    @cached_property
    def starts(self) -> Integers:
        """(Q,) where each list begins in `values`."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def owners(self) -> Integers:
        """(total,) which list each entry belongs to."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def select(self, keep: Booleans) -> "Ragged":
        """Only the entries where `keep` (total,) is true; a list may become empty."""
        counts = np.bincount(self.owners[keep], minlength=len(self.counts))
        return Ragged(self.values[keep], counts.astype(np.int64))

    def padded(self, rows: Integers, width: int, fill: float) -> Floats:
        """(len(rows), width, ...): the lists `rows`, cut or filled up to `width` entries."""
        entry = self.values.shape[1:]
        columns = np.arange(width)
        real = columns < self.counts[rows][:, None]
        table = np.full((len(rows), width, *entry), fill)
        table[real] = self.values[(self.starts[rows][:, None] + columns)[real]]
        return table

    def by_length(self) -> Iterator[tuple[Integers, Floats]]:
        """(rows, (len(rows), length, ...)) of non-empty lists of one length at a time."""
        for length in np.unique(self.counts[self.counts > 0]):
            for rows in _pieces(np.flatnonzero(self.counts == length), int(length)):
                yield rows, self.values[self.starts[rows][:, None] + np.arange(length)]


def similar_lengths(lengths: Integers) -> Iterator[tuple[Integers, int]]:
    """(rows, width) in blocks of similar length, so that one long list does not pad all others."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        # Twice the shortest list of the block at most, at least the width of an ordinary video.
        limit = max(2 * int(lengths[order[start]]), 128)
        stop = int(np.searchsorted(lengths[order], limit, side="right"))
        width = int(lengths[order[stop - 1]])
        for rows in _pieces(order[start:stop], width):
            yield rows, width
        start = stop


def _pieces(rows: Integers, width: int) -> Iterator[Integers]:
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def reduce_kept(values: Floats, kept: Booleans, reduce: Callable[..., Floats]) -> Floats:
    """(...): `reduce` (numpy.sum or numpy.mean) over the kept entries of the last axis, 0 if none.

    Rows with equally many kept entries are packed and reduced together: numpy then adds exactly as
    it would one row alone. With zeros in between it would round differently, which shows in the
    second decimal of a percentage that falls on a tie.
    """
    counts = kept.sum(-1)
    result = np.zeros(counts.size)
    for rows, packed in Ragged(values[kept], counts.ravel()).by_length():
        result[rows] = reduce(packed, axis=1)
    return result.reshape(counts.shape)
