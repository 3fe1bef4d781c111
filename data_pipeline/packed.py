"""What may be taken from a zip, or from an array's file, that anybody wrote? No more than it says.

A zip of a kilobyte can unpack to gigabytes, and a header can claim any shape: sizes are compared
with what is there, and with a bound, before memory is taken. Pickles are not read.
"""

import io
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.untrusted import shown

MAX_ARRAY = 2 << 30
"""Bytes of an array: features of a video of ten hours have fewer."""
MAX_DIRECTORY = 4 << 20
"""Bytes of a zip's list of contents: 50,000 members."""
UNSUSPECTED, MAX_RATIO = 64 << 20, 100
"""What unpacks to more bytes than this is not this many times larger than it was: zeros may be."""
MAX_HEADER = 10_000
"""Bytes of an array's header, as in numpy."""


class OtherContents(InputError):
    """The file is sound, but not one that holds what is asked for."""


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to read with `read_member`. Raises InputError for a file that is none."""
    with _faults(path), open(path, "rb") as file:
        if (size := _directory(file)) > MAX_DIRECTORY:
            raise InputError(
                f"{path}: lists {size / 1e6:.0f} MB of contents; is it the right file?"
            )
        with zipfile.ZipFile(file) as archive:
            yield archive


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """A member of at most `limit` bytes, which must be whole; InputError names the zip and it."""
    with _member(archive, name, limit) as file:
        return file.read()


def read_array(path: Path, keys: Sequence[str] = ()) -> NDArray[Any]:
    """The array of a .npy, or that of a .npz under the first of `keys` that is there.

    Raises OtherContents for a .npz with none of `keys`, InputError for a file that is damaged,
    encrypted or pickled, or that claims more than it can hold.
    """
    if path.suffix == ".npy":
        with _faults(path), open(path, "rb") as file:
            return _parse(file, os.fstat(file.fileno()).st_size)
    with open_zip(path) as archive:
        found = [name.removesuffix(".npy") for name in archive.namelist()]
        key = next((key for key in keys if key in found), None)
        if key is not None:
            size = archive.getinfo(f"{key}.npy").file_size
            with _member(archive, f"{key}.npy", MAX_ARRAY) as file:
                return _parse(file, size)
    some = ", ".join(shown(name) for name in found[:5])
    raise OtherContents(f"{path}: holds {some or 'nothing'} and not {' or '.join(keys)}")


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, limit: int) -> Iterator[IO[bytes]]:
    place = f"{archive.filename}/{name}"
    with _faults(place):
        info = archive.getinfo(name)
        if info.flag_bits & 1:
            raise InputError(f"{place}: is encrypted; write it without a password")
        # Others are not unpacked piece by piece: their bombs would not be noticed.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{place}: is not packed by deflate; write it again with zip")
        bomb = info.file_size > max(UNSUSPECTED, MAX_RATIO * info.compress_size)
        if info.file_size > limit or bomb:
            raise InputError(
                f"{place}: unpacks to {info.file_size / 1e6:.0f} MB; is it the right file?"
            )
        with archive.open(info) as file:
            yield file
            file.read(1)  # at the end the checksum is compared


@contextmanager
def _faults(source: object) -> Iterator[None]:
    """Whatever zipfile, zlib and numpy raise (a dozen kinds) becomes one line."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from error
    except Exception as error:
        cause = shown(error) if str(error) else type(error).__name__
        raise InputError(f"{source}: damaged, or another kind of file ({cause})") from error


def _directory(file: IO[bytes]) -> int:
    """Bytes of the list at the end of a zip, 0 where there is none; zipfile reads all of it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 22 - 20))
    tail = file.read()
    at = len(tail) - 22
    if tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6")
    file.seek(0)
    if at < 0:
        return 0
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":  # sizes beyond 32 bits stand before it
        return int.from_bytes(tail[at - 20 - 56 + 40 : at - 20 - 56 + 48], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _parse(file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a .npy of `size` bytes; ValueError for one that claims another size."""
    start = file.read(12)
    version = np.lib.format.read_magic(io.BytesIO(start))
    first = version == (1, 0)
    length = int.from_bytes(start[8:10] if first else start[8:12], "little")
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = start[8:] + file.read(length - (2 if first else 0))
    shape, fortran, dtype = _layout(header, version)
    if dtype.hasobject:
        raise ValueError("holds objects, which are not unpickled")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"a shape {shown(shape)}")
    claimed = math.prod(shape) * dtype.itemsize
    held = size - (10 if first else 12) - length
    if claimed != held:
        raise ValueError(f"claims {shown(claimed)} bytes and holds {held}")
    array = np.empty(claimed, np.uint8)
    view, done = memoryview(array.data), 0
    while done < claimed:
        if not (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
            raise ValueError("ends early")
        done += count
    return array.view(dtype).reshape(shape, order="F" if fortran else "C")


@lru_cache(maxsize=4096)
def _layout(header: bytes, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type: thousands of files have the same few headers."""
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(io.BytesIO(header))
    return np.lib.format.read_array_header_2_0(io.BytesIO(header))
