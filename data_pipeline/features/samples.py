"""What is one stored sample, a video with all its queries, and is it what was written?"""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation, parse_row
from data_pipeline.errors import InputError
from data_pipeline.features.checksums import Checksums, check_values, checksum
from data_pipeline.features.checksums import Half as Half
from data_pipeline.untrusted import natural, parse_json, plain_name, shown

MEMBERS = ("video.npy", "text.npy", "json")
JOINT = "joint.npy"
"""The member of samples whose encoders share a space."""


class Damaged(InputError):
    """A stored sample is not what was written; the message names its shard and the sample."""


def is_finite(array: Half) -> bool:
    """Whether no value is infinite or NaN: those have all exponent bits set.

    As integers that is told several times as fast as by `np.isfinite`.
    """
    return bool(((array.view(np.uint16) & 0x7C00) != 0x7C00).all())


_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


def sample_key(vid: str) -> str:
    """Name of a sample in its tar: the id with all but a-z, 0-9, - and _ percent-encoded.

    `webdataset` ends a key at the first dot and some file systems do not tell upper from lower
    case: with neither in the key, different ids keep different keys wherever a tar is unpacked.
    """
    return "".join(chr(b) if b in _PLAIN else f"%{b:02x}" for b in vid.encode())


@lru_cache(maxsize=4096)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """What stands before the values in the .npy of a float16 array."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


@dataclass(frozen=True)
class SampleEntry:
    """A sample's place, from the index: nothing of the tar is read for it.

    `shard` counts the shards of the set, `offset` and `size` are bytes of all its members with
    their headers, `members` the place of each member's data, `clips` is L, `queries` the number of
    tokens of each query. `finite` tells that no feature was NaN or infinite when it was written.
    """

    vid: str
    shard: int
    offset: int
    size: int
    clips: int
    queries: tuple[int, ...]
    members: dict[str, tuple[int, int]]
    checksums: Checksums
    finite: bool
    qids: tuple[int | str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The object in the shard's index, which names the kind of the checksums."""
        return {
            "key": sample_key(self.vid),
            "vid": self.vid,
            "offset": self.offset,
            "bytes": self.size,
            "clips": self.clips,
            "queries": list(self.queries),
            "members": {name: list(place) for name, place in self.members.items()},
            "checksums": {
                "video": self.checksums.video,
                "text": list(self.checksums.text),
                "json": self.checksums.json,
                **({} if self.checksums.joint is None else {"joint": self.checksums.joint}),
            },
            "finite": self.finite,
            **({} if self.qids is None else {"qids": list(self.qids)}),
        }

    @classmethod
    def from_json(
        cls, value: dict[str, Any], shard: int, source: object, kind: str
    ) -> "SampleEntry":
        """Raises KeyError, TypeError or ValueError for an object that is not an entry, InputError
        that names `source` for an id that is no name."""
        offset, size = natural(value["offset"]), natural(value["bytes"])
        places = {name: value["members"][name] for name in MEMBERS}
        if JOINT in value["members"]:
            places[JOINT] = value["members"][JOINT]
        members = {name: (natural(place), natural(n)) for name, (place, n) in places.items()}
        if any(place < offset or place + n > offset + size for place, n in members.values()):
            raise ValueError("a member lies outside of its sample")
        queries = tuple(natural(tokens) for tokens in value["queries"])
        sums = value["checksums"]
        checksums = Checksums(
            natural(sums["video"], 2**64),
            tuple(natural(each, 2**64) for each in sums["text"]),
            natural(sums["json"], 2**64),
            natural(sums["joint"], 2**64) if JOINT in places else None,
            kind,
        )
        if len(checksums.text) != len(queries):
            raise ValueError("has not one checksum for each query")
        qids = tuple(value["qids"]) if "qids" in value else None
        if qids is not None and (
            len(qids) != len(queries) or not all(type(qid) in (int, str) for qid in qids)
        ):
            raise ValueError("has not one qid for each query")
        if not isinstance(value["key"], str):
            raise TypeError("'key' is a name")
        plain_name(value["vid"], "'vid'", source, folders=True)
        return cls(
            vid=value["vid"],
            shard=shard,
            offset=offset,
            size=size,
            clips=natural(value["clips"]),
            queries=queries,
            members=members,
            checksums=checksums,
            finite=value["finite"] is True,
            qids=qids,
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
    `joint` (L + queries, J) are the vectors of its clips, then of its queries, in the space that
    the encoders share; None where they share none. A video may have no query yet.
    """

    vid: str
    duration: float
    clip_length: float
    video: Half
    text: Half
    queries: tuple[StoredQuery, ...]
    joint: Half | None = None

    def details(self) -> dict[str, Any]:
        """The JSON member: all but the features."""
        return {
            "vid": self.vid,
            "duration": self.duration,
            "clip_length": self.clip_length,
            "queries": query_rows(self.queries),
        }


def query_rows(queries: Iterable[StoredQuery]) -> list[dict[str, Any]]:
    """The queries as the JSON member has them; `stored_query` is the way back."""
    return [
        {
            "qid": query.annotation.qid,
            "query": query.annotation.query,
            "duration": query.annotation.duration,
            "tokens": list(query.tokens),
            "windows": query.annotation.windows,
            "saliency": query.annotation.saliency,
            **query.annotation.extras(),
        }
        for query in queries
    ]


def stored_query(vid: str, value: dict[str, Any]) -> StoredQuery:
    """A query of a video, from the JSON member.

    Raises KeyError, TypeError, ValueError or InputError for what is none.
    """
    first, end = (natural(token) for token in value["tokens"])
    row = {key: value[key] for key in ("qid", "query", "duration")} | {"vid": vid}
    row["relevant_windows"] = value["windows"]
    row |= {key: value[key] for key in ("clip_length", "domain") if key in value}
    if value["saliency"] is not None:
        row["relevant_clip_ids"] = [int(clip) for clip in value["saliency"]]
        row["saliency_scores"] = list(value["saliency"].values())
    return StoredQuery(parse_row(row), (first, end))


def parse_details(
    data: bytes, entry: SampleEntry, clip_length: float
) -> tuple[float, tuple[StoredQuery, ...]]:
    """Duration and queries from the JSON member.

    Raises ValueError, KeyError or TypeError for what is not the sample of `entry`.
    """
    if checksum(data, entry.checksums.kind) != entry.checksums.json:
        raise ValueError("its json is not what was written")
    try:
        details = parse_json(data, "its json")
    except InputError as error:
        raise ValueError(str(error)) from error
    queries = tuple(stored_query(entry.vid, query) for query in details["queries"])
    if details["vid"] != entry.vid or details["clip_length"] != clip_length:
        raise ValueError("is not the sample that the index names")
    if [query.tokens[1] - query.tokens[0] for query in queries] != list(entry.queries):
        raise ValueError("has other queries than the index says")
    if entry.qids is not None and [query.annotation.qid for query in queries] != list(entry.qids):
        raise ValueError("has other qids than the index says")
    duration = details["duration"]
    if type(duration) not in (int, float) or not 0 < duration < math.inf:
        raise ValueError(f"lasts {shown(duration)} s")
    return duration, queries


def check_header(data: bytes, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless `data` is the .npy header of a float16 array of this shape."""
    if data == npy_header(shape):
        return
    head = io.BytesIO(data)
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("a .npy of an unknown version")
    found, _, dtype = np.lib.format.read_array_header_1_0(head)
    raise ValueError(f"an array {found} of {dtype}, expected {shape} of float16")


def parse_sample(
    data: bytes,
    entry: SampleEntry,
    clip_length: float,
    video_shape: tuple[int, int],
    text_shape: tuple[int, int],
    joint_width: int | None = None,
) -> Sample:
    """The sample of `entry` from its bytes in the tar; the shapes are (K, Dv) and (K, Dt).

    Arrays are views of `data`. Raises ValueError, KeyError or TypeError for other bytes.
    """
    if len(data) != entry.size:
        raise ValueError("truncated")
    views = {
        name: memoryview(data)[place - entry.offset : place - entry.offset + size]
        for name, (place, size) in entry.members.items()
    }
    duration, queries = parse_details(bytes(views["json"]), entry, clip_length)
    video = _array(views["video.npy"], (entry.clips, *video_shape))
    text = _array(views["text.npy"], (sum(entry.queries), *text_shape))
    kind = entry.checksums.kind
    check_values("video", video, entry.checksums.video, kind)
    for query, expected in zip(queries, entry.checksums.text, strict=True):
        check_values("text", text[slice(*query.tokens)], expected, kind)
    joint = parse_joint(views[JOINT], entry, joint_width) if joint_width else None
    return Sample(entry.vid, duration, clip_length, video, text, queries, joint)


def parse_joint(data: memoryview, entry: SampleEntry, width: int) -> Half:
    """(L + queries, J) from the member of joint vectors; ValueError for others."""
    joint = _array(data, (entry.clips + len(entry.queries), width))
    assert entry.checksums.joint is not None
    check_values("joint", joint, entry.checksums.joint, entry.checksums.kind)
    return joint


def _array(view: memoryview, shape: tuple[int, ...]) -> Half:
    """The array of a .npy, without a copy and without unpickling."""
    start = len(npy_header(shape))
    check_header(bytes(view[:start]), shape)
    return np.frombuffer(view, dtype=np.float16, offset=start).reshape(shape)
