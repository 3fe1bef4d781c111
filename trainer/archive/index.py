"""How is the index of an archive kept, and how is it read without reading all of it?

    INDEX/index.json          what it was made with, its sets, and how many rows count
    INDEX/vectors.<G>.f16     (clips, F) float16 of length 1
    INDEX/clips.<G>.bin       of each row the video's number, the clip's and its first second
    INDEX/videos.<G>.bin      of each video its set, its sample there, its first row, its clips
    INDEX/names.<G>.bin       ids of the videos, one after the other

G counts generations: a removal writes the files anew. Every file begins with 64 bytes that name the
index it belongs to. What lies behind the rows that index.json counts was never finished, and is
nobody's. The files are mapped: what a search does not touch is not read.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.features.shards import Provenance
from data_pipeline.output import write_text
from data_pipeline.untrusted import natural, read_json, reading, shown
from trainer.archive.vectors import KINDS, Kind

FORMAT = "sdst index 1"
REMAKE = "make the index again with launch.index"
MANIFEST = "index.json"
HEADER = 64

CLIP = np.dtype([("video", "<u4"), ("clip", "<u4"), ("time", "<f4")])
VIDEO = np.dtype(
    [
        *(("set", "<u4"), ("sample", "<u4"), ("first", "<u8"), ("clips", "<u4")),
        *(("name_end", "<u8"), ("name_hash", "<u8")),
    ]
)

Columns = NDArray[Any]


@dataclass(frozen=True)
class MadeWith:
    """What the vectors depend on.

    Attributes:
        vectors: which ones
        width: F
        weights: SHA-256 of the model's weights
        architecture: SHA-256 of its configuration
        features: how the stored features were made
    """

    vectors: Kind
    width: int
    weights: str
    architecture: str
    features: Provenance

    def difference(self, other: "MadeWith") -> str | None:
        """In what vectors of `other` are other ones; None where they are the same."""
        if features := self.features.differences(other.features):
            return f"features ({features[0]})"
        for name, what in (
            ("vectors", "vectors"),
            ("weights", "weights of the model"),
            ("architecture", "a configuration of the model"),
        ):
            if getattr(self, name) != getattr(other, name):
                mine, theirs = getattr(self, name)[:12], getattr(other, name)[:12]
                return f"{what} ({mine}, not {theirs})"
        return None


@dataclass(frozen=True)
class IndexedSet:
    """A feature set in the index.

    Attributes:
        path: of the set
        manifest: SHA-256 of its manifest, by which it is known again
        videos: folder of its videos, for pictures and players; None where that is not known
        taken: how many of its samples, from the first on, have been looked at
        whole: whether that is all of them
        left_out: how many of them cannot be read
    """

    path: str
    manifest: str
    videos: str | None = None
    taken: int = 0
    whole: bool = False
    left_out: int = 0


@dataclass(frozen=True)
class Manifest:
    """The values of index.json; `videos`, `clips` and `names` count rows and bytes."""

    id: str
    model: str
    made_with: MadeWith
    sets: tuple[IndexedSet, ...] = ()
    generation: int = 0
    videos: int = 0
    clips: int = 0
    names: int = 0
    approximate: dict[str, Any] | None = field(default=None)

    def write(self, folder: Path) -> None:
        """Write index.json, whole or not at all: from then on its rows count."""
        write_text(folder / MANIFEST, json.dumps({"format": FORMAT, **asdict(self)}, indent=1))


def read_manifest(folder: Path) -> Manifest:
    """The values of an index's index.json; InputError where there is none of ours."""
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: holds no index ({MANIFEST}); make one with launch.index")
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path}: is not of the format {FORMAT!r}; {REMAKE}")
    with reading(path, REMAKE):
        made = value["made_with"]
        made_with = MadeWith(
            made["vectors"],
            natural(made["width"], 1 << 16),
            made["weights"],
            made["architecture"],
            Provenance.from_json(made["features"]),
        )
        if made_with.vectors not in KINDS or not made_with.width:
            raise ValueError(f"vectors {shown(made_with.vectors)} of width {made_with.width}")
        sets = tuple(IndexedSet(**each) for each in value["sets"])
        counts = {name: natural(value[name]) for name in ("generation", "videos", "clips", "names")}
        approximate = value["approximate"]
        found = Manifest(
            value["id"], value["model"], made_with, sets, approximate=approximate, **counts
        )
        for one in (found, made_with, *sets):
            _check_types(one)
        return found


def _check_types(one: Any) -> None:
    """Raise TypeError for a text or a number where another is due."""
    for name, kind in get_type_hints(type(one)).items():
        value = getattr(one, name)
        if kind in (str, int, bool) and type(value) is not kind:
            raise TypeError(f"{name} is {shown(value)}")
        if kind == str | None and not isinstance(value, str | None):
            raise TypeError(f"{name} is {shown(value)}")
        if name == "approximate" and not isinstance(value, dict | None):
            raise TypeError(f"{name} is {shown(value)}")


def header(index_id: str, role: str) -> bytes:
    """The first bytes of the file `role` of an index."""
    return f"{FORMAT} {role} {index_id}\n".encode().ljust(HEADER, b"\0")


def read_head(path: Path) -> bytes:
    """The first bytes of a file, where the header stands."""
    with open(path, "rb") as file:
        return file.read(HEADER)


def parts(manifest: Manifest) -> dict[str, tuple[str, int]]:
    """role -> (name of its file, bytes that count behind the header)."""
    sizes = {
        "vectors": 2 * manifest.made_with.width * manifest.clips,
        "clips": CLIP.itemsize * manifest.clips,
        "videos": VIDEO.itemsize * manifest.videos,
        "names": manifest.names,
    }
    return {
        role: (f"{role}.{manifest.generation}.{'f16' if role == 'vectors' else 'bin'}", size)
        for role, size in sizes.items()
    }


class Index:
    """An index, mapped: `vectors` (clips, F), `clips` and `videos` as `CLIP` and `VIDEO` rows.

    Raises InputError for a folder that holds none, a file that is cut off or of another index, and
    a table of videos that does not fit its rows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            try:
                self._map(read_manifest(folder))
            except FileNotFoundError:  # a removal has just written the next generation, or it went
                self._map(read_manifest(folder))
        except OSError as error:
            said = f"{error.filename}: cannot be read: {error.strerror or error}"
            raise InputError(f"{said}; {REMAKE}") from error

    def _map(self, manifest: Manifest) -> None:
        self.manifest = manifest
        maps = {}
        for role, (name, size) in parts(manifest).items():
            path = self.folder / name
            held = path.stat().st_size - HEADER
            if read_head(path) != header(manifest.id, role):
                raise InputError(f"{path}: belongs to another index; {REMAKE}")
            if held < size:
                raise InputError(f"{path}: is cut off: {held} bytes of {size}; {REMAKE}")
            # (An empty file cannot be mapped. PyTorch takes no array that it may not write to: what
            # is written to a map of this mode stays in this process.)
            maps[role] = (
                np.memmap(path, np.uint8, "c", HEADER, (size,)) if size else np.empty(0, np.uint8)
            )
        width = manifest.made_with.width
        self.vectors: NDArray[np.float16] = maps["vectors"].view("<f2").reshape(-1, width)
        self.clips: Columns = maps["clips"].view(CLIP)
        self.videos: Columns = maps["videos"].view(VIDEO)
        self._names = maps["names"]
        self._check()

    def _check(self) -> None:
        ends = np.cumsum(self.videos["clips"], dtype=np.uint64)
        names = self.videos["name_end"]
        fits = (
            np.array_equal(self.videos["first"], ends - self.videos["clips"])
            and (int(ends[-1]) if len(ends) else 0) == self.manifest.clips
            and (int(names[-1]) if len(names) else 0) == self.manifest.names
            and bool((np.diff(names.astype(np.int64)) > 0).all())
            and bool((self.videos["clips"] > 0).all())
            and bool((self.videos["set"] < len(self.manifest.sets)).all())
        )
        if not fits:
            name, _ = parts(self.manifest)["videos"]
            raise InputError(f"{self.folder / name}: does not fit the other files; {REMAKE}")

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.vectors)

    def name(self, video: int) -> str:
        """The id of a video."""
        start = int(self.videos["name_end"][video - 1]) if video else 0
        data = self._names[start : int(self.videos["name_end"][video])]
        return data.tobytes().decode(errors="replace")

    def rows(self, video: int) -> slice:
        """The rows of a video's clips."""
        first = int(self.videos["first"][video])
        return slice(first, first + int(self.videos["clips"][video]))

    def known(self, vids: Sequence[str]) -> NDArray[np.int64]:
        """The numbers of those videos among `vids` that are here, by a pass over their hashes."""
        hashes = np.array([name_hash(vid) for vid in vids], np.uint64)
        wanted = set(vids)
        near = np.flatnonzero(np.isin(self.videos["name_hash"], hashes))
        return np.array([v for v in near.tolist() if self.name(v) in wanted], np.int64)


def name_hash(vid: str) -> int:
    """64 bits by which an id is looked up."""
    return xxhash.xxh3_64_intdigest(vid.encode())
