"""How do features that others released become a feature set of ours?"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import ray

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.config import ImportConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import package_version
from data_pipeline.extraction.job import Progress, Summary, make_shards
from data_pipeline.extraction.plan import PlannedShard, PlannedVideo
from data_pipeline.extraction.pool import Seconds, VideoDone, Workers
from data_pipeline.extraction.released import (
    RELEASES,
    FeatureFileError,
    Release,
    find_features,
    read_text,
    read_video,
)
from data_pipeline.features.samples import Half, Sample, StoredQuery
from data_pipeline.features.shards import IMPORTED, Provenance
from data_pipeline.features.writing import Failure, ShardWriter
from data_pipeline.video import clip_count


def import_features(
    config: ImportConfig, report: Callable[[Progress], None] = lambda _: None
) -> Summary:
    """Make what is missing of a feature set; `report` is called about once a second.

    A video whose features or whose queries' features are missing or unusable is recorded as failed.
    Raises InputError for bad inputs and for an output folder that holds another set.
    """
    for folder in (config.video_dir, config.text_dir):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of feature files")
    provenance = _provenance(config)
    layers = len(provenance.video_layers)

    def workers() -> Workers:
        cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        return Workers(Importer, (config, layers), min(config.workers or cpus, cpus))

    return make_shards(config, provenance, config.video_dir, workers, report)


class Importer:
    """Makes shards of one split, one at a time."""

    def __init__(self, config: ImportConfig, layers: int) -> None:
        self._config, self._layers = config, layers

    def load(self) -> None:
        """There is nothing to load."""

    def make(self, shard: PlannedShard) -> Iterator[VideoDone | Seconds]:
        """Make and commit a shard, telling of each video."""
        failures: list[Failure] = []
        with ShardWriter(self._config.output, shard.name) as writer:
            for video in shard.videos:
                began = time.perf_counter()
                try:
                    sample = self._sample(video)
                except FeatureFileError as error:
                    failures.append(Failure(video.vid, error.kind, str(error)))
                    yield VideoDone(video.vid, failure=failures[-1])
                    continue
                read = time.perf_counter()
                writer.add(sample)
                seconds = Seconds(decode=read - began, write=time.perf_counter() - read)
                yield VideoDone(video.vid, len(sample.video), seconds=seconds)
            began = time.perf_counter()
            writer.commit(failures)
        yield Seconds(write=time.perf_counter() - began)

    def _sample(self, video: PlannedVideo) -> Sample:
        path = find_features(self._config.video_dir, video.vid)
        features = self._check_layers(path, read_video(path, self._config.pooling))
        texts = [self._text(annotation) for annotation in video.annotations]
        ends = np.cumsum([len(text) for text in texts]).tolist()
        return Sample(
            vid=video.vid,
            duration=self._duration(path, video.annotations[0].duration, len(features)),
            clip_length=self._config.clip_length,
            video=features,
            text=np.concatenate(texts),
            queries=tuple(
                StoredQuery(annotation, (end - len(text), end))
                for annotation, text, end in zip(video.annotations, texts, ends, strict=True)
            ),
        )

    def _text(self, annotation: Annotation) -> Half:
        path = find_features(self._config.text_dir, annotation.qid)
        text = read_text(path)
        if self._layers == 1:  # of a single video layer the deepest text layer is the counterpart
            text = text[:, -1:]
        return self._check_layers(path, text)

    def _check_layers(self, path: Path, features: Half) -> Half:
        if features.shape[1] != self._layers:
            raise FeatureFileError(
                f"{path}: {features.shape[1]} layers, the first video has {self._layers}",
                "other contents",
            )
        return features

    def _duration(self, path: Path, annotated: float, clips: int) -> float:
        """The annotations', or, where there are some clips more or less, what the clips cover."""
        clip_length = self._config.clip_length
        expected = clip_count(annotated, clip_length)
        if clips == expected:
            return annotated
        if abs(clips - expected) > max(2, 0.1 * expected):
            raise FeatureFileError(
                f"{path}: {clips} clips of {clip_length:g} s, the annotations say {annotated:g} s; "
                "is clip_length right?",
                "other length",
            )
        return clips * clip_length


def _provenance(config: ImportConfig) -> Provenance:
    """What the release and the first usable video's file tell."""
    release, layers = _look(config)
    return Provenance(
        video_encoder=config.video_encoder or release.video_encoder,
        video_weights=None,
        video_layers=_layers("video_layers", config.video_layers, layers, release.video_depth),
        text_encoder=config.text_encoder or release.text_encoder,
        text_weights=None,
        text_layers=_layers("text_layers", config.text_layers, layers, release.text_depth),
        tokenizer=None,
        clip_length=config.clip_length,
        frames_per_clip=release.frames_per_clip,
        preprocessing=IMPORTED,
        arithmetic=IMPORTED,
        options={"video": {}, "text": {}},
        version=package_version(),
    )


def _look(config: ImportConfig) -> tuple[Release, int]:
    """Whose features these are, and of how many layers."""
    problem: FeatureFileError | None = None
    for vid in dict.fromkeys(row.vid for row in read_annotations(config.annotations)):
        try:
            path = find_features(config.video_dir, vid)
            return RELEASES[path.suffix], read_video(path, config.pooling).shape[1]
        except FeatureFileError as error:
            problem = problem or error
    assert problem is not None  # annotations are never empty
    raise InputError(f"{config.video_dir}: none of the videos can be used; the first: {problem}")


def _layers(name: str, given: tuple[int, ...] | None, count: int, depth: int) -> tuple[int, ...]:
    if given is not None and len(given) != count:
        raise InputError(f"{name}: {len(given)} are named, the files hold {count}")
    return given or tuple(range(depth - count, depth))
