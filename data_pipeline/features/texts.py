"""How are millions of texts kept in two arrays, judged and compared, with no object for each?

A text is a run of 8-byte words: its UTF-8 bytes, filled up with zeros, which no text of ours holds.
`ends` tells where each run ends. What is done to all of them is done a piece at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.untrusted import MAX_NAME, MAX_PATH

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

PIECE = 1 << 16
"""Texts that are looked at together: their words stay in the processor's caches."""

LOW, HIGH = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x8080808080808080)
FIRST = np.uint64(0x80)
EIGHT = np.uint64(8)


@dataclass(frozen=True)
class Texts:
    """Texts as `words`, and for each of them the number of words up to its end."""

    words: Words
    ends: Ints

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Pack texts without zero bytes."""
        encoded = [text.encode() for text in texts]
        padded = b"".join(data + bytes(-len(data) % 8) for data in encoded)
        ends = np.cumsum([-(-len(data) // 8) for data in encoded], dtype=np.int64)
        return cls(np.frombuffer(padded, "<u8"), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends.item(index - 1) if index else 0
        return self.words[start : self.ends.item(index)].tobytes().rstrip(b"\0").decode()

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def take(self, rows: Ints) -> "Texts":
        """The texts of these numbers."""
        starts = begins(self.ends)[rows]
        lengths = self.ends[rows] - starts
        return Texts(self.words[ranges(starts, lengths)], np.cumsum(lengths))

    def check(self, names: bool) -> None:
        """Raises ValueError unless all are texts, or with `names` paths as `plain_name` takes."""
        if len(self.ends) and (self.ends[0] < 0 or (np.diff(self.ends) < 0).any()):
            raise ValueError("texts that end before they begin")
        if len(self.words) != (self.ends[-1] if len(self.ends) else 0):
            raise ValueError("texts that end elsewhere")
        for starts, ends, words in self._pieces():
            data = words.view(np.uint8)
            lengths = _lengths(starts, ends, words)
            _check_encoding(data, starts[ends > starts] * 8)
            if names:
                _check_names(data, starts * 8, starts * 8 + lengths)

    def hashes(self) -> Words:
        """A number for each text, equal where texts are, and else by accident only."""
        found = np.empty(len(self), np.uint64)
        done = 0
        for starts, ends, words in self._pieces():
            found[done : done + len(starts)] = _hashed(starts, ends, words)
            done += len(starts)
        return found

    def _pieces(self) -> Iterator[tuple[Ints, Ints, Words]]:
        """Where texts start and end among the words of a piece, and these."""
        for first in range(0, len(self.ends), PIECE):
            ends = self.ends[first : first + PIECE]
            base = self.ends[first - 1] if first else np.int64(0)
            starts = np.concatenate(([base], ends[:-1]))
            yield starts - base, ends - base, self.words[base : ends[-1]]


def begins(ends: Ints) -> Ints:
    """Where runs begin that follow each other and end at `ends`."""
    return np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1]))


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers of all the ranges, one range after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _lengths(starts: Ints, ends: Ints, words: Words) -> Ints:
    """Bytes of each text; ValueError where zeros stand elsewhere than behind it."""
    zeros = ~(((words & LOW) + LOW) | words) & HIGH  # the high bit of every byte that is zero
    filled = ends > starts
    last = np.zeros(len(words), bool)
    last[ends[filled] - 1] = True
    padding = zeros[last]
    if zeros[~last].any() or (padding & FIRST).any() or ((padding << EIGHT) & ~padding).any():
        raise ValueError("texts with zero bytes")
    found = (ends - starts) * 8
    # A multiplication adds the bytes of a word up in its highest.
    count = ((padding >> np.uint64(7)) * np.uint64(0x0101010101010101)) >> np.uint64(56)
    found[filled] -= count.astype(np.int64)
    return found


def _check_encoding(data: NDArray[np.uint8], starts: Ints) -> None:
    if not (data >= 0x80).any():
        return
    try:
        data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError("texts that are not UTF-8") from error
    if ((data[starts] & 0xC0) == 0x80).any():  # the rest of a letter of the text before
        raise ValueError("texts that are not UTF-8")


def _check_names(data: NDArray[np.uint8], starts: Ints, ends: Ints) -> None:
    """As `plain_name` with folders: no control character, no backslash, plain parts."""
    if (((data < 0x20) & (data != 0)) | (data == 0x7F) | (data == 0x5C)).any():
        raise ValueError("names with control characters or backslashes")
    slashes = np.flatnonzero(data == 0x2F)
    first, last = starts, ends
    if len(slashes):
        first = np.sort(np.concatenate((starts, slashes + 1)))
        last = np.sort(np.concatenate((slashes, ends)))
    length = last - first
    if ((length < 1) | (length > MAX_NAME)).any():
        raise ValueError("names with parts that are empty or too long")
    dots = data[first] == 0x2E
    if (dots & (length == 1)).any() or (
        dots & (length == 2) & (data[np.minimum(first + 1, len(data) - 1)] == 0x2E)
    ).any():
        raise ValueError("names that lead out of their folder")
    for long in np.flatnonzero(ends - starts > MAX_PATH):  # in bytes; what counts is letters
        if len(data[starts[long] : ends[long]].tobytes().decode()) > MAX_PATH:
            raise ValueError("names that are too long")


def _hashed(starts: Ints, ends: Ints, words: Words) -> Words:
    """A multiplication and a shift for each word, of all texts that have so many."""
    found = (ends - starts).astype(np.uint64)
    number, left = 0, np.flatnonzero(ends > starts)
    while len(left):
        mixed = (found[left] ^ words[starts[left] + number]) * np.uint64(0x9E3779B97F4A7C15)
        found[left] = mixed ^ (mixed >> np.uint64(29))
        number += 1
        left = left[ends[left] - starts[left] > number]
    return found
