"""Which video goes in which shard, decided from the annotations alone before the work begins?"""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.config import JobConfig, ShardingConfig
from data_pipeline.storage import Location
from data_pipeline.video.video import clip_count


@dataclass(frozen=True)
class PlannedVideo:
    """A video and the rows that speak of it, in the order of the annotation file.

    `path` is where it lies, if that does not follow from its id.
    """

    vid: str
    annotations: tuple[Annotation, ...]
    path: str | None = None


@dataclass(frozen=True)
class PlannedShard:
    """A shard's name and its videos, in the order in which they are stored.

    `repeated` numbers those of its sentences that stand in several rows of the plan. A shard may be
    made of the tar of videos at `tar` instead, in their order there; their ids begin with `prefix`.
    """

    name: str
    videos: tuple[PlannedVideo, ...]
    repeated: Mapping[str, int]
    tar: str | None = None
    prefix: str = ""


SENTENCES = 128
"""Sentences of a `PlannedSentences`: some MB of features, a second or two of work."""


@dataclass(frozen=True)
class PlannedSentences:
    """Sentences that several rows of the plan share, in order of their numbers."""

    name: str
    sentences: tuple[str, ...]


def plan_shards(
    annotations: Sequence[Annotation], sharding: ShardingConfig, clip_length: float
) -> list[PlannedShard]:
    """All shards of a split: a function of its arguments and of nothing else.

    Videos are dealt in the order of the SHA-256 of their ids, so that every shard is a fair sample
    of the set, as a streaming reader's shuffle wants it.
    """
    rows: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        rows[annotation.vid].append(annotation)
    order = sorted(rows, key=lambda vid: hashlib.sha256(vid.encode()).digest())
    groups: list[list[PlannedVideo]] = []
    clips = 0
    for vid in order:
        count = clip_count(rows[vid][0].duration, clip_length)
        if not groups or len(groups[-1]) == sharding.videos or clips + count > sharding.clips:
            groups.append([])
            clips = 0
        groups[-1].append(PlannedVideo(vid, tuple(rows[vid])))
        clips += count
    times = Counter(annotation.query for annotation in annotations)
    numbers: dict[str, int] = {}
    shards: list[PlannedShard] = []
    for videos in groups:
        queries = (row.query for video in videos for row in video.annotations)
        repeated = {
            query: numbers.setdefault(query, len(numbers)) for query in queries if times[query] > 1
        }
        shards.append(PlannedShard(f"{len(shards):05d}", tuple(videos), repeated))
    return shards


class Plan(Protocol):
    """Which videos go in which shard of a feature set."""

    @property
    def identity(self) -> dict[str, Any]:
        """What a folder must agree in to be gone on with."""

    def shards(self) -> list[PlannedShard]:
        """All of them; asked for when the folder is held."""

    def rows(self, videos: int, queries: int) -> dict[str, Any]:
        """What the manifest says of the annotations of a set with so many videos, those that failed
        among them, and so many stored queries."""

    def noted(self) -> dict[str, list[str]]:
        """What is to be told of videos beside failures, and the names of those it is true of."""


class AnnotatedPlan:
    """The videos that the rows of an annotation file name; raises InputError for a bad file."""

    def __init__(self, config: JobConfig, clip_length: float) -> None:
        assert config.annotations is not None
        annotations = read_annotations(config.annotations)
        self._shards = plan_shards(annotations, config.sharding, clip_length)
        self._rows = {
            "name": config.annotations.name,
            "sha256": Location(config.annotations).sha256(),
            "videos": sum(len(shard.videos) for shard in self._shards),
            "queries": len(annotations),
        }
        self.identity = {
            "annotations": self._rows["sha256"],
            "sharding": dataclasses.asdict(config.sharding),
        }

    def shards(self) -> list[PlannedShard]:
        """As `Plan.shards`."""
        return self._shards

    def rows(self, videos: int, queries: int) -> dict[str, Any]:
        """As `Plan.rows`: those of the file."""
        return self._rows

    def noted(self) -> dict[str, list[str]]:
        """As `Plan.noted`: nothing."""
        return {}


def plan_sentences(shards: Sequence[PlannedShard]) -> list[PlannedSentences]:
    """All sentences that several rows of a plan share: sentence n is in element n // SENTENCES."""
    numbered: dict[str, int] = {}
    for shard in shards:
        numbered.update(shard.repeated)
    sentences = list(numbered)  # first met in the order of their numbers
    return [
        PlannedSentences(f"{n // SENTENCES:05d}", tuple(sentences[n : n + SENTENCES]))
        for n in range(0, len(sentences), SENTENCES)
    ]
