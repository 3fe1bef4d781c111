"""How do processes share arrays that grow with a data set, without a copy in each of them?

Arrays lie in one file, or in memory that has no name, and every process maps it: none reads more
of it than it looks at. What is given to another process is where it lies, never what it holds.

The file is laid out as `safetensors` lays out its own, and that library reads it: the length of
the header (8 bytes), the header (JSON: type, shape and place of each array), the arrays.
"""

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.untrusted import natural, parse_json, reading, shown

Array = NDArray[Any]

KINDS = {"I64": "<i8", "U64": "<u8", "F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "|u1"}
"""Types of arrays, as the header names them; the widest come first, so that all are aligned."""
MAX_HEADER = 1 << 20
SUMS = "xxh3-64"
"""In the header: the checksum of each array."""
PIECE = 16 << 20
"""Bytes that are written at a time."""


class Target(Protocol):
    """What bytes are appended to."""

    def write(self, data: bytes, /) -> object:
        """Append bytes."""


class Mapped(Mapping[str, Array]):
    """One-dimensional arrays by name, in a file or in memory that several processes share.

    `notes` are short texts about them. Pickled, it is a path: another process of this user on this
    host maps the same bytes, whatever has become of the file's name since. Arrays of a file are
    read-only, and `source` names it. A file is replaced and never written into: the system ends who
    looks at a part that was cut off meanwhile.
    """

    def __init__(self, descriptor: int, source: object, writable: bool = False) -> None:
        self._descriptor, self.source = descriptor, source  # closed with this object
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        with reading(source, "make it anew"):
            size = os.fstat(descriptor).st_size
            if size < 8:
                raise ValueError("it is empty")
            buffer = memoryview(mmap.mmap(descriptor, size, access=access))
            self.notes, self._sums, self._arrays = _taken_apart(buffer, source)

    @classmethod
    def of_file(cls, path: Path) -> "Mapped":
        """Map a file. Raises InputError for one that is missing, cut off, or no file of arrays."""
        with reading(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return cls(descriptor, path)

    @classmethod
    def empty(cls, **arrays: tuple[Any, int]) -> "Mapped":
        """Arrays of zeros in shared memory, by their types and lengths, to be filled."""
        header, _, size = _header({n: (np.dtype(t), k) for n, (t, k) in arrays.items()}, {})
        descriptor = os.memfd_create("sdst")
        os.truncate(descriptor, len(header) + size)
        os.pwrite(descriptor, header, 0)
        return cls(descriptor, "shared memory", writable=True)

    @classmethod
    def of(cls, arrays: Mapping[str, Array | Sequence[Array]]) -> "Mapped":
        """Copies of arrays in shared memory; of several under one name, one after the other."""
        parts = {n: [a] if isinstance(a, np.ndarray) else list(a) for n, a in arrays.items()}
        mapped = cls.empty(**{n: (each[0].dtype, sum(map(len, each))) for n, each in parts.items()})
        for name, of_name in parts.items():
            start = 0
            for part in of_name:
                mapped[name][start : start + len(part)] = part
                start += len(part)
        return mapped

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (f"/proc/{os.getpid()}/fd/{self._descriptor}", str(self.source))

    def __del__(self) -> None:
        os.close(self._descriptor)

    def check(self) -> None:
        """Raises InputError where an array of a file is not what was written."""
        for name, array in self.items():
            if self._sums.get(name) != checksum(array):
                raise InputError(f"{self.source}: {name!r} is not what was written; make it anew")

    @cached_property
    def sums(self) -> dict[str, str]:
        """The checksum of each array."""
        return dict(self._sums) or {name: checksum(array) for name, array in self.items()}


def _reopened(path: str, source: str) -> Mapped:
    return Mapped(os.open(path, os.O_RDONLY | os.O_CLOEXEC), source)


def checksum(array: Array) -> str:
    """XXH3 of an array's bytes, in hexadecimal."""
    return xxhash.xxh3_64_hexdigest(_bytes(array))


def _bytes(array: Array) -> memoryview:
    # NumPy's stubs tell of its arrays' buffers from Python 3.12 on; an empty one cannot be cast.
    data = memoryview(np.ascontiguousarray(array))  # type: ignore[arg-type]
    return data.cast("B") if len(array) else memoryview(b"")


def write_arrays(file: Target, arrays: Mapping[str, Array], notes: Mapping[str, str]) -> None:
    """Append the bytes of a file of arrays, which the arrays and the notes determine."""
    kinds = {name: (array.dtype, len(array)) for name, array in arrays.items()}
    sums = {f"{SUMS} {name}": checksum(array) for name, array in arrays.items()}
    header, places, _ = _header(kinds, dict(notes) | sums)
    file.write(header)
    for name in places:
        data = _bytes(arrays[name])
        for start in range(0, len(data), PIECE):
            file.write(bytes(data[start : start + PIECE]))


def _header(
    arrays: Mapping[str, tuple[np.dtype[Any], int]], notes: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """The bytes before the arrays, where each of them begins behind these, and where they end."""
    import json

    names = {np.dtype(kind): name for name, kind in KINDS.items()}
    order = sorted(arrays, key=lambda name: -arrays[name][0].itemsize)
    described: dict[str, Any] = {"__metadata__": dict(notes)}
    places, end = dict[str, int](), 0
    for name in order:
        dtype, length = arrays[name]
        places[name], start = end, end
        end += dtype.itemsize * length
        described[name] = {"dtype": names[dtype], "shape": [length], "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places, end


def _taken_apart(
    buffer: memoryview, source: object
) -> tuple[dict[str, str], dict[str, str], dict[str, Array]]:
    """Notes, checksums and arrays; ValueError, KeyError, TypeError or InputError for other bytes.

    The arrays lie one behind the other and fill the file.
    """
    length = natural(int.from_bytes(buffer[:8], "little"), MAX_HEADER)
    described = parse_json(bytes(buffer[8 : 8 + length]), source)
    notes = {str(name): str(text) for name, text in described.pop("__metadata__", {}).items()}
    sums = {n.removeprefix(f"{SUMS} "): t for n, t in notes.items() if n.startswith(f"{SUMS} ")}
    notes = {name: text for name, text in notes.items() if not name.startswith(f"{SUMS} ")}
    arrays: dict[str, Array] = {}
    end = 8 + length
    for name, each in described.items():
        dtype, (count,) = np.dtype(KINDS[each["dtype"]]), each["shape"]
        start = end
        end += natural(count) * dtype.itemsize
        if [8 + length + place for place in each["data_offsets"]] != [start, end]:
            raise ValueError(f"{shown(name)} is not behind the array before it")
        if end > len(buffer):
            raise ValueError("it is cut off")
        arrays[name] = np.frombuffer(buffer[start:end], dtype)
    if end != len(buffer):
        raise ValueError("bytes follow its end")
    return notes, sums, arrays
