"""Which videos and tars of videos lie in an archive: a tree of folders, a list, a bucket's prefix?

Only names are read, and of local files their sizes and times: a hundred thousand take seconds.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.errors import InputError
from data_pipeline.storage import Location, Source
from data_pipeline.untrusted import plain_name, read_bytes, readable
from data_pipeline.video.names import SUFFIXES

TAR = ".tar"
MAX_LIST = 1 << 30
"""Bytes of a list of videos."""


@dataclass(frozen=True)
class Found:
    """A video or a tar of videos.

    name: its path in the archive, by which it is known. path: where it lies. stamp: changes when
    the file does: size and time of a local file, size and tag of one in a store; "" if not known.
    """

    name: str
    path: str
    stamp: str = ""

    @property
    def is_tar(self) -> bool:
        """Whether it holds videos instead of being one."""
        return self.name.lower().endswith(TAR)


@dataclass
class Listing:
    """What lies in an archive, and names that cannot be taken, each with why."""

    found: list[Found] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)

    def add(self, name: str, path: str, stamp: str, source: object) -> None:
        """Take a file in if its name can be one's here."""
        try:
            name.encode()
            self.found.append(Found(plain_name(name, "a file", source, folders=True), path, stamp))
        except UnicodeEncodeError:
            self.odd.append(f"{readable(path)}: its name is no UTF-8 text; rename it")
        except InputError as error:
            self.odd.append(f"{error}; rename it")


def is_wanted(name: str) -> bool:
    """Whether a file of this name is a video or a tar. What begins with a dot is not meant to be
    seen: macOS leaves a `._x.mp4` beside every `x.mp4` that it writes to other file systems."""
    base = name.rpartition("/")[2].lower()
    return not base.startswith(".") and base.endswith((*SUFFIXES, TAR))


def list_archive(source: Source, leave_out: Source) -> Listing:
    """All videos and tars of a folder and those below it, of a prefix in a store, or of a .txt file
    with one path or URL a line, in order of their names.

    `leave_out` is the folder of the features, whose tars hold no videos. Links are followed, but
    no folder is looked into twice, so that links in a circle end. Raises InputError where there is
    nothing to list.
    """
    where = Location(source)
    listing = Listing()
    if where.name.lower().endswith(".txt") and where.is_file():
        _read_list(where, listing)
    elif not where.is_dir():
        raise InputError(f"{where}: no such folder or list of videos")
    elif where.local:
        _walk(where.local, Location(leave_out).local, listing)
    else:
        inside = f"{Location(leave_out)}/"
        for name, stamp in where.walk():
            path = where / name
            if is_wanted(name) and not str(path).startswith(inside):
                listing.add(name, str(path), stamp, where)
    if not listing.found:
        odd = f" ({listing.odd[0]})" if listing.odd else ""
        raise InputError(f"{where}: holds no videos and no tars of videos{odd}")
    listing.found.sort(key=lambda each: each.name)
    return listing


def _walk(top: Path, leave_out: Path | None, listing: Listing) -> None:
    """Add what lies below a local folder: real folders first, so that links are to known ones."""
    root = str(top)
    seen = {_identity(root)}
    if leave_out is not None and leave_out.exists():
        seen.add(_identity(str(leave_out)))
    later: list[tuple[str, str]] = []  # links to folders
    folders = [(root, "")]
    while folders or later:
        folder, prefix = folders.pop() if folders else later.pop(0)
        if prefix and folder != root:
            if (identity := _identity(folder)) in seen:
                continue
            seen.add(identity)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            listing.odd.append(f"{readable(folder)}: cannot be looked into ({error.strerror})")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{name}/"))
            elif entry.is_symlink() and entry.is_dir():
                later.append((entry.path, f"{name}/"))
            elif is_wanted(entry.name):
                try:
                    status = entry.stat()
                except OSError as error:
                    why = "a link that leads nowhere" if entry.is_symlink() else error.strerror
                    listing.odd.append(f"{readable(entry.path)}: {why}")
                    continue
                if entry.is_file():
                    listing.add(
                        name, entry.path, f"{status.st_size} {status.st_mtime_ns}", readable(folder)
                    )


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _read_list(where: Location, listing: Listing) -> None:
    """Add the lines of a list: paths beside it or of the root, and URLs.

    A path beside the list is its own name; others are known by all of their path.
    """
    folder = where.local.parent if where.local else None
    text = read_bytes(where.local, MAX_LIST) if where.local else where.read_bytes()
    names: set[str] = set()
    for number, line in enumerate(_lines(text, where), start=1):
        if not line or line.startswith("#"):
            continue
        place = f"{where}:{number}"
        location = Location(line)
        if location.local is None:
            name, path = line.partition("://")[2].rstrip("/"), str(location)
        elif folder is None or location.local.is_absolute():
            name, path = line.lstrip("/"), line
        else:
            name, path = line.removeprefix("./"), str(folder / line)
        plain_name(name, "a video", place, folders=True)
        if name in names:
            raise InputError(f"{place}: {name!r} is listed twice; remove one of the lines")
        names.add(name)
        listing.add(name, path, _stamp(path), place)


def _lines(text: bytes, where: Location) -> Iterator[str]:
    try:
        yield from (line.strip() for line in text.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not UTF-8 text; give one path a line") from error


def _stamp(path: str) -> str:
    if "://" in path:
        return ""
    try:
        status = os.stat(path)
    except OSError:  # it is for decoding to say
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
