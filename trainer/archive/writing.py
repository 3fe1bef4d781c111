"""How does an index grow and shrink so that a kill at any instant loses nothing that counted?

Rows are appended behind those that count; then one file, index.json, is replaced, and they count.
A removal writes the files of the next generation, and counts in the same way.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.holding import hold
from data_pipeline.output import open_beside_others, writing
from data_pipeline.untrusted import reading
from trainer.archive.index import (
    CLIP,
    FORMAT,
    HEADER,
    MANIFEST,
    VIDEO,
    Index,
    IndexedSet,
    MadeWith,
    Manifest,
    header,
    name_hash,
    parts,
    read_head,
    read_manifest,
)


@dataclass(frozen=True)
class Row:
    """A video that is to be added: its place in its set, its id, the vectors of its clips."""

    sample: int
    vid: str
    vectors: NDArray[np.float16]


class Writer:
    """The one process that writes into an index; made by `writer`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @contextlib.contextmanager
    def appending(self) -> Iterator["Appender"]:
        """Rows can be added inside."""
        with contextlib.ExitStack() as stack:
            files = {}
            for role, (name, size) in parts(self.manifest).items():
                file = stack.enter_context(open_beside_others(self.folder / name))
                with writing(self.folder / name):
                    if file.seek(0, 2) < HEADER:
                        file.seek(0)
                        file.write(header(self.manifest.id, role))
                    file.truncate(HEADER + size)  # what was never finished
                    file.seek(0, 2)
                files[role] = file
            yield Appender(self, files)

    def commit(self, manifest: Manifest) -> None:
        """From now on `manifest` is what counts."""
        manifest.write(self.folder)
        self.manifest = manifest

    def remove(self, index: Index, gone: NDArray[np.bool_], sets: Set[int]) -> None:
        """Leave out the videos of `index` where `gone` (videos,) is true, and the `sets` that are
        numbered here, none of whose videos may be left."""
        old = self.manifest
        kept = np.flatnonzero(~gone)
        numbers = [number for number in range(len(old.sets)) if number not in sets]
        self.clear_others()
        empty = replace(
            old,
            sets=tuple(old.sets[n] for n in numbers),
            generation=old.generation + 1,
            videos=0,
            clips=0,
            names=0,
            approximate=None,
        )
        target = Writer(self.folder, empty)
        with target.appending() as appender:
            for number in kept.tolist():
                video = index.videos[number]
                appender.add(
                    numbers.index(int(video["set"])),
                    Row(
                        int(video["sample"]), index.name(number), index.vectors[index.rows(number)]
                    ),
                )
            counted = appender.counted()
        self.commit(counted)
        self.clear_others()

    def clear_others(self) -> None:
        """Remove files of other generations, which no reader that comes will open."""
        names = {name for name, _ in parts(self.manifest).values()}
        names.add((self.manifest.approximate or {}).get("file", ""))
        for role in (*parts(self.manifest), "faiss"):
            for path in self.folder.glob(f"{role}.*"):
                if path.name not in names:
                    with writing(path):
                        path.unlink(missing_ok=True)


class Appender:
    """Rows behind those that count."""

    def __init__(self, writer: Writer, files: dict[str, IO[bytes]]) -> None:
        self._writer = writer
        self._files = files
        manifest = writer.manifest
        self._videos, self._clips, self._names = manifest.videos, manifest.clips, manifest.names

    def add(self, number: int, row: Row) -> None:
        """Append a video of set `number`; it counts from the next `commit` on."""
        name = row.vid.encode()
        clips = len(row.vectors)
        columns = np.zeros(clips, CLIP)
        columns["video"] = self._videos
        columns["clip"] = np.arange(clips)
        columns["time"] = columns["clip"] * self._writer.manifest.made_with.features.clip_length
        video = np.zeros(1, VIDEO)
        video[0] = (
            *(number, row.sample, self._clips, clips),
            *(self._names + len(name), name_hash(row.vid)),
        )
        for role, data in (
            ("vectors", np.ascontiguousarray(row.vectors, "<f2").data),
            ("clips", columns.data),
            ("videos", video.data),
            ("names", name),
        ):
            with writing(self._files[role].name):
                self._files[role].write(data)
        self._videos += 1
        self._clips += clips
        self._names += len(name)

    def counted(self) -> Manifest:
        """The manifest that counts what was added; the rows are the system's from now on."""
        for file in self._files.values():
            with writing(file.name):
                file.flush()
        return replace(
            self._writer.manifest, videos=self._videos, clips=self._clips, names=self._names
        )


@contextlib.contextmanager
def writer(folder: Path, model: str, made_with: MadeWith | None) -> Iterator[Writer]:
    """The writer of an index, begun here where there is none and `made_with` says how to.

    Raises InputError where another process writes, and where the index was made otherwise.
    """
    with hold(folder, "launch.index"):
        if (folder / MANIFEST).exists() or made_with is None:
            manifest = read_manifest(folder)
            if made_with is not None and (why := manifest.made_with.difference(made_with)):
                raise InputError(
                    f"{folder}: was made with other {why}; make another index with these"
                )
        else:
            _clear_beginning(folder)
            manifest = Manifest(secrets.token_hex(16), model, made_with)
            begun = Writer(folder, manifest)
            with begun.appending():
                pass
            begun.commit(manifest)
        found = Writer(folder, manifest)
        found.clear_others()
        yield found


def _clear_beginning(folder: Path) -> None:
    """Remove what a beginning left that was killed; InputError for files of anybody else."""
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in found:
        with reading(path):
            ours = path.is_file() and read_head(path).startswith(FORMAT.encode())
        if not ours and path.stat().st_size:
            raise InputError(f"{folder}: holds other files ({path.name}); name a folder of its own")
    for path in found:
        with writing(path):
            path.unlink()


def known_set(sets: Sequence[IndexedSet], path: str, manifest: str) -> int | None:
    """Which of the sets this is: the same path, or the same content at another place."""
    by_content = [n for n, each in enumerate(sets) if each.manifest == manifest]
    by_path = [n for n, each in enumerate(sets) if each.path == path]
    return next(iter(by_content or by_path), None)
