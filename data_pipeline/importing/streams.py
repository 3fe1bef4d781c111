"""How do the released streams of a video, or of a query, become its rows of features?

The rules are those that the original loaders share (Moment-DETR and all after it): in float32, rows
are cut to a maximum from the start, each is divided by its length, all streams are cut to the
shortest, and then they are concatenated along the width, in their order.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import Pooling, StreamConfig
from data_pipeline.errors import InputError
from data_pipeline.features.samples import Half, is_finite
from data_pipeline.importing.files import (
    HDF5,
    SUFFIXES,
    WORDS,
    FeatureFileError,
    read_array,
    read_word_vectors,
)
from data_pipeline.untrusted import plain_name

EPSILON = 1e-5
"""Added to a row's length before the row is divided by it: a row of zeros stays one."""

JOIN = " + "

FORMS = {
    "R D": "(rows, width)",
    "R K D": "(rows, layers, width)",
    "K R D": "(layers, rows, width)",
    "R K P D": "(rows, layers, patches, width)",
}

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Names:
    """Whose features are asked for: what stands for {vid} and {qid} in patterns and keys."""

    vid: str
    qid: int | str | None = None
    query: str = ""

    def fill(self, pattern: str) -> str:
        """The pattern with the names in it; raises InputError for a name that is none."""
        for place, name in (("{vid}", self.vid), ("{qid}", self.qid)):
            if place in pattern:
                if name is None:
                    raise InputError(f"{pattern}: {place} is of queries, this is of videos")
                fit = plain_name(str(name), "a video or query", pattern, folders=True)
                pattern = pattern.replace(place, fit)
        return pattern


@dataclass
class Read:
    """The rows of one stream: `values` (R, K, D), of `found` rows that its file holds."""

    values: Floats
    found: int


@dataclass(frozen=True)
class Stream:
    """One stream in one folder, of which `files` are read and joined for each video or query."""

    config: StreamConfig
    folder: Path
    files: tuple[str, ...]
    place: int = 0
    """Of its pattern among those of the configuration."""
    pooling: Pooling = "cls"
    words: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What records call it."""
        first = PurePosixPath(self.files[0])
        folder = first.parent.name
        plain = folder if folder and "{" not in folder else first.stem
        return self.config.name or plain.replace("{vid}", "").replace("{qid}", "") or "features"

    @property
    def of_words(self) -> bool:
        """Whether a query's tokens are its words, whose vectors lie in one file."""
        return self.files[0].endswith(WORDS)

    def paths(self, names: Names) -> list[Path]:
        """The files of a video or query; raises FeatureFileError where one is not there."""
        paths = [self.folder / names.fill(file) for file in self.files]
        for path in paths:
            try:
                there = path.is_file()
            except OSError:  # a name that is longer than names may be
                there = False
            if not there:
                raise FeatureFileError(f"{path}: no such feature file", "missing")
        return paths

    def has(self, names: Names) -> bool:
        """Whether there are files of a video or query."""
        try:
            self.paths(names)
        except FeatureFileError:
            return False
        return True

    def load_words(self, queries: Iterable[str]) -> None:
        """Read the vectors of all words of the queries, where the stream is one of words."""
        if self.of_words:
            [path] = self.paths(Names(""))
            words = {word for query in queries for word in _words(query)}
            self.words.update(read_word_vectors(path, words))

    def read(self, names: Names, counted: Counter[str] | None = None) -> Read:
        """The rows (R, K, D) of a video or query, cut to the maximum and normalised.

        Raises FeatureFileError. What the files have more than is taken is added to `counted`.
        """
        counted = Counter() if counted is None else counted
        if self.of_words:
            arrays = [self._vectors(names.query, counted)]
        else:
            keys = [names.fill(key) for key in self.config.keys]
            arrays = [self._layered(path, read_array(path, keys)) for path in self.paths(names)]
        found = min(len(array) for array in arrays) - self.config.skip
        if found < 1:
            place = self.folder / names.fill(self.files[0])
            raise FeatureFileError(f"{place}: holds no row to take", "other contents")
        taken = slice(self.config.skip, self.config.skip + min(found, self.config.rows or found))
        values = arrays[0][taken]
        if len(arrays) > 1:
            values = np.concatenate([array[taken] for array in arrays], axis=-1)
        if self.config.l2:
            values = values.astype(np.float32)
            length = np.sqrt(np.einsum("rkd,rkd->rk", values, values))  # (R, K)
            values = values / (length + np.float32(EPSILON))[..., None]
        return Read(values, found)

    def _layered(self, path: Path, array: NDArray[Any]) -> Floats:
        """(R, K, D) of what a file holds."""
        axes, whole = self.config.axes, array
        if axes in ("R D", "R K D") and array.ndim == 2:
            array = array[:, None]
        elif axes == "K R D" and array.ndim in (2, 3):
            array = array[:, None] if array.ndim == 2 else array.swapaxes(0, 1)
        elif axes == "R K P D" and array.ndim == 4:
            if self.pooling == "none":
                array = array.reshape(*array.shape[:2], -1)
            else:
                array = array[:, :, 0] if self.pooling == "cls" else array.mean(2, dtype=np.float32)
        fits = axes != "R D" or whole.ndim == 2
        fits &= array.ndim == 3 and 0 not in array.shape
        if not fits or not np.issubdtype(array.dtype, np.floating):
            raise FeatureFileError(
                f"{path}: an array {whole.shape} of {whole.dtype}, expected floats {FORMS[axes]}",
                "other contents",
            )
        return array

    def _vectors(self, query: str, counted: Counter[str]) -> Floats:
        """(words, 1, D); a word that has no vector is a row of zeros, as in 2D-TAN."""
        words = _words(query)
        nothing = np.zeros_like(next(iter(self.words.values())))
        counted["words without a vector"] += sum(word not in self.words for word in words)
        return np.stack([self.words.get(word, nothing) for word in words])[:, None]


def _words(query: str) -> list[str]:
    return query.lower().split()


def resolve(
    config: StreamConfig,
    folder: Path,
    names: Sequence[Names],
    pooling: Pooling = "cls",
    apart: bool = False,
) -> Stream | None:
    """The stream with the first pattern of which one of `names` has files; None where none has.

    `apart`: the folder is the stream's own, and its patterns' folders do not count.
    """
    for place, pattern in enumerate(config.patterns):
        files = tuple(_check_pattern(file, config.keys) for file in pattern.split(JOIN))
        if apart:
            files = tuple(file.rpartition("/")[2] for file in files)
        stream = Stream(config, folder, files, place, pooling)
        if any(stream.has(each) for each in names):
            return stream
    return None


def _check_pattern(pattern: str, keys: Sequence[str]) -> str:
    """A pattern that stays in its folder and names a kind of file that can be read."""
    for part in (pattern, *keys):
        plain = part.replace("{vid}", "v").replace("{qid}", "q")
        if "{" in plain or "}" in plain:
            raise InputError(f"pattern {part}: only {{vid}} and {{qid}} stand for names")
    plain_name(pattern, "the pattern", "a stream", folders=True)
    suffix = PurePosixPath(pattern).suffix
    if suffix not in SUFFIXES:
        raise InputError(f"pattern {pattern}: ends in none of {', '.join(SUFFIXES)}")
    of_each = ("{vid}", "{qid}")
    parts = (pattern, *(keys if suffix in HDF5 else ()))
    if suffix != WORDS and not any(place in part for part in parts for place in of_each):
        raise InputError(f"pattern {pattern}: names the same for all; put {{vid}} or {{qid}} in it")
    return pattern


def join(streams: Iterable[Stream], names: Names, counted: Counter[str]) -> tuple[Half, list[int]]:
    """(L, K, D) of a video from all its streams, and how many rows each stream's file has.

    Raises FeatureFileError. `counted` gets what was cut.
    """
    read = [stream.read(names, counted) for stream in streams]
    found, values = [each.found for each in read], [each.values for each in read]
    shortest = min(found)
    if extra := sum(rows - shortest for rows in found):
        counted["videos cut to their shortest stream"] += 1
        counted["rows beyond the shortest stream"] += extra
    kept = min(len(each) for each in values)
    if kept < shortest:
        counted["videos cut to the maximum of rows"] += 1
        counted["rows beyond the maximum"] += shortest - kept
    if len(values) == 1:
        return half(f"video {names.vid}", values[0]), found
    if len({each.shape[1] for each in values}) > 1:
        raise FeatureFileError(f"video {names.vid}: its streams differ in layers", "other contents")
    return half(
        f"video {names.vid}", np.concatenate([each[:kept] for each in values], axis=2)
    ), found


def half(place: object, array: Floats) -> Half:
    """The array in float16, all finite."""
    with np.errstate(over="ignore"):
        halved = np.ascontiguousarray(array, dtype=np.float16)
    if not is_finite(halved):
        raise FeatureFileError(f"{place}: holds values that float16 cannot hold", "not finite")
    return halved
