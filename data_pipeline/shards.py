"""What does a set of stored features look like, and how is one sample of it read?

    features/<split>/manifest.json     what the set is: provenance, annotations, shards with hashes
    features/<split>/00000.tar         samples: one video with all its queries
    features/<split>/00000.json        index of that tar, with its SHA-256; written after it

A tar holds for each sample `<key>.video.npy` (L, K, Dv) float16, `<key>.text.npy` (tokens of all
queries, K, Dt) float16 and `<key>.json`. The `webdataset` library reads it; `FeatureSet` reads
single samples at their offsets. Nothing here unpickles.
"""

import dataclasses
import io
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.annotations import Annotation
from data_pipeline.batches import Pair
from data_pipeline.errors import InputError

FORMAT = 1
"""Version of the layout above; readers refuse any other."""

MEMBERS = ("video.npy", "text.npy", "json")
REMAKE = "remove it and run the extraction again"

Half = NDArray[np.float16]


@dataclass(frozen=True)
class Provenance:
    """How features were made. Sets may be used together that agree in all but the last three.

    Attributes:
        video_encoder: registered name, or what an import says of its origin
        video_weights: SHA-256 of the weights; None where features were imported
        video_layers: chosen layers, counted from the shallowest
        text_encoder, text_weights, text_layers: the same of the text encoder
        tokenizer: SHA-256 of the tokenizer
        clip_length: seconds
        frames_per_clip: frames that the encoder sees of each clip, evenly spread
        preprocessing: from decoded frames to the encoder's input
        arithmetic: floating-point type that the encoders ran in
        options: further options of the encoders
        version: of this package
        batch, threads: clips encoded at once and processor threads, of which the last bits depend;
            None where they are not known
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

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Provenance":
        """Raises TypeError or KeyError for an object that is not a provenance."""
        layers = {name: tuple(value[name]) for name in ("video_layers", "text_layers")}
        return cls(**(value | layers))

    def differences(self, other: "Provenance") -> list[str]:
        """What the features differ in, as `name: mine, not theirs`; empty if they agree."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [
            f"{name}: {mine[name]}, not {theirs[name]}"
            for name in mine
            if name not in ("version", "batch", "threads") and mine[name] != theirs[name]
        ]

    def summary(self) -> dict[str, str]:
        """A few short lines for records and reports."""
        rate = self.frames_per_clip / self.clip_length
        return {
            "video": _of_encoder(self.video_encoder, self.video_layers, self.video_weights),
            "text": _of_encoder(self.text_encoder, self.text_layers, self.text_weights),
            "clips": f"{self.clip_length:g} s, {self.frames_per_clip} frames ({rate:g} a second)",
            "preprocessing": self.preprocessing,
            "version": self.version,
        }


def _of_encoder(name: str, layers: tuple[int, ...], weights: str | None) -> str:
    origin = f"weights {weights[:12]}" if weights else "imported"
    return f"{name}, layers {', '.join(map(str, layers))}, {origin}"


@dataclass(frozen=True)
class SampleEntry:
    """A sample's place, from the index: nothing of the tar is read for it.

    `shard` counts the shards of the set, `offset` and `size` are bytes of all its members with
    their headers, `members` the place of each member's data, `clips` is L, `queries` the number of
    tokens of each query.
    """

    key: str
    vid: str
    shard: int
    offset: int
    size: int
    clips: int
    queries: tuple[int, ...]
    members: dict[str, tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        """The object in the shard's index."""
        return {
            "key": self.key,
            "vid": self.vid,
            "offset": self.offset,
            "bytes": self.size,
            "clips": self.clips,
            "queries": list(self.queries),
            "members": {name: list(place) for name, place in self.members.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any], shard: int) -> "SampleEntry":
        """Raises KeyError, TypeError or ValueError for an object that is not an entry."""
        return cls(
            key=value["key"],
            vid=value["vid"],
            shard=shard,
            offset=int(value["offset"]),
            size=int(value["bytes"]),
            clips=int(value["clips"]),
            queries=tuple(int(tokens) for tokens in value["queries"]),
            members={name: (int(a), int(b)) for name, (a, b) in value["members"].items()},
        )


@dataclass(frozen=True)
class StoredQuery:
    """A query of a sample and the range of its tokens in the sample's text features."""

    annotation: Annotation
    tokens: tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """One video with all its queries: `video` (L, K, Dv), `text` (tokens, K, Dt), read-only.

    `duration` is the video's own, in seconds; that of the annotations stands in the annotations.
    """

    vid: str
    duration: float
    clip_length: float
    video: Half
    text: Half
    queries: tuple[StoredQuery, ...]

    def pair(self, query: int) -> Pair:
        """The video with one of its queries."""
        start, end = self.queries[query].tokens
        return Pair(
            self.video, self.text[start:end], self.queries[query].annotation, self.clip_length
        )

    def details(self) -> dict[str, Any]:
        """The JSON member: all but the features."""
        return {
            "vid": self.vid,
            "duration": self.duration,
            "clip_length": self.clip_length,
            "queries": [
                {
                    "qid": query.annotation.qid,
                    "query": query.annotation.query,
                    "duration": query.annotation.duration,
                    "tokens": list(query.tokens),
                    "windows": query.annotation.windows,
                    "saliency": query.annotation.saliency,
                }
                for query in self.queries
            ],
        }


def _stored_query(vid: str, value: dict[str, Any]) -> StoredQuery:
    windows, saliency = value["windows"], value["saliency"]
    annotation = Annotation(
        qid=value["qid"],
        query=value["query"],
        vid=vid,
        duration=value["duration"],
        windows=None if windows is None else tuple((start, end) for start, end in windows),
        saliency=None if saliency is None else {int(k): tuple(v) for k, v in saliency.items()},
    )
    return StoredQuery(annotation, (value["tokens"][0], value["tokens"][1]))


class FeatureSet:
    """The features of one split. Opening it reads the manifest and the indexes.

    Raises InputError for a folder without a complete set, an index that does not match its
    manifest, or a tar of another size than its index says. Hashing is for `launch.shards verify`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise InputError(f"{path}: not found; extract the features of this split first")
        self.manifest = read_json(path)
        try:
            self.provenance = Provenance.from_json(self.manifest["provenance"])
            self.split: str = self.manifest["split"]
            self.shards: list[dict[str, Any]] = self.manifest["shards"]
            self.video_shape = tuple(self.manifest["shapes"]["video"])  # (K, Dv)
            self.text_shape = tuple(self.manifest["shapes"]["text"])  # (K, Dt)
            self.samples = [
                SampleEntry.from_json(entry, number)
                for number, shard in enumerate(self.shards)
                for entry in self._index(shard)["samples"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: malformed ({error!r}); {REMAKE}") from error

    def read(self, index: int) -> Sample:
        """Sample `index` of the set, by one read of its bytes.

        Raises InputError that names shard and sample where these are not what the index says.
        """
        entry = self.samples[index]
        path = self.path(entry.shard)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                data = os.pread(descriptor, entry.size, entry.offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}; {REMAKE}") from error
        try:
            return _parse(data, entry, self.provenance.clip_length)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: sample {entry.vid!r}: {error}; {REMAKE}") from error

    def path(self, shard: int) -> Path:
        """The tar of a shard."""
        return self.folder / f"{self.shards[shard]['name']}.tar"

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

    @cached_property
    def pairs(self) -> int:
        """Number of (video, query) pairs."""
        return sum(len(sample.queries) for sample in self.samples)

    def _index(self, shard: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / f"{shard['name']}.json"
        tar = path.with_suffix(".tar")
        if not (path.is_file() and tar.is_file()):
            raise InputError(f"{path}: the shard or its index is missing; run the extraction again")
        index = read_json(path)
        if index["sha256"] != shard["sha256"]:
            raise InputError(f"{path}: is not the shard that manifest.json lists; {REMAKE}")
        if tar.stat().st_size != index["bytes"]:
            raise InputError(
                f"{tar}: holds {tar.stat().st_size} bytes and not {index['bytes']}; {REMAKE}"
            )
        return index


def read_json(path: Path) -> dict[str, Any]:
    """The object in one of our JSON files; InputError if it is unreadable or of another format."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); {REMAKE}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"{path}: not of format {FORMAT}; extract with this version again")
    return value


def _parse(data: bytes, entry: SampleEntry, clip_length: float) -> Sample:
    """Raises ValueError, KeyError or TypeError for bytes that are not the sample of `entry`."""
    if len(data) != entry.size:
        raise ValueError("truncated")
    views = {
        name: memoryview(data)[place - entry.offset : place - entry.offset + size]
        for name, (place, size) in entry.members.items()
    }
    details = json.loads(bytes(views["json"]))
    video, text = _array(views["video.npy"]), _array(views["text.npy"])
    queries = tuple(_stored_query(entry.vid, query) for query in details["queries"])
    if details["vid"] != entry.vid or details["clip_length"] != clip_length:
        raise ValueError("is not the sample that the index names")
    if len(video) != entry.clips or len(text) != sum(entry.queries):
        raise ValueError("holds other numbers of clips or tokens than the index says")
    if [query.tokens[1] - query.tokens[0] for query in queries] != list(entry.queries):
        raise ValueError("has other queries than the index says")
    return Sample(entry.vid, details["duration"], clip_length, video, text, queries)


def _array(view: memoryview) -> Half:
    """The three-axis float16 array of a .npy, without a copy and without unpickling."""
    head = io.BytesIO(view[:256])
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("a .npy of an unknown version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    if dtype != np.float16 or fortran or len(shape) != 3:
        raise ValueError(f"an array {shape} of {dtype}, expected three axes of float16")
    return np.frombuffer(view, dtype=np.float16, offset=head.tell()).reshape(shape)
