"""Which file holds the columns of a whole set, and are they those of the set as it is now?

    features/<split>/index.safetensors     derived from the shards' indexes, which stay what counts

It is bound to manifest.json by SHA-256, to each shard's index by size and XXH3, and to itself by
the checksum of each array; a shard's index that has changed since is read and compared. A file that
is missing, cut off, altered or of another state of the set is not used: the set is opened by the
indexes of its shards, which takes longer, and one line says so.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

from data_pipeline.errors import InputError
from data_pipeline.features.columns import Columns
from data_pipeline.features.opening import OPENED_AT_ONCE, Counts
from data_pipeline.holding import lock
from data_pipeline.mapped import PIECE, Array, Mapped, checksum, write_arrays
from data_pipeline.output import NotWritten, make_folder, sweep, whole
from data_pipeline.storage import Files, Location, Status
from data_pipeline.untrusted import reading

LOG = logging.getLogger(__name__)

NAME = "index.safetensors"
FORMAT = "1"
MAKE = "python -m launch.shards index"


class Unfit(InputError):
    """There is no index to be used; the message says why, and what to do."""


class Seals:
    """Of the index of each shard of a set, as it was read: how many bytes, and their XXH3."""

    def __init__(self, shards: int) -> None:
        self.sizes = np.zeros(shards, np.int64)
        self.sums = np.zeros(shards, np.uint64)

    def take(self, number: int, data: bytes) -> None:
        """These are the bytes of this shard's."""
        self.sizes[number], self.sums[number] = len(data), xxhash.xxh3_64_intdigest(data)


def write_columns(folder: Location, manifest: str, columns: Columns, seals: Seals) -> int:
    """Write the index of a set, complete or not at all; returns its bytes.

    `manifest` is the SHA-256 of manifest.json. The same set makes the same bytes: a file of a disk
    that holds them already stays.
    """
    arrays = {**columns.arrays, "index bytes": seals.sizes, "index sum": seals.sums}
    notes = {"format": FORMAT, "manifest": manifest}
    if not _is_written(folder / NAME, arrays, notes):
        with (folder / NAME).create() as file:
            write_arrays(file, arrays, notes)
            file.commit()
    return (folder / NAME).size()


def _is_written(path: Location, arrays: Mapping[str, Array], notes: Mapping[str, str]) -> bool:
    if path.local is None or not path.is_file():
        return False
    try:
        found = Mapped.of_file(path.local)
        found.check()
    except InputError:
        return False
    sums = {name: checksum(array) for name, array in arrays.items()}
    return found.notes == notes and found.sums == sums


def open_columns(
    folder: Location, manifest: str, shards: Sequence[str], counts: Sequence[Counts], files: Files
) -> Columns:
    """The columns of the set whose manifest has this SHA-256 and lists these shards.

    `files` are what lies in the folder. Raises Unfit where there are none that can be trusted.
    """
    if NAME not in files:
        raise Unfit(
            f"{folder}: has no columnar index, which opens large sets fast: {MAKE} {folder}"
        )
    path, mend = folder / NAME, f"{MAKE} {folder} makes it anew"
    try:
        mapped = _mapped(path, files[NAME], manifest)
        if mapped.notes.get("format") != FORMAT:
            raise InputError(f"{path}: is of another version")
        if mapped.notes.get("manifest") != manifest:
            raise InputError(f"{path}: is of another state of the set than manifest.json")
        with reading(path):
            columns = Columns(mapped)
            columns.check(counts)
            if columns.twice():
                raise ValueError("it holds something twice")
            changed = _changed(folder, mapped, shards, files)
        if changed is not None:
            raise InputError(f"{path}: is older than {changed}, which has changed")
    except InputError as error:
        raise Unfit(f"{error}; opened by the shards' own indexes; {mend}") from error
    return columns


def _changed(folder: Location, mapped: Mapped, shards: Sequence[str], files: Files) -> str | None:
    """The name of a shard's index that is not the one that the columns were made of, if one is."""
    sizes, sums = mapped["index bytes"], mapped["index sum"]
    if not len(sizes) == len(sums) == len(shards) or sums.dtype != np.uint64:
        raise ValueError("it is of other shards")
    of_columns, newer = files[NAME].changed, []
    for number, name in enumerate(shards):
        status = files.get(f"{name}.json")
        if status is None or status.size != sizes[number]:
            return f"{name}.json"
        if status.changed is None or of_columns is None or status.changed >= of_columns:
            newer.append(number)

    def same(number: int) -> bool:
        data = (folder / f"{shards[number]}.json").read_bytes()
        return bool(xxhash.xxh3_64_intdigest(data) == sums[number])

    with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
        for number, is_same in zip(newer, threads.map(same, newer), strict=True):
            if not is_same:
                return f"{shards[number]}.json"
    if len(newer) > OPENED_AT_ONCE:  # a copy of a set, whose files are all new
        LOG.info("%s: read %d files to compare them; %s spares it", folder, len(newer), MAKE)
    return None


# In an object store


def _mapped(path: Location, status: Status, manifest: str) -> Mapped:
    """The arrays of an index, whole; of one in a store from a copy that this host keeps."""
    if path.local:
        mapped = Mapped.of_file(path.local)
        mapped.check()
        return mapped
    name = hashlib.sha256(f"{path} {manifest} {status}".encode()).hexdigest()[:32]
    try:
        return _kept(path, status, name)
    except NotWritten as error:
        LOG.warning("%s; every process reads %s for itself", error, path)
        return _in_memory(path, status)


def _kept(path: Location, status: Status, name: str) -> Mapped:
    """From the folder that this user's processes share: one of them fetches, the others wait."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "sdst" / "indexes"
    make_folder(folder)
    of_set = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    file = folder / f"{of_set}-{name}"
    with lock(folder / f"{of_set}.lock", wait=True):
        if not file.is_file():
            sweep(folder)  # of those who were killed while they fetched
            for other in folder.glob(f"{of_set}-*"):  # of earlier states of the set
                other.unlink(missing_ok=True)
            with whole(file) as temporary, temporary.open("wb") as target:
                for piece in _pieces(path, status.size):
                    target.write(piece)
        try:
            mapped = Mapped.of_file(file)
            mapped.check()
        except InputError:
            file.unlink(missing_ok=True)  # the next one fetches it again
            raise
    return mapped


def _in_memory(path: Location, status: Status) -> Mapped:
    descriptor = os.memfd_create("sdst")
    with os.fdopen(os.dup(descriptor), "wb") as target:
        for piece in _pieces(path, status.size):
            target.write(piece)
    mapped = Mapped(descriptor, path)
    mapped.check()
    return mapped


def _pieces(path: Location, size: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE):
        data = path.read_range(start, min(PIECE, size - start))
        if not data:
            raise InputError(f"{path}: is cut off")
        yield data
