"""How is an archive indexed and searched by a Ray cluster, where one machine does not hold it?

Vectors are made by one process for each processor of the cluster and written by the one that asks.
A search gives each of them a part of the videos; what they touch of the mapped index stays in their
machines' memory. The features and the index lie where all of them can read.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, WorkerCrashedError

from data_pipeline.errors import InputError
from data_pipeline.extraction.ray_session import ray_session
from data_pipeline.features.shards import FeatureSet
from trainer.archive.archive import FirstStage
from trainer.archive.building import BLOCK, Block, Blocks, Source
from trainer.archive.index import Index, read_manifest
from trainer.archive.searching import Candidate, candidates
from trainer.archive.vectors import Floats, Kind

AHEAD = 2
"""Blocks that each process has been asked for."""


class _Maker:
    """Makes vectors of samples; lives in a process of the cluster."""

    def __init__(self, model: str, kind: Kind, joint: int | None) -> None:
        self._source = Source(Path(model), kind, joint)
        self._sets: dict[str, FeatureSet] = {}

    def block(self, path: str, part: range) -> Block:
        """The block of some samples of the set at `path`."""
        if path not in self._sets:
            self._sets[path] = FeatureSet(path, skip_damaged=True)
        return self._source.block(self._sets[path], part)


class _Searcher:
    """Searches a part of an index; lives in a process of the cluster."""

    def __init__(self, folder: str, version: tuple[str, int, int], videos: slice) -> None:
        self._index = Index(Path(folder))
        if _version(self._index.folder) != version:
            raise InputError(f"{folder}: has changed while it was opened; search again")
        self._videos = videos

    def ready(self) -> None:
        """The index is open."""

    def candidates(self, sentences: Floats, count: int, longest: int) -> list[list[Candidate]]:
        """`searching.candidates` of these videos."""
        return candidates(self._index, sentences, count, longest, self._videos)


@contextlib.contextmanager
def on_cluster(source: Source) -> Iterator[Blocks]:
    """`Source.blocks` on the cluster that RAY_ADDRESS names, else on a Ray of this machine's."""
    with ray_session() as watch:
        args = str(source.folder), source.vectors.kind, source.vectors.joint_width
        makers = [_actor(_Maker, *args) for _ in range(_processors())]

        def blocks(features: FeatureSet, samples: range) -> Iterator[Block]:
            path = str(features.folder)
            parts = (samples[i : i + BLOCK] for i in range(0, len(samples), BLOCK))
            turns = zip(parts, itertools.cycle(makers), strict=False)
            asked: deque[Any] = deque()
            for part, maker in turns:
                asked.append(maker.block.remote(path, part))
                if len(asked) == AHEAD * len(makers):
                    yield _answer(asked.popleft(), watch.check)
            while asked:
                yield _answer(asked.popleft(), watch.check)

        yield blocks


@contextlib.contextmanager
def first_stage(index: Index) -> Iterator[FirstStage]:
    """`searching.candidates` on the cluster that RAY_ADDRESS names, each process a part."""
    with ray_session() as watch:
        edges = _parts(index, _processors())
        version = _version(index.folder)
        folder = str(index.folder.resolve())
        searchers = [
            _actor(_Searcher, folder, version, slice(*edge)) for edge in itertools.pairwise(edges)
        ]
        for each in searchers:  # the first question is not to wait for processes that start
            _answer(each.ready.remote(), watch.check)

        def search(sentences: Floats, count: int, longest: int) -> list[list[Candidate]]:
            asked = [each.candidates.remote(sentences, count, longest) for each in searchers]
            found = [_answer(each, watch.check) for each in asked]
            return [
                sorted(itertools.chain(*each), key=lambda candidate: -candidate.score)[:count]
                for each in zip(*found, strict=True)
            ]

        yield search


def _parts(index: Index, count: int) -> list[int]:
    """Numbers of videos between which about equally many clips lie, without empty parts."""
    ends = np.cumsum(index.videos["clips"], dtype=np.int64)
    share = np.arange(1, count) * len(index) // count
    inside = np.searchsorted(ends, share).tolist() if len(ends) else []
    return sorted({0, *inside, len(index.videos)})


def _version(folder: Path) -> tuple[str, int, int]:
    manifest = read_manifest(folder)
    return manifest.id, manifest.generation, manifest.videos


def _processors() -> int:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


def _actor(kind: type, *args: Any) -> Any:
    return ray.remote(num_cpus=1)(kind).remote(*args)


def _answer(reference: Any, check: Callable[[], None]) -> Any:
    """What a process of the cluster gives; InputError for what it raises, and where it is lost."""
    try:
        while not ray.wait([reference], timeout=1.0)[0]:
            check()
        return ray.get(reference)
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, InputError):
            raise cause from error
        said = " ".join(str(error).split())[:300]
        if isinstance(error, RayActorError | WorkerCrashedError):
            said = f"was lost; run the same command again ({said})"
        raise InputError(f"a process of the cluster {said}") from error
