"""How does a result get its name: whole or not at all, and known to fit before the work begins?

Every file that the project writes on a disk is written through here (feature shards and what else
may lie in a store through `data_pipeline.storage`, which takes its names and its words from here).
"""

import contextlib
import errno
import fcntl
import os
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from data_pipeline.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = ".tmp"
LONGEST = 255
"""Bytes of a file's name, by every file system in use."""

MENDS = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room, then run the same command again",
    errno.EFBIG: "files may not grow that large here (ulimit -f)",
    errno.EACCES: "choose a folder that may be written to",
    errno.EPERM: "choose a folder that may be written to",
    errno.EROFS: "choose a folder that may be written to",
    errno.EISDIR: "choose another name",
    errno.ENOTDIR: "a part of its path is a file; choose another place",
    errno.EEXIST: "a part of its path is a file; choose another place",
    errno.ELOOP: "it is a link; remove it",
    errno.ENAMETOOLONG: "choose a shorter name",
}


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN)


class NotWritten(InputError):
    """A file that cannot be written: the disk is full, read-only, or has something in its place."""

    @property
    def lasts(self) -> bool:
        """Whether other files would fare no better: it is the disk's fault, not the name's."""
        return isinstance(self.__cause__, OSError) and self.__cause__.errno in DISK


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write the file of this name; it gets the name where what is done inside ends well.

    What is not finished is removed. Raises NotWritten where the file cannot be written; an OSError
    inside is taken for that.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        # Nobody's link or file of that name is written through.
        with temporary.open("xb") as held:
            hold_temporary(held)
            try:
                yield temporary
                temporary.replace(path)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all; NotWritten where it cannot be.

    Bytes of names that are no text are escaped, as JSON has it too.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, complete or not at all; NotWritten where it cannot be."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_tensors(
    path: Path, tensors: "dict[str, Tensor]", before: Callable[[Path], object] | None = None
) -> None:
    """Write safetensors, complete or not at all; NotWritten where they cannot be.

    `before` they get their name it is called with the file that is written, to read it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            if said := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(said[1]), os.strerror(int(said[1]))) from error
            raise
        temporary.chmod(mode)  # it would be its owner's alone, unlike the files beside it
        if before is not None:
            before(temporary)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; NotWritten where that cannot be."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def open_beside_others(path: Path, append: bool = False) -> IO[bytes]:
    """A file that stays open, made where it is not there: a lock, or one that is appended to.

    What is in it stays, and nobody's link of that name is followed. NotWritten where it cannot be.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_APPEND if append else 0)
    with writing(path):
        return os.fdopen(os.open(path, flags, 0o666), "ab" if append else "r+b")


@contextlib.contextmanager
def writing(path: object) -> Iterator[None]:
    """An OSError of what is done inside becomes the one line that says why `path` is not there."""
    try:
        yield
    except OSError as error:
        raise fault(path, error) from error


def fault(path: object, error: OSError) -> NotWritten:
    """The one line for an error that writing `path` raised."""
    mend = MENDS.get(error.errno or 0)
    said = error.strerror or str(error)
    return NotWritten(f"{path}: cannot be written: {said}{f'; {mend}' if mend else ''}")


def temporary_beside(path: Path) -> Path:
    """A name that nobody else has, in the same folder; however long the name, this is not."""
    start = os.fsencode(path.name)[:100].decode(errors="ignore")
    return path.with_name(f".{start}.{uuid.uuid4().hex}{TEMPORARY}")


def hold_temporary(file: IO[bytes]) -> None:
    """Let others see that a temporary file has a living writer, where the file system has locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of killed writers from a folder, or those of one file's name.

    What somebody is writing stays, and so does everything where there are no locks to tell.
    """
    begin = temporary_beside(folder / name).name[:-_LENGTH] if name is not None else "."
    with contextlib.suppress(OSError):
        for left in os.listdir(folder):
            if not (left.startswith(begin) and _OURS.search(left)):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(folder / left, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(folder / left)
                finally:
                    os.close(descriptor)


_OURS = re.compile(r"\.[0-9a-f]{32}\.tmp\Z")
_LENGTH = len(uuid.uuid4().hex + TEMPORARY)


def check_file(path: Path) -> None:
    """Raise InputError unless a file of this name can be written; nothing is left behind.

    What killed writers left of it is removed. To be asked before the work whose result it is.
    (Whether there will be room is not known.)
    """
    _check(path, path)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    sweep(path.absolute().parent, path.name)
    device = path.absolute().parent in (Path("/dev"), Path("/proc/self/fd"), Path("/dev/fd"))
    if device or (path.exists() and not path.is_file()):
        raise InputError(f"{path}: is no file that could be replaced; name one")


def check_folder(path: Path) -> None:
    """Raise InputError unless files can be written into a folder of this name, which may have to be
    made; nothing is left behind, not what killed writers left there either."""
    _check(path / "file", path)
    sweep(path)


def _check(path: Path, named: Path) -> None:
    """Try it, for what was `named`: permissions do not tell of disks mounted read-only, or full."""
    if any(len(os.fsencode(part)) > LONGEST for part in path.parts) or "\0" in str(path):
        raise InputError(f"{named}: cannot be written: {MENDS[errno.ENAMETOOLONG]}")
    with writing(named):
        above = path.parent
        while not os.path.lexists(above) and above != above.parent:
            above = above.parent
        trial = temporary_beside(above / path.name)
        trial.touch(exist_ok=False)
        trial.unlink()
