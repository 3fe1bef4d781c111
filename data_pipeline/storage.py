"""How are files reached, on a disk or in an object store, and written complete or not at all?

Videos and shards are named by a local path or by a URL (`s3://bucket/folder`), which fsspec serves.
Credentials come from the environment, as the store's own tools read them: never from a URL, a
configuration or a command line, all of which end up in logs.
"""

import contextlib
import errno
import hashlib
import os
import stat
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import fsspec

from data_pipeline.errors import InputError
from data_pipeline.output import TEMPORARY, fault, hold_temporary, temporary_beside

PART = 16 * 2**20
"""Bytes of one part of a multipart upload, and of one request when a file is read in order."""


class NotFound(InputError):
    """No file has this name; any other fault of a store is a plain InputError."""


@dataclass(frozen=True)
class Status:
    """Of a file: its bytes, and when it last changed, in nanoseconds; None if that is not known.

    On a disk that is the time of the last change of any kind, which no copying program sets.
    """

    size: int
    changed: int | None


Files: TypeAlias = "Mapping[str, Status]"
"""Files by name."""

Source: TypeAlias = "str | Path | Location"
"""What a function that reads or writes files takes."""


class Location:
    """A file or folder: a local path or a URL.

    Methods are named after those of `pathlib.Path`. They raise NotFound where there is no such
    file, InputError where it cannot be reached, ImportError where no driver for the URL is
    installed.
    """

    def __init__(self, where: Source) -> None:
        text = str(where)
        scheme, separator, rest = text.partition("://")
        if scheme == "file":
            text, separator = urllib.parse.unquote(rest), ""
        self.local = None if separator else Path(text)
        """The local path; None for a URL."""
        self._text = text.rstrip("/") if separator else str(self.local)
        if separator and "@" in rest.partition("/")[0]:
            raise InputError(
                f"{scheme}://…@{rest.rpartition('@')[2]}: credentials in a URL end up in logs; "
                "set them in the environment"
            )

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Location({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: str) -> "Location":
        return Location(self.local / name if self.local else f"{self._text}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self._text.rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether there is a file of this name."""
        with self._faults("read"):
            return self.local.is_file() if self.local else self._store.isfile(self._text)

    def is_dir(self) -> bool:
        """Whether there is a folder; in an object store, whether a name begins with this one."""
        with self._faults("read"):
            return self.local.is_dir() if self.local else self._store.isdir(self._text)

    def size(self) -> int:
        """Bytes of the file."""
        with self._faults("read"):
            return self.local.stat().st_size if self.local else self._store.size(self._text)

    def names(self) -> list[str]:
        """Names of the files and folders that lie directly in this folder, sorted."""
        with self._faults("read"):
            if self.local:
                return sorted(os.listdir(self.local))
            return sorted(Location(p).name for p in self._store.ls(self._text, detail=False))

    def files(self) -> dict[str, Status]:
        """The files that lie directly in this folder, by name, in as few requests as there are."""
        found: dict[str, Status] = {}
        with self._faults("read"):
            if self.local:
                for entry in os.scandir(self.local):
                    with contextlib.suppress(FileNotFoundError):  # removed this moment, a dead link
                        status = entry.stat()
                        if stat.S_ISREG(status.st_mode):
                            found[entry.name] = Status(status.st_size, status.st_ctime_ns)
                return found
            for info in self._store.ls(self._text, detail=True):
                at = info.get("LastModified") or info.get("mtime") or info.get("created")
                at = at.timestamp() if isinstance(at, datetime) else at
                changed = int(at * 1e9) if isinstance(at, int | float) else None
                if info.get("type") == "file":
                    found[Location(info["name"]).name] = Status(int(info["size"]), changed)
        return found

    def walk(self) -> Iterator[tuple[str, str]]:
        """Names of all files below this folder of a store, and a text that changes with each."""
        with self._faults("listed"):
            found = self._store.find(self._text, detail=True)
        top = self._store._strip_protocol(self._text).rstrip("/") + "/"
        for path, info in found.items():
            tag = info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""
            if path.startswith(top) and info.get("type", "file") == "file":
                yield path.removeprefix(top), f"{info.get('size')} {tag}"

    def read_bytes(self) -> bytes:
        """The whole file."""
        with self._faults("read"):
            return self.local.read_bytes() if self.local else self._store.cat_file(self._text)

    def read_range(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, in one request; fewer at the end of the file."""
        with self._faults("read"):
            if self.local is None:
                try:
                    return cast(
                        bytes, self._store.cat_file(self._text, start=offset, end=offset + size)
                    )
                except OSError as error:
                    if error.errno == errno.EINVAL:  # an object that ends before `offset`
                        return b""
                    raise
            with open(self.local, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file, open for reading and seeking; in a store it is read by ranges of a part.

        What reading it raises is the system's or the driver's own.
        """
        with self._faults("read"):
            file: IO[bytes] = (
                self.local.open("rb")
                if self.local
                else self._store.open(self._text, "rb", block_size=PART)
            )
        with file:
            yield file

    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal."""
        digest = hashlib.sha256()
        with self._faults("read"), self.open() as file:
            while part := file.read(PART):
                digest.update(part)
        return digest.hexdigest()

    def mkdir(self) -> None:
        """Make the folder and those above it; an object store has none to make."""
        if self.local:
            with self._faults("made"):
                self.local.mkdir(parents=True, exist_ok=True)

    def write_bytes(self, data: bytes) -> None:
        """Write a file, complete or not at all."""
        with self.create() as file:
            file.write(data)
            file.commit()

    def create(self) -> "NewFile":
        """A file to be written piece by piece, which appears when it is committed."""
        with self._faults("written"):
            return NewFile(self)

    def unlink(self) -> None:
        """Remove the file; nothing happens if there is none."""
        with self._faults("removed"), contextlib.suppress(FileNotFoundError):
            if self.local:
                self.local.unlink()
            else:
                self._store.rm_file(self._text)

    @property
    def _store(self) -> Any:
        """The file system of a URL. What it lists is asked for anew: other processes write too."""
        scheme = self._text.partition("://")[0]
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            mend = "pip install 'sdst[s3]'" if scheme in ("s3", "s3a") else f"pip install: {error}"
            raise ImportError(f"{self}: no driver for {scheme}:// is installed; {mend}") from error
        except ValueError as error:
            raise InputError(f"{self}: {scheme}:// is no known kind of storage") from error

    @contextlib.contextmanager
    def _faults(self, verb: str) -> Iterator[None]:
        """Turn what a disk or a store raises into one line of ours."""
        try:
            yield
        except FileNotFoundError as error:
            raise NotFound(f"{self}: not found") from error
        except OSError as error:
            if verb != "read":
                raise fault(self, error) from error
            raise InputError(f"{self}: cannot be read: {error.strerror or error}") from error
        except Exception as error:
            # Drivers let errors of their client libraries through, which share no class with ours:
            # no credentials, no such host, timeouts.
            if self.local or not type(error).__module__.startswith(CLIENTS):
                raise
            raise InputError(f"{self}: cannot be {verb}: {' '.join(str(error).split())}") from error


CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "azure", "s3fs")
"""Packages whose errors speak of a store and not of a fault in this program."""


class NewFile:
    """A file that appears under its name at `commit`, complete, or never.

    On a disk it is a temporary file beside the name, synced and renamed; in an object store a
    multipart upload, which is visible only once completed. Used in a `with` statement, it removes
    what was not committed; `remove_temporary` removes what a killed process left on a disk.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._path: Path | None = None
        if location.local:
            self._path = temporary_beside(location.local)
            self._file: Any = self._path.open("xb")
            hold_temporary(self._file)
        else:
            self._file = location._store.open(
                str(location), "wb", autocommit=False, block_size=PART
            )
        self._finished = False

    def __enter__(self) -> "NewFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, data: bytes) -> None:
        """Append bytes."""
        with self._location._faults("written"):
            self._file.write(data)

    def commit(self) -> None:
        """Let the file appear; one of the same name is replaced."""
        with self._location._faults("written"):
            if self._path and self._location.local:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._path.replace(self._location.local)
            else:
                self._file.close()
                self._file.commit()
        self._finished = True

    def discard(self) -> None:
        """Drop what was written, unless it was committed."""
        if self._finished:
            return
        self._finished = True
        if self._path:
            with contextlib.suppress(OSError):  # a full disk does not take what is buffered either
                self._file.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        else:
            self._file.discard()
            self._file.closed = True  # or the driver would try to finish the upload


def remove_temporary(folder: Location) -> None:
    """Remove what killed writers left in a local folder; a store shows nothing of theirs."""
    if folder.local:
        for path in folder.local.glob(f".*{TEMPORARY}"):
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)
