"""How do features that others released become a feature set of ours?"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.config import ImportConfig, StreamConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import package_version
from data_pipeline.extraction.job import Progress, Summary, make_shards
from data_pipeline.extraction.plan import PlannedShard, PlannedVideo
from data_pipeline.extraction.pool import Seconds, VideoDone, Workers
from data_pipeline.features.samples import Half, Sample, StoredQuery
from data_pipeline.features.shards import IMPORTED, Provenance
from data_pipeline.features.writing import Failure, ShardWriter
from data_pipeline.importing.files import FeatureFileError
from data_pipeline.importing.streams import Names, Stream, half, join, resolve
from data_pipeline.video.video import clip_count

LOOKED_AT = 1000
"""Videos whose files are looked for until some are found."""

MEASURED = 20
"""Videos whose lengths are compared with the annotations' before anything is written ..."""

MOST = 3
"""... of which at least so many, and most, differ where the clip length is wrong."""


def import_features(
    config: ImportConfig, report: Callable[[Progress], None] = lambda _: None
) -> Summary:
    """Make what is missing of a feature set; `report` is called about once a second.

    A video whose features are missing or unusable is recorded as failed, and so is a query, with
    its video where it has no other. Raises InputError for bad inputs, for a clip length that most
    videos do not have, and for an output folder that holds another set.
    """
    annotations = read_annotations(config.annotations)
    source = find_streams(config, annotations)
    provenance = provenance_of(config, source, annotations)
    check_lengths(config, source, annotations)

    def workers() -> Workers:
        cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        return Workers(Importer, (config, source), min(config.workers or cpus, cpus))

    folder = config.video_dir or config.features
    assert folder is not None  # the configuration has seen to it
    return make_shards(config, provenance, folder, workers, report)


@dataclass(frozen=True)
class Source:
    """Where the features of videos and of queries are read."""

    streams: tuple[Stream, ...]
    text: Stream


def find_streams(config: ImportConfig, annotations: Sequence[Annotation]) -> Source:
    """The streams of the configuration, each with the first pattern of which there are files.

    Raises InputError that names a stream of which there is none.
    """
    if not config.streams or config.text is None:
        raise InputError("streams and text: say what is read, or name a --preset")
    videos = [Names(vid) for vid in _vids(annotations)[:LOOKED_AT]]
    queries = [Names(row.vid, row.qid, row.query) for row in annotations[:LOOKED_AT]]

    def found(settings: dict[str, Any], names: list[Names], folder: Path | None) -> Stream:
        stream = StreamConfig.of(settings)
        apart, folder = folder is not None, folder or config.features
        assert folder is not None  # the configuration has seen to it
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of feature files")
        chosen = resolve(stream, folder, names, config.pooling, apart)
        if chosen is None:
            many = f"{len(names)} {'videos' if names is videos else 'queries'}"
            raise InputError(
                f"{folder}: {' or '.join(stream.patterns)}: no such file for any of {many}"
            )
        return chosen

    streams = tuple(found(stream, videos, config.video_dir) for stream in config.streams)
    return Source(streams, found(config.text, queries, config.text_dir))


def _vids(annotations: Sequence[Annotation]) -> list[str]:
    return list(dict.fromkeys(row.vid for row in annotations))


@dataclass(frozen=True)
class First:
    """What the first usable video's files hold."""

    layers: int
    widths: tuple[int, ...]
    """Of each stream."""
    text_width: int


def _first(config: ImportConfig, source: Source, annotations: Sequence[Annotation]) -> First:
    problem: FeatureFileError | None = None
    reader = Importer(config, source)
    for row in annotations[:LOOKED_AT]:
        names = Names(row.vid, row.qid, row.query)
        try:
            values = [stream.read(names).values for stream in source.streams]
            if source.text.of_words:
                source.text.load_words([row.query])
            text = source.text.read(names).values
            return First(
                reader.joined(names, Counter())[0].shape[1],
                tuple(each.shape[2] for each in values),
                text.shape[2],
            )
        except FeatureFileError as error:
            problem = problem or error
    assert problem is not None  # annotations are never empty
    folder = config.video_dir or config.features
    raise InputError(f"{folder}: none of the videos can be used; the first: {problem}")


def check_lengths(config: ImportConfig, source: Source, annotations: Sequence[Annotation]) -> None:
    """Raise InputError if the rows of most videos do not cover their durations.

    A few videos of other lengths are what every released set has; most, a wrong clip length.
    """
    if config.spread:
        return
    durations = {row.vid: row.duration for row in annotations}
    measured, other, first = 0, 0, ""
    for vid, seconds in islice(durations.items(), LOOKED_AT):
        try:
            rows = [stream.read(Names(vid)).found for stream in source.streams]
        except FeatureFileError:
            continue
        expected = clip_count(seconds, config.clip_length)
        nearest = min(rows, key=lambda count: abs(count - expected))
        measured += 1
        if _differ(nearest, expected):
            other += 1
            place = source.streams[0].paths(Names(vid))[0]
            first = first or (
                f"{place}: {nearest} clips of {config.clip_length:g} s, the annotations say "
                f"{seconds:g} s"
            )
        if measured == MEASURED:
            break
    if other >= MOST and 2 * other > measured:
        raise InputError(
            f"{first}, and so on for {other} of {measured} videos; is clip_length right?"
        )


class Importer:
    """Makes shards of one split, one at a time."""

    def __init__(self, config: ImportConfig, source: Source) -> None:
        self._config, self._source = config, source
        self._layers: int | None = None

    def load(self) -> None:
        """Read the vectors of words, where queries are made of them."""
        if self._source.text.of_words:
            rows = read_annotations(self._config.annotations)
            self._source.text.load_words(row.query for row in rows)

    def make(self, shard: PlannedShard) -> Iterator[VideoDone | Seconds]:
        """Make and commit a shard, telling of each video."""
        failures: list[Failure] = []
        counted: Counter[str] = Counter()
        unread: list[tuple[int | str, int]] = []
        with ShardWriter(self._config.output, shard.name) as writer:
            for video in shard.videos:
                began = time.perf_counter()
                of_video, cut = Counter[str](), list[tuple[int | str, int]]()
                left_out: list[Failure] = []
                try:
                    sample = self._sample(video, of_video, cut, left_out)
                except FeatureFileError as error:
                    failures.append(Failure(video.vid, error.kind, str(error)))
                    yield VideoDone(video.vid, failure=failures[-1])
                    continue
                counted += of_video
                failures += left_out
                unread += cut
                read = time.perf_counter()
                writer.add(sample)
                seconds = Seconds(decode=read - began, write=time.perf_counter() - read)
                yield VideoDone(video.vid, len(sample.video), seconds=seconds)
            began = time.perf_counter()
            writer.commit(failures, unread, counted)
        yield Seconds(write=time.perf_counter() - began)

    def joined(self, names: Names, counted: Counter[str]) -> tuple[Half, list[int]]:
        """(L, K, Dv) of a video and the rows of each of its streams."""
        return join(self._source.streams, names, counted)

    def _sample(
        self,
        video: PlannedVideo,
        counted: Counter[str],
        unread: list[tuple[int | str, int]],
        failures: list[Failure],
    ) -> Sample:
        """The sample of a video; what was done to it is counted, sentences cut go to `unread`.

        Queries that cannot be used are left out and go to `failures`, unless all are: then the
        video is what fails.
        """
        features, found = self.joined(Names(video.vid), counted)
        annotated = video.annotations[0].duration
        features, duration = self._timed(features, found, annotated, counted)
        end = len(features) * self._config.clip_length
        behind = sum(min(w) >= end for row in video.annotations for w in row.windows or ())
        if behind:
            counted["windows behind the last row that was taken, which train nothing"] += behind
        texts: list[Half] = []
        rows: list[Annotation] = []
        for row in video.annotations:
            try:
                text, left = self._text(row, features.shape[1], counted)
            except FeatureFileError as error:
                failures.append(Failure(video.vid, error.kind, str(error), row.qid))
                continue
            texts.append(text)
            rows.append(row)
            if left:
                unread.append((row.qid, left))
        if not rows:
            raise FeatureFileError(failures[-1].cause, failures[-1].kind)
        ends = np.cumsum([len(text) for text in texts]).tolist()
        return Sample(
            vid=video.vid,
            duration=duration,
            clip_length=self._config.clip_length,
            video=features,
            text=np.concatenate(texts),
            queries=tuple(
                StoredQuery(annotation, (end - len(text), end))
                for annotation, text, end in zip(rows, texts, ends, strict=True)
            ),
        )

    def _text(self, row: Annotation, layers: int, counted: Counter[str]) -> tuple[Half, int]:
        """(T, K, Dt) of a query, and how many tokens beyond the maximum its file has."""
        names = Names(row.vid, row.qid, row.query)
        read = self._source.text.read(names, counted)
        values = read.values
        if layers == 1:  # of a single video layer the deepest text layer is the counterpart
            values = values[:, -1:]
        if values.shape[1] != layers:
            raise FeatureFileError(
                f"{self._source.text.paths(names)[0]}: {values.shape[1]} layers, the video has "
                f"{layers}",
                "other contents",
            )
        return half(f"query {row.qid}", values), read.found - len(values)

    def _timed(
        self, features: Half, found: list[int], annotated: float, counted: Counter[str]
    ) -> tuple[Half, float]:
        """The features on the grid of clips, and the duration that they cover.

        That is the annotations', or, where there are some clips more or less, the clips' own.
        """
        clip_length, rows = self._config.clip_length, min(found)
        expected = clip_count(annotated, clip_length)
        if rows == expected and len(features) == rows:
            return features, annotated
        nearest = min(found, key=lambda count: abs(count - expected))
        if self._config.spread and _differ(nearest, expected):
            counted["videos whose rows were spread over their duration"] += 1
            return spread(features, annotated, clip_length), annotated
        if rows != expected:
            counted["videos of more or fewer rows than annotated"] += 1
            counted["rows more or fewer than annotated"] += abs(rows - expected)
        return features, len(features) * clip_length


def _differ(rows: int, expected: int) -> bool:
    """Whether a count of rows is another length, and not a rounding of the annotated one."""
    return abs(rows - expected) > max(2, 0.1 * expected)


def spread(features: Half, duration: float, clip_length: float) -> Half:
    """Rows that cover `duration` evenly, as means over clips of `clip_length` seconds."""
    clips = clip_count(duration, clip_length)
    edges = np.minimum(np.arange(clips + 1) * clip_length / duration, 1.0) * len(features)
    sums = np.zeros((len(features) + 1, *features.shape[1:]), dtype=np.float64)
    np.cumsum(features, axis=0, dtype=np.float64, out=sums[1:])
    whole = np.minimum(edges.astype(int), len(features) - 1)
    part = (edges - whole)[:, None, None]
    upto = sums[whole] + part * features[whole].astype(np.float64)  # integral up to each edge
    means: Half = (np.diff(upto, axis=0) / np.diff(edges)[:, None, None]).astype(np.float16)
    return means


def provenance_of(
    config: ImportConfig, source: Source, annotations: Sequence[Annotation]
) -> Provenance:
    """What the configuration and the first usable video's files tell."""
    first = _first(config, source, annotations)
    widths = (*first.widths, first.text_width)

    def described(streams: Sequence[Stream], widths: Sequence[int]) -> dict[str, Any]:
        return {
            "streams": [
                {"name": stream.name, "width": width, "l2": stream.config.l2}
                | ({"rows": stream.config.rows} if stream.config.rows else {})
                for stream, width in zip(streams, widths, strict=True)
            ]
        }

    names = " + ".join(stream.name for stream in source.streams)
    return Provenance(
        video_encoder=config.video_encoder or names,
        video_weights=None,
        video_layers=_layers("video", config.video_layers, first.layers, config.video_depth),
        text_encoder=config.text_encoder or source.text.name,
        text_weights=None,
        text_layers=_layers("text", config.text_layers, first.layers, config.text_depth),
        tokenizer=None,
        clip_length=config.clip_length,
        frames_per_clip=config.frames_per_clip,
        preprocessing=IMPORTED,
        arithmetic=IMPORTED,
        options={
            "video": described(source.streams, widths[:-1]),
            "text": described([source.text], widths[-1:]),
        },
        version=package_version(),
        preset=config.preset,
    )


def _layers(
    name: str, given: tuple[int, ...] | None, count: int, depth: int | None
) -> tuple[int, ...]:
    if given is not None and len(given) != count:
        raise InputError(f"{name}_layers: {len(given)} are named, the files hold {count}")
    deepest = max(depth or count, count)
    return given or tuple(range(deepest - count, deepest))
