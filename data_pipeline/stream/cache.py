"""How are bytes from an object store kept on the local disk, by several processes, within a limit?

    <folder>/ab/abcdef….bin   one sample's bytes, named by the SHA-256 of what they are called
    <folder>/size             bytes of all of them together; who holds its lock may write

A file is complete or absent. If another one would exceed the limit, those that were used longest
ago go first: what lies there never exceeds the limit, whatever the number of processes and whenever
one of them is killed. Nothing is synced: bytes that a power cut spoilt fail their checksum.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
from pathlib import Path

from data_pipeline.output import TEMPORARY, make_folder

LOG = logging.getLogger(__name__)

KEPT = 0.8
"""Part of the limit that is left when files are evicted, so that this happens seldom."""


class Cache:
    """Bytes by name, kept in a folder that may be shared with other processes."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._broken = False
        make_folder(folder)

    def get(self, name: str) -> bytes | None:
        """The bytes of this name, None if they are not here."""
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)  # used now
        except FileNotFoundError:  # never there, or evicted this moment
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes, unless they alone exceed the limit."""
        path = self._path(name)
        if len(data) > self._limit or self._broken:
            return
        try:
            self._put(path, data)
        except OSError as error:  # it is there to save time: what it lacks is read from the store
            self._broken = True
            LOG.warning(
                "%s: nothing more is kept here: %s; make room, or lower data.reading.cache_gb",
                self._folder,
                error.strerror,
            )

    def _put(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        accounts = os.open(self._folder / "size", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(accounts, fcntl.LOCK_EX)
            if path.exists():  # another process was faster
                return
            held = int(os.pread(accounts, 20, 0) or 0)
            if held + len(data) > self._limit:
                held = self._evict(min(int(KEPT * self._limit), self._limit - len(data)))
            # Counted before it is there: a kill in between errs to the safe side.
            os.pwrite(accounts, b"%020d" % (held + len(data)), 0)
            temporary = path.with_suffix(TEMPORARY)
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        finally:
            os.close(accounts)  # and with it the lock

    def drop(self, name: str) -> None:
        """Remove bytes that turned out to be bad; the next eviction counts anew."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.bin"

    def _evict(self, target: int) -> int:
        """Remove what was used longest ago until `target` bytes are left; returns what is left."""
        files = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):  # dropped this moment
                status = path.stat()
                # The lock is ours: who was writing a temporary file is dead.
                used = 0.0 if path.suffix == TEMPORARY else status.st_mtime
                files.append((used, status.st_size, path))
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held <= target:
                break
            path.unlink(missing_ok=True)
            held -= size
        return held
