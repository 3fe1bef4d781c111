"""Which videos lie in a tar, in the layout of WebDataset that video2dataset writes?

A sample is what shares a name up to the first dot: a video (`.mp4`), a caption (`.txt`), what is
known of it (`.json`); or pictures in its place (`.000.jpg`, `.001.jpg`, ...). The tar is read once,
from front to back, a sample at a time, whether it lies on a disk or in a store.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from data_pipeline.errors import InputError
from data_pipeline.extraction.pictures import SUFFIXES as PICTURES
from data_pipeline.extraction.pictures import Pictures
from data_pipeline.features.writing import Failure
from data_pipeline.storage import Location
from data_pipeline.untrusted import parse_json, plain_name, shown
from data_pipeline.video.names import SUFFIXES

DEFAULT_RATE = 1.0
"""Pictures a second where a sample's `.json` has no `fps`."""

LONGEST_CAPTION = 10_000
"""Letters that are taken of a caption."""

BLOCK = 512


@dataclass(frozen=True)
class Video:
    """The bytes of a video's file."""

    data: bytes
    name: str


@dataclass(frozen=True)
class TarSample:
    """A sample: its id, what it shows or why it cannot be used, and its caption, if it has one."""

    vid: str
    shows: Video | Pictures | Failure
    caption: str = ""


def read_tar(path: Location, prefix: str) -> Iterator[TarSample]:
    """The samples of a tar in order; their ids are their names there below `prefix`.

    A tar that ends before its end, or cannot be read further, is the last one, as a Failure under
    the name of the tar.
    """
    # Its readers could run commands that a name asks for; only files that we opened are read.
    os.environ.setdefault("WDS_SECURE", "1")
    from webdataset.tariterators import group_by_keys, tar_file_expander

    seen: set[str] = set()
    count = 0
    broken: list[Exception] = []
    doubled: list[Exception] = []

    def stop(error: Exception) -> bool:
        broken.append(error)
        return False

    def skip(error: Exception) -> bool:
        doubled.append(error)
        return True

    try:
        with path.open() as file:
            stream = _Watched(file)
            files = tar_file_expander([{"url": str(path), "stream": stream}], handler=stop)
            for sample in group_by_keys(files, handler=skip):
                count += 1
                vid = f"{prefix}/{sample['__key__']}"
                fault = _name_fault(vid, path, seen)
                if fault:
                    vid = f"{prefix}/sample {count}"
                    yield TarSample(vid, Failure(vid, "unfit name", fault))
                    continue
                seen.add(vid)
                yield _sample(vid, sample, f"{path}: {sample['__key__']}")
            if not broken and not stream.ended:
                broken.append(EOFError("it has no end, as if it were cut off"))
    except Exception as fault:  # of a store's driver
        broken.append(fault)
    for number, error in enumerate(doubled, start=1):
        vid = f"{prefix}/double {number}"
        yield TarSample(vid, Failure(vid, "unfit name", f"{path}: {_said(error)}"))
    if broken:
        cause = f"{path}: cannot be read beyond {count} samples ({_said(broken[0])})"
        yield TarSample(prefix, Failure(prefix, "damaged tar", f"{cause}; fetch the tar again"))


def _said(error: Exception) -> str:
    # The library adds what it had in hand to an error's arguments.
    return shown(Exception(error.args[0] if error.args else repr(error)))


def _name_fault(vid: str, path: Location, seen: set[str]) -> str:
    """Why a sample cannot be known by this id; empty if it can."""
    try:
        plain_name(vid, "a sample", path, folders=True).encode()
    except InputError as error:
        return str(error)
    except UnicodeEncodeError:
        return f"{path}: {shown(vid)} is no UTF-8 text"
    return f"{path}: holds {shown(vid)} twice; the first is stored" if vid in seen else ""


class _Watched:
    """A file that is read in order and remembers whether it ended as a tar does, in zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._tail = b""

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        data = self._file.read(size)
        if data:
            self._tail = (self._tail + data[-BLOCK:])[-BLOCK:]
        return data

    @property
    def ended(self) -> bool:
        """Whether the last block that was read is one of zeros."""
        return self._tail == bytes(BLOCK)


def _sample(vid: str, members: dict[str, Any], name: str) -> TarSample:
    caption = members.get("txt", b"").decode("utf-8", "replace").strip()[:LONGEST_CAPTION]
    files = {key: value for key, value in members.items() if isinstance(value, bytes)}
    for suffix in SUFFIXES:
        for key in sorted(files):
            if f".{key}".endswith(suffix):
                return TarSample(vid, Video(files[key], name), caption)
    pictures = [key for key in files if key.rpartition(".")[2] in PICTURES]
    if not pictures:
        held = ", ".join(sorted(files)) or "nothing"
        cause = f"{name}: holds no video and no pictures, but {held}"
        return TarSample(vid, Failure(vid, "no video", cause[:300]))
    pictures.sort(key=_counted)
    data = [files[key] for key in pictures]
    return TarSample(vid, Pictures(data, _rate(files.get("json")), name), caption)


def _counted(key: str) -> list[tuple[int, str]]:
    """Sorts 2.jpg before 10.jpg."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", key)]


def _rate(text: bytes | None) -> float:
    """Pictures a second."""
    try:
        value = parse_json(text, "json") if text else None
    except InputError:
        value = None
    rate = value.get("fps") if isinstance(value, dict) else None
    fits = isinstance(rate, int | float) and not isinstance(rate, bool) and 1e-3 <= rate <= 1e3
    return float(rate) if fits and rate is not None else DEFAULT_RATE
