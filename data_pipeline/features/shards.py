"""What does a set of stored features look like, and how is one sample of it read?

    features/<split>/manifest.json     what the set is: provenance, annotations, shards with hashes
    features/<split>/00000.tar         samples: one video with all its queries
    features/<split>/00000.json        index of that tar, with its SHA-256; written after it
    features/<split>/index.safetensors all the indexes as columns, derived; see features.index
    features/<split>/sentences/        left by extraction for its next run; no reader needs it

A tar holds for each sample `<key>.video.npy` (L, K, Dv) float16, `<key>.text.npy` (tokens of all
queries, K, Dt) float16, `<key>.json` and, where the encoders share a space, `<key>.joint.npy`
(L + queries, J) float16: the vectors of the clips, then of the queries. The `webdataset` library
reads it; `FeatureSet` reads single samples at their offsets. Nothing here unpickles.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from types import TracebackType
from typing import Any, get_type_hints

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.features.checksums import Half, kind_of
from data_pipeline.features.columns import Columns, Samples, of_entries
from data_pipeline.features.index import NAME, Seals, Unfit, open_columns, write_columns
from data_pipeline.features.opening import (
    OPENED_AT_ONCE,
    REMAKE,
    Counts,
    Once,
    check_apart,
    count_faults,
    held,
    in_all,
    listed,
    total_faults,
)
from data_pipeline.features.samples import (
    JOINT,
    Damaged,
    Sample,
    SampleEntry,
    StoredQuery,
    parse_details,
    parse_joint,
    parse_sample,
)
from data_pipeline.features.texts import Ints
from data_pipeline.mapped import Array, Mapped
from data_pipeline.storage import Location, NotFound, Source
from data_pipeline.untrusted import natural, parse_json, plain_name, reading, shown

LOG = logging.getLogger(__name__)

FORMAT = 2
"""Version of the layout above; readers refuse any other."""

ROWS_CHECKED = 1
"""In a manifest: the rows of all shards were checked when they were written, by rules of this
number."""

IMPORTED = "imported"
"""In a provenance: features that others made and released, so that this is not known."""

UNKNOWN = "unknown"
"""In a provenance: an encoder that nobody named."""


@dataclass(frozen=True)
class Provenance:
    """How features were made. Sets may be used together that agree in all but the last five.

    Attributes:
        video_encoder: registered name, or what an import says of its origin, or `UNKNOWN`
        video_weights: SHA-256 of the weights; None where features were imported
        video_layers: chosen layers, counted from the shallowest
        text_encoder, text_weights, text_layers: the same of the text encoder
        tokenizer: SHA-256 of the tokenizer
        clip_length: seconds
        frames_per_clip: frames that the encoder sees of each clip, evenly spread; 0 if not known
        preprocessing: from decoded frames to the encoder's input, or `IMPORTED`
        arithmetic: floating-point type that the encoders ran in, or `IMPORTED`
        options: further options of the encoders; of imported features the streams, in order
        version: of this package
        batch, threads: clips encoded at once and processor threads, of which the last bits depend;
            None where they are not known
        origin: name and commit of the checkpoint on the Hugging Face hub, where it came from there
        preset: name of the import's settings, if it has one
    """

    video_encoder: str
    video_weights: str | None
    video_layers: tuple[int, ...]
    text_encoder: str
    text_weights: str | None
    text_layers: tuple[int, ...]
    tokenizer: str | None
    clip_length: float
    frames_per_clip: int
    preprocessing: str
    arithmetic: str
    options: dict[str, Any]
    version: str
    batch: int | None = None
    threads: int | None = None
    origin: str | None = None
    preset: str | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Provenance":
        """Raises TypeError, ValueError or KeyError for an object that is not a provenance."""
        layers = {name: tuple(value[name]) for name in ("video_layers", "text_layers")}
        found = cls(**(value | layers))
        kinds: Any = {float: int | float, tuple[int, ...]: tuple, dict[str, Any]: dict}
        for name, kind in get_type_hints(cls).items():
            held = getattr(found, name)
            if not isinstance(held, kinds.get(kind, kind)) or isinstance(held, bool):
                raise TypeError(f"{name} is {shown(held)}")
        for layer in (*found.video_layers, *found.text_layers):
            natural(layer)
        if not 0 < found.clip_length < 1e6:
            raise ValueError(f"clip_length is {shown(found.clip_length)}")
        return found

    def differences(self, other: "Provenance") -> list[str]:
        """What the features differ in, as `name: mine, not theirs`; empty if they agree."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        found = [
            f"{name}: {mine[name]}, not {theirs[name]}"
            for name in mine
            if name not in (*NOT_OF_FEATURES, "options") and mine[name] != theirs[name]
        ]
        for kind in sorted(self.options.keys() | other.options.keys()):
            whole, others = self.options.get(kind, {}), other.options.get(kind, {})
            if whole != others and not (isinstance(whole, dict) and isinstance(others, dict)):
                found.append(f"options.{kind}: {shown(whole)}, not {shown(others)}")
            one, two = _options(self.options, kind), _options(other.options, kind)
            found += [
                f"{kind} {name}: {_said(one.get(name))}, not {_said(two.get(name))}"
                for name in sorted(one.keys() | two.keys())
                if not _agree(one.get(name), two.get(name))
            ]
        return found

    def summary(self) -> dict[str, str]:
        """A few short lines for records and reports."""
        frames, rate = self.frames_per_clip, self.frames_per_clip / self.clip_length
        streams = {
            f"{kind} streams": _said(options["streams"])
            for kind in self.options
            if "streams" in (options := _options(self.options, kind))
        }
        return {
            "video": _of_encoder(self.video_encoder, self.video_layers, self.video_weights),
            "text": _of_encoder(self.text_encoder, self.text_layers, self.text_weights),
            **streams,
            "clips": f"{self.clip_length:g} s"
            + (f", {frames} frames ({rate:g} a second)" if frames else ""),
            "preprocessing": self.preprocessing + (f", {self.preset}" if self.preset else ""),
            "version": self.version,
            **({"checkpoint": self.origin} if self.origin else {}),
        }


NOT_OF_FEATURES = ("version", "batch", "threads", "origin", "preset")


def _options(options: dict[str, Any], kind: str) -> dict[str, Any]:
    of_kind = options.get(kind)
    return of_kind if isinstance(of_kind, dict) else {}


def _agree(one: Any, two: Any) -> bool:
    """Whether an option is the same; a stream's width that is not known agrees with any."""
    streams = (one, two)
    if not all(
        isinstance(each, list) and all(isinstance(s, dict) for s in each) for each in streams
    ):
        return bool(one == two)
    return len(one) == len(two) and all(
        a | {"width": None} == b | {"width": None}
        and (None in (a.get("width"), b.get("width")) or a["width"] == b["width"])
        for a, b in zip(one, two, strict=True)
    )


def _said(value: Any) -> str:
    """An option in a message; of streams the names with their widths, and which are normalised."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        return shown(value)
    return " + ".join(
        f"{each.get('name')}"
        + (f" {each['width']}" if each.get("width") else "")
        + (" L2" if each.get("l2") else "")
        + (f" (at most {each['rows']} rows)" if each.get("rows") else "")
        for each in value
    )


def _of_encoder(name: str, layers: tuple[int, ...], weights: str | None) -> str:
    origin = f"weights {weights[:12]}" if weights else "imported"
    return f"{name}, layers {', '.join(map(str, layers))}, {origin}"


class FeatureSet:
    """The features of one split, in a local folder or at a URL.

    Opening it reads the manifest and maps the columnar index, or, where there is none that is of
    this set (or with `indexed` false), reads the indexes of its shards, which are what counts.
    Raises InputError for a folder without a complete set, an index that does not hold what its
    manifest lists, a video or a qid that is there twice, and a tar that is missing or of another
    size than its index says. With `skip_damaged` such a tar
    is left for reading to find out, sample by sample, and the other faults are `faults`, a line
    each: what is there twice counts once, a shard without its index is left out, and `left_out` is
    the number of pairs that the manifest lists and the indexes have not. Hashing is for
    `launch.shards verify`.
    """

    def __init__(self, folder: Source, skip_damaged: bool = False, indexed: bool = True) -> None:
        self.folder = Location(folder)
        path = self.folder / "manifest.json"
        try:
            data = path.read_bytes()
        except NotFound as error:
            raise InputError(f"{error}; extract the features of this split first") from error
        self._stored = Mapped.of({"manifest": np.frombuffer(data, np.uint8)})
        counts, totals = self._describe(data)
        self.faults = list(total_faults(path, totals, in_all(counts)))
        if self.faults and not skip_damaged:
            raise InputError(self.faults[0])
        self.seals = Seals(len(counts))
        columns = None
        if indexed and not self.faults:
            columns = self._open_columns(counts, skip_damaged)
        wanted = totals["queries"]
        if columns is None:
            columns, wanted = self._open_shards(counts, skip_damaged)
        self._hold(columns)
        self.left_out = max(wanted, totals["queries"]) - self.pairs

    def _describe(self, data: bytes) -> tuple[list[Counts], Counts]:
        """Take in a manifest; returns what it counts, of each shard and in all."""
        path = self.folder / "manifest.json"
        self.manifest = parse_ours(data, path)
        with reading(path, REMAKE):
            self.provenance = Provenance.from_json(self.manifest["provenance"])
            self.split = plain_name(self.manifest["split"], "the split", path)
            self.shards: list[dict[str, Any]] = self.manifest["shards"]
            for shard in self.shards:
                plain_name(shard["name"], "a shard", path)
            video, text = self.manifest["shapes"]["video"], self.manifest["shapes"]["text"]
            self.video_shape = _shape(video)  # K, Dv
            self.text_shape = _shape(text)  # K, Dt
            joint = self.manifest["shapes"].get("joint")
            self.joint_width = None if joint is None else _shape([1, joint])[1]  # J
            counts = [listed(shard) for shard in self.shards]
            totals = listed(self.manifest["totals"])
            if not isinstance(self.manifest["annotations"]["name"], str):
                raise TypeError("its annotations have no name")
        return counts, totals

    def _hold(self, columns: Columns) -> None:
        self.columns = columns
        self.samples: Sequence[SampleEntry] = Samples(columns)

    def __getstate__(self) -> dict[str, Any]:
        """What another process of this host needs: where things lie, and nothing that grows."""
        names = ("folder", "_stored", "columns", "faults", "left_out")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._describe(self._stored["manifest"].tobytes())
        self._hold(self.columns)

    @property
    def digest(self) -> str:
        """SHA-256 of manifest.json."""
        return hashlib.sha256(self._stored["manifest"].tobytes()).hexdigest()

    def keep(self, rows: Ints) -> None:
        """Leave of the set the samples of these numbers, which rise."""
        self._hold(self.columns.take(rows))

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """As `read`; negative ones count from the last."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.read(index)

    def __iter__(self) -> Iterator[Sample]:
        """The samples as they are stored, each read when it is asked for."""
        return map(self.read, range(len(self)))

    def read(self, index: int) -> Sample:
        """Sample `index` of the set, by one read of its bytes.

        Raises Damaged that names shard and sample where these are not what was written.
        """
        entry = self.samples[index]
        with self.named(entry):
            data = self.path(entry.shard).read_range(entry.offset, entry.size)
            return parse_sample(
                data,
                entry,
                self.provenance.clip_length,
                self.video_shape,
                self.text_shape,
                self.joint_width,
            )

    def read_joint(self, index: int) -> tuple[tuple[StoredQuery, ...], Half]:
        """The queries of sample `index` and the joint vectors (L + queries, J), without the rest.

        Raises Damaged as `read`. The set must have a `joint_width`.
        """
        entry = self.samples[index]
        assert self.joint_width is not None
        with self.named(entry):
            tar = self.path(entry.shard)
            details = tar.read_range(*entry.members["json"])
            _, queries = parse_details(details, entry, self.provenance.clip_length)
            data = tar.read_range(*entry.members[JOINT])
            return queries, parse_joint(memoryview(data), entry, self.joint_width)

    def named(self, entry: SampleEntry) -> "Named":
        """A context that turns the faults of a sample's bytes into Damaged."""
        return Named(self, entry)

    def path(self, shard: int) -> Location:
        """The tar of a shard."""
        return self.folder / f"{self.shards[shard]['name']}.tar"

    def check_rows(self) -> None:
        """Raises Damaged for a row with faults, in a set whose rows were not checked when written.

        Every row is read then; later reads check those that they take in any case.
        """
        if self.manifest.get("rows_checked") == ROWS_CHECKED:
            return

        def check(entry: SampleEntry) -> None:
            with self.named(entry):
                data = self.path(entry.shard).read_range(*entry.members["json"])
                parse_details(data, entry, self.provenance.clip_length)

        with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
            for _ in threads.map(check, self.samples):
                pass

    def check_widths(self, video: int, text: int) -> None:
        """Raises InputError unless Dv is `video` and Dt is `text`."""
        if (self.video_shape[1], self.text_shape[1]) != (video, text):
            raise InputError(
                f"{self.folder}: features are {self.video_shape[1]} (video) and "
                f"{self.text_shape[1]} (text) wide, the model expects {video} and {text}; set "
                "model.video_width and model.text_width to those of the features"
            )

    def check_same_features(self, other: "FeatureSet") -> None:
        """Raises InputError unless both sets were made the same way."""
        differences = self.provenance.differences(other.provenance)
        if differences:
            raise InputError(
                f"{self.folder} and {other.folder} hold different features ({differences[0]}); "
                "extract both with one configuration"
            )

    @property
    def pairs(self) -> int:
        """Number of (video, query) pairs."""
        return len(self.columns.tokens)

    def _open_columns(self, counts: Sequence[Counts], skip_damaged: bool) -> Columns | None:
        """The columns of the set's own index; None, and a line, where there are none to be used."""
        names = [shard["name"] for shard in self.shards]
        files = self.folder.files()
        try:
            columns = open_columns(self.folder, self.digest, names, counts, files)
        except Unfit as error:
            LOG.warning("%s", error)
            return None
        if not skip_damaged:
            for number, expected in enumerate(counts):
                status = files.get(f"{names[number]}.tar")
                check_tar(self.path(number), status.size if status else None, expected["bytes"])
        return columns

    def _open_shards(self, counts: Sequence[Counts], skip_damaged: bool) -> tuple[Columns, int]:
        """Columns from the shards' indexes, and how many pairs there should be; adds `faults`."""
        parts = []
        with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
            opened = threads.map(self._open, range(len(counts)), counts, repeat(skip_damaged))
            for part, faults in opened:
                self.faults += faults
                parts.append(part)
        columns = Columns.of(parts)
        if columns.twice():
            once = Once()
            rows = [
                row
                for row, entry in enumerate(Samples(columns))
                if once.is_new(self._index_path(entry.shard), entry)
            ]
            if once.faults and not skip_damaged:
                raise InputError(once.faults[0])
            self.faults += once.faults
            columns = columns.take(np.array(rows, np.int64))
        listed = np.array([each["queries"] for each in counts], np.int64)
        return columns, int(np.maximum(listed, columns.counts(len(counts))["queries"]).sum())

    def _open(
        self, number: int, expected: Counts, skip_damaged: bool
    ) -> tuple[dict[str, Array], list[str]]:
        """The columns of a shard, from its index, and its faults; the first is raised without
        `skip_damaged`."""
        path = self._index_path(number)
        try:
            with reading(path, REMAKE):
                index = self._index(number, path)
                kind = kind_of(index, path)
                entries = [SampleEntry.from_json(e, number, path, kind) for e in index["samples"]]
                check_apart(path, entries)
                faults = list(count_faults(path, held(entries, index), expected))
            if faults and not skip_damaged:
                raise InputError(faults[0])
        except InputError as error:
            if not skip_damaged:
                raise
            return of_entries([]), [str(error)]
        if not skip_damaged:
            tar = self.path(number)
            try:
                size = tar.size()
            except NotFound:
                size = None
            check_tar(tar, size, index["bytes"])
        return of_entries(entries), faults

    def compare_columns(self) -> None:
        """Raises Unfit where the set has a columnar index other than its shards' own say.

        To be asked of a set that was opened with `indexed` false.
        """
        files = self.folder.files()
        if NAME not in files:
            return
        counts = [listed(shard) for shard in self.shards]
        names = [shard["name"] for shard in self.shards]
        stored = open_columns(self.folder, self.digest, names, counts, files)
        if stored.digest() != self.columns.digest():
            raise Unfit(f"{self.folder / NAME}: holds other entries than the shards' own indexes")

    def _index_path(self, number: int) -> Location:
        return self.folder / f"{self.shards[number]['name']}.json"

    def _index(self, number: int, path: Location) -> dict[str, Any]:
        try:
            data = path.read_bytes()
        except NotFound as error:
            raise InputError(
                f"{path}: the shard's index is missing; run the extraction again"
            ) from error
        index = parse_ours(data, path)
        self.seals.take(number, data)
        if index["sha256"] != self.shards[number]["sha256"]:
            raise InputError(f"{path}: is not the shard that manifest.json lists; {REMAKE}")
        shapes: dict[str, Any] = {
            "video": list(self.video_shape),
            "text": list(self.text_shape),
        }
        if self.joint_width is not None:
            shapes["joint"] = self.joint_width
        if index["samples"] and index["shapes"] != shapes:
            raise InputError(
                f"{path}: features are {index['shapes']} and not {shapes} as manifest.json says; "
                f"{REMAKE}"
            )
        return index


def check_tar(tar: Location, size: int | None, expected: int) -> None:
    """Raises InputError unless a tar, of which `size` was found, is there and of that size."""
    if size is None:
        raise InputError(f"{tar}: the shard is missing; run the extraction again")
    if size != expected:
        raise InputError(f"{tar}: holds {size} bytes and not {expected}; {REMAKE}")


class Named:
    """The context in which bytes of a sample are read: it names the shard and the sample to faults.

    A class and no generator, which costs more: it is entered three times for each pair.
    """

    __slots__ = ("_entry", "_features")

    def __init__(self, features: FeatureSet, entry: SampleEntry) -> None:
        self._features, self._entry = features, entry

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        if isinstance(error, NotFound | FileNotFoundError):
            raise self._damaged("the shard is missing") from error
        if isinstance(error, InputError):  # named already, or of the store and not of the sample
            return
        if isinstance(error, OSError):
            raise self._damaged(f"cannot be read: {error.strerror}") from error
        if isinstance(error, Exception):  # whatever its bytes trip
            said = str(error) if isinstance(error, ValueError) else repr(error)
            raise self._damaged(shown(Exception(said))) from error

    def _damaged(self, fault: str) -> Damaged:
        shard, vid = self._features.path(self._entry.shard), self._entry.vid
        return Damaged(f"{shard}: sample {vid!r}: {fault}; {REMAKE}")


def names_of(vid: str) -> tuple[str, ...]:
    """What rows may call a video: its id, and that of an archive without its suffix."""
    stem, dot, suffix = vid.rpartition(".")
    if dot and "/" not in suffix and stem and not stem.endswith("/"):
        return vid, stem
    return (vid,)


def known_as(vids: Iterable[str], wanted: Set[str]) -> dict[str, str]:
    """Of the names `wanted`: the id of the video that each is the id or, where that names one video
    only, the short name of. No other name is kept."""
    names: dict[str, str] = {}
    short: dict[str, set[str]] = {}
    for vid in vids:
        own, *stems = names_of(vid)
        if own in wanted:
            names[own] = vid
        for stem in stems:
            if stem in wanted:
                short.setdefault(stem, set()).add(vid)
    single = {stem: found.pop() for stem, found in short.items() if len(found) == 1}
    return single | names


def _shape(value: Any) -> tuple[int, int]:
    """Layers K and width D; ValueError for what no features have."""
    layers, width = value
    if not all(type(number) is int and 0 < number < 1 << 20 for number in value):
        raise ValueError(f"{shown(value)} is no number of layers and no width")
    return layers, width


def read_json(path: Source) -> dict[str, Any]:
    """The object in one of our JSON files; InputError if it is unreadable or of another format."""
    return parse_ours(Location(path).read_bytes(), path)


def parse_ours(data: bytes, path: Source) -> dict[str, Any]:
    """As `read_json`, of bytes that were read at `path`."""
    try:
        value = parse_json(data, path)
    except InputError as error:
        raise InputError(f"{error}; {REMAKE}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path}: not of format {FORMAT}; extract with this version again")
    return value


def write_index(folder: Source) -> FeatureSet:
    """Write the columnar index of a set, from its shards' indexes; returns the set.

    Raises InputError for a set that has faults. Whoever calls holds the folder.
    """
    found = FeatureSet(folder, indexed=False)
    write_columns(found.folder, found.digest, found.columns, found.seals)
    return found
