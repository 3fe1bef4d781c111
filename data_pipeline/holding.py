"""Who may write into a folder? One process at a time: the one that holds it.

A lock is `flock` on a file in the folder: the system lets go of it when its holder ends, however it
ends, so that none is ever left over. It holds

- on local file systems, between the processes of one host, containers that share the folder among
  them;
- on NFS, between hosts, where the lock is the server's (Linux from 2.6.12 on), unless it is mounted
  with `nolock` or `local_lock`: then for each host alone. The lock of a host that is lost is free
  when its lease ends (NFS 4: some 90 s; NFS 3: when that host is up again);
- on CephFS, GPFS, and Lustre mounted with `flock`, between hosts; with `localflock` for each alone.

Where a file system has no locks, which is said, nobody is kept out.
"""

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from data_pipeline.errors import InputError
from data_pipeline.output import make_folder, open_beside_others

LOG = logging.getLogger(__name__)

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextlib.contextmanager
def hold(folder: Path, writer: str) -> Iterator[None]:
    """Hold a folder, made where it is not there, against other processes that would write into it.

    Raises InputError where it is held: "another <writer>", and by which process; NotWritten where
    it cannot be made. A folder that was made here and has nothing in it at the end is removed.
    """
    made = not os.path.lexists(folder)
    while True:
        make_folder(folder)
        try:
            file = lock(folder / LOCK)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another {writer} is running{_holder(folder)}") from error
        if os.fstat(file.fileno()).st_nlink:
            break
        file.close()  # whoever held it has just removed it
    with file:
        try:
            yield
        finally:
            if made:
                _remove_if_empty(folder)


def lock(path: Path, wait: bool = False) -> IO[bytes]:
    """The locked file of this name; closing it lets go. BlockingIOError if another has it."""
    file = open_beside_others(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise
        LOG.warning("%s: %s: see that nobody else writes there", path, error.strerror)
    return file


def _holder(folder: Path) -> str:
    """Which process of this host it is; empty where that is not known.

    Nothing is written down: a full disk would have no room for it.
    """
    try:
        inode = (folder / LOCK).stat().st_ino
        with open("/proc/locks", encoding="ascii") as file:
            held = [line.split() for line in file if f":{inode} " in line and "FLOCK" in line]
    except (OSError, ValueError):
        return ""
    return f", process {held[0][4]}" if held and "->" not in held[0] else ""


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
