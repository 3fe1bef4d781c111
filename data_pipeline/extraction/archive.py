"""Which videos of an archive go in which shard, today and when the archive has grown?

    archive.jsonl    what is planned: a line for each video and each tar, with its shard

It is written before the work begins and only ever grows at its end, unless removed videos are
dropped: so a second run over a grown archive makes shards of what is new, and touches no other. A
tar becomes a shard of its own; videos share shards, dealt in the order of the SHA-256 of their
names, those of one run among each other.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from data_pipeline.config import ExtractionConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.decoder import BEING_WRITTEN
from data_pipeline.extraction.listing import TAR, Found, Listing, list_archive
from data_pipeline.extraction.plan import PlannedShard, PlannedVideo
from data_pipeline.features.rewriting import rewrite_shard
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import read_json
from data_pipeline.features.writing import write_text
from data_pipeline.storage import Location, NotFound
from data_pipeline.untrusted import parse_json, plain_name, reading

PLAN = "archive.jsonl"


@dataclass(frozen=True)
class Planned:
    """A video or a tar and the shard that it goes into."""

    found: Found
    shard: str

    def to_row(self) -> dict[str, str]:
        """The object of its line."""
        return {
            "name": self.found.name,
            "path": self.found.path,
            "stamp": self.found.stamp,
            "shard": self.shard,
        }

    @classmethod
    def from_row(cls, row: Any, source: object) -> "Planned":
        """Raises KeyError or TypeError for another object, InputError for an unfit name."""
        values = {key: row[key] for key in ("name", "path", "stamp", "shard")}
        if not all(isinstance(value, str) for value in values.values()):
            raise TypeError("not all of them are texts")
        if not row["shard"].isdecimal():
            raise TypeError("its shard is no number")
        plain_name(row["name"], "a file", source, folders=True)
        plain_name(row["shard"], "a shard", source)
        return cls(Found(row["name"], row["path"], row["stamp"]), row["shard"])


@dataclass
class ArchivePlan:
    """The plan of an archive; its shards are known once it has seen the output folder."""

    config: ExtractionConfig
    listing: Listing = field(init=False)
    added: int = 0
    """Videos and tars that are new or are tried again."""
    removed: list[str] = field(default_factory=list)
    """Planned ones that are in the archive no more."""
    changed: list[str] = field(default_factory=list)
    """Stored ones that are not what they were."""

    def __post_init__(self) -> None:
        self.listing = list_archive(self.config.videos, self.config.output)
        names = [each.name for each in self.listing.found]
        tars = {name[: -len(TAR)] for name in names if name.lower().endswith(TAR)}
        for name in names:
            # What lies in a.tar is known as a/...; so may what lies in a folder a.
            if (top := name.partition("/")[0]) in tars and top != name:
                raise InputError(
                    f"{self.config.videos}: has {top}{TAR} and a folder {top}; rename one of them"
                )

    @property
    def identity(self) -> dict[str, Any]:
        """What a folder of features must agree in to be gone on with."""
        return {"annotations": None, "captions": self.config.captions}

    def shards(self) -> list[PlannedShard]:
        """All shards, old and new, as archive.jsonl then says."""
        output = Location(self.config.output)
        planned = _read(output)
        listed = {each.name: each for each in self.listing.found}
        self.removed = [name for name in planned if name not in listed]
        if self.removed and self.config.drop_removed:
            _drop(output, planned, self.removed, self.config.encoder.clip_length)
        failed = _failures(output, planned)
        first = 1 + max(_last_shard(output), *(int(p.shard) for p in planned.values()), -1)
        for name, old in list(planned.items()):
            new = listed.get(name)
            if new is not None and new.path != old.found.path:  # the archive lies elsewhere now
                old = planned[name] = Planned(replace(old.found, path=new.path), old.shard)
            if new is None or (new.stamp == old.found.stamp and failed.get(name) != BEING_WRITTEN):
                continue
            if name not in failed:
                if new.stamp != old.found.stamp:
                    self.changed.append(name)
            elif new.is_tar:  # what it held before is to be replaced
                (output / f"{old.shard}.json").unlink()
                planned[name] = Planned(new, old.shard)
                self.added += 1
            else:
                del planned[name]
        fresh = [each for each in self.listing.found if each.name not in planned]
        self.added += len(fresh)
        for each, shard in self._dealt(fresh, first):
            planned[each.name] = Planned(each, shard)
        if self.added or (self.removed and self.config.drop_removed):
            _write(output, planned.values())
        return _shards(planned.values())

    def rows(self, videos: int, queries: int) -> dict[str, Any]:
        """As `Plan.rows`: sentences may have been joined to the videos since."""
        name = Location(self.config.videos).name
        return {"name": name, "sha256": "", "videos": videos, "queries": queries}

    def noted(self) -> dict[str, list[str]]:
        """As `Plan.noted`."""
        still = (
            "left out of the features"
            if self.config.drop_removed
            else ("still stored; --drop_removed true leaves them out")
        )
        noted = {
            f"in the archive no more, {still}": self.removed,
            "changed since they were stored; their features are the old ones": self.changed,
            "not taken": self.listing.odd,
        }
        return {what: names for what, names in noted.items() if names}

    def _dealt(self, fresh: Sequence[Found], first: int) -> list[tuple[Found, str]]:
        videos = [each for each in fresh if not each.is_tar]
        videos.sort(key=lambda each: hashlib.sha256(each.name.encode()).digest())
        size = self.config.sharding.videos
        groups = [videos[start : start + size] for start in range(0, len(videos), size)]
        groups += [[each] for each in fresh if each.is_tar]
        return [
            (each, f"{number:05d}") for number, group in enumerate(groups, first) for each in group
        ]


def _shards(planned: Any) -> list[PlannedShard]:
    groups: dict[str, list[Found]] = defaultdict(list)
    for each in planned:
        groups[each.shard].append(each.found)
    shards = []
    for name in sorted(groups, key=lambda name: (len(name), name)):
        found = groups[name]
        tar = next((each for each in found if each.is_tar), None)
        if tar is not None:
            shards.append(PlannedShard(name, (), {}, tar.path, tar.name[: -len(TAR)]))
        else:
            videos = tuple(PlannedVideo(each.name, (), each.path) for each in found)
            shards.append(PlannedShard(name, videos, {}))
    return shards


def _read(output: Location) -> dict[str, Planned]:
    path = output / PLAN
    planned: dict[str, Planned] = {}
    try:
        text = path.read_bytes()
    except NotFound:
        return planned
    with reading(path, "remove the folder of features"):
        for number, line in enumerate(text.splitlines(), start=1):
            each = Planned.from_row(parse_json(line, f"{path}:{number}"), f"{path}:{number}")
            planned[each.found.name] = each
    return planned


def _write(output: Location, planned: Any) -> None:
    rows = (json.dumps(each.to_row(), ensure_ascii=False) for each in planned)
    write_text(output / PLAN, "".join(f"{row}\n" for row in rows))


def _indexes(output: Location, names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The names and the indexes of shards that are there, one at a time."""
    for name in names:
        try:
            index = read_json(output / f"{name}.json")
        except InputError:  # not made yet, or to be made again
            continue
        yield name, index


def _failures(output: Location, planned: dict[str, Planned]) -> dict[str, str]:
    """Videos, and tars, that are in the archive and failed: their kinds."""
    failed: dict[str, str] = {}
    names: dict[str, dict[str, str]] = defaultdict(dict)  # of a shard: by what they are known as
    for name, each in planned.items():
        names[each.shard][name[: -len(TAR)] if each.found.is_tar else name] = name
    for shard, index in _indexes(output, names):
        for failure in index["failures"]:
            if failure["vid"] in names[shard]:
                failed[names[shard][failure["vid"]]] = failure["kind"]
    return failed


def _last_shard(output: Location) -> int:
    names = [name.removesuffix(".json") for name in output.names()]
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def _drop(
    output: Location, planned: dict[str, Planned], removed: Sequence[str], clip_length: float
) -> None:
    """Write shards again without what is gone from the archive; the rest keeps its features."""
    by_shard: dict[str, list[str]] = defaultdict(list)
    for name in removed:
        by_shard[planned[name].shard].append(name)
    for shard, index in _indexes(output, by_shard):
        gone = set(by_shard[shard])
        tops = tuple(f"{name[: -len(TAR)]}/" for name in gone if name.lower().endswith(TAR))

        def without(sample: Sample, gone: set[str] = gone, tops: Any = tops) -> Sample | None:
            return None if sample.vid in gone or sample.vid.startswith(tops) else sample

        kept = [each for each in index["failures"] if each["vid"] not in gone]
        index = index | {"failures": kept}
        rewrite_shard(output, index, clip_length, without)
    for name in removed:
        del planned[name]
