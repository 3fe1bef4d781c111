"""What can be chosen about features: how they are made, taken in and read."""

import difflib
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

from data_pipeline.untrusted import shown

MOST = 1 << 20
"""Of what is counted: pairs of a batch, lanes, frames."""
LONGEST = 1 << 16
"""Clips or tokens that a configuration may pad to."""
MOST_WORKERS = 4096
"""Of what runs at the same time."""


def at_most(most: int, **values: int | None) -> None:
    """Raise ValueError that names the first of the values, if any, that is larger."""
    for name, value in values.items():
        if value is not None and value > most:
            raise ValueError(f"{name.replace('__', '.')} must be at most {most}")


Pooling = Literal["cls", "average", "none"]


@dataclass(frozen=True)
class EncoderConfig:
    """The frozen encoders that make features, and how they are run.

    Attributes:
        video: registered name of the video encoder
        video_layers: its layers to keep, from shallow to deep; negative ones count from the deepest
        video_weights: .safetensors or .pt file; default: the weights in the encoder's package
        video_options: further options of the video encoder
        text: registered name of the text encoder
        text_layers: its layers to keep, from shallow to deep
        text_weights: .safetensors or .pt file; default: the weights in the encoder's package
        text_options: further options of the text encoder
        tokenizer: a Hugging Face tokenizer.json; default: the one in the encoder's package
        checkpoint: of the encoders called clip: a local folder, or a name on the Hugging Face hub,
            that holds both
        revision: branch, tag or commit of a checkpoint on the hub; default: its main branch
        clip_length: seconds of a clip
        frames_per_clip: frames that the encoder sees of a clip; default: those it was trained with
        arithmetic: floating-point type of the encoders' weights and inputs
        device: `auto` is a CUDA device if there is one
        batch: clips that the video encoder sees at once, always, so that no result depends on
            others
        threads: processor threads of one encoder
    """

    video: str = "efficientnet-lite0"
    video_layers: tuple[int, ...] = (-4, -3, -2, -1)
    video_weights: Path | None = None
    video_options: dict[str, Any] = field(default_factory=dict)
    text: str = "all-minilm-l6-v2"
    text_layers: tuple[int, ...] = (-4, -3, -2, -1)
    text_weights: Path | None = None
    text_options: dict[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None
    checkpoint: str | None = None
    revision: str | None = None
    clip_length: float = 2.0
    frames_per_clip: int | None = None
    arithmetic: Literal["float32", "bfloat16"] = "float32"
    device: str = "auto"
    batch: int = 8
    threads: int = 1

    def __post_init__(self) -> None:
        if self.clip_length <= 0:
            raise ValueError("encoder.clip_length must be a positive number of seconds")
        if self.batch < 1 or self.threads < 1 or (self.frames_per_clip or 1) < 1:
            raise ValueError(
                "encoder.batch, encoder.threads and encoder.frames_per_clip must be at least 1"
            )
        at_most(MOST, encoder__batch=self.batch, encoder__frames_per_clip=self.frames_per_clip)
        at_most(MOST_WORKERS, encoder__threads=self.threads)


@dataclass(frozen=True)
class ShardingConfig:
    """A shard is closed when another video would exceed one of these.

    Attributes:
        videos: videos of a shard
        clips: clips of a shard, by the annotations' durations; 4 layers of 768 are 6 kB a clip
    """

    videos: int = 1000
    clips: int = 50_000

    def __post_init__(self) -> None:
        if self.videos < 1 or self.clips < 1:
            raise ValueError("sharding.videos and sharding.clips must be at least 1")


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """A job that makes a feature set.

    Attributes:
        annotations: annotation rows of the split, JSONL; extraction without any takes all videos
        output: folder of the feature set, or its URL in an object store
        split: its name, for the records; default: the name of the output folder
        sharding: which videos share a shard
        workers: actors that make shards; default: as many as there is room for. On a cluster that
            RAY_ADDRESS names, those beyond its room wait until it grows
        threshold: part of the videos that may fail before the job counts as failed
        retry_failed: make shards with failed videos again
    """

    annotations: Path | None = None
    output: str | Path
    split: str | None = None
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    workers: int | None = None
    threshold: float = 0.05
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers must be at least 1")
        at_most(MOST_WORKERS, workers=self.workers)
        if not 0 <= self.threshold <= 1:
            raise ValueError("threshold must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig(JobConfig):
    """Extraction from videos; a worker is an encoder with decoders of its own.

    Attributes:
        videos: folder of the videos, named by their ids, or its URL in an object store; without
            annotations, an archive: a folder with those below it, a prefix in a store, or a .txt
            file with one path or URL a line, of videos and of tars of videos (WebDataset's layout)
        captions: take a sample's .txt in a tar as a sentence about all of the video
        drop_removed: leave out of the features what is in the archive no more
        encoder: what features are made of
        gpus: GPUs of one encoder, 0.5 puts two on one
        decoders: actors that decode for one encoder; default: one without a GPU, else a fair part
            of the processors
        time_limit: seconds that decoding one video may take
        retries: times that a video is tried again whose decoder died or whose file could not be
            read
    """

    videos: str | Path
    captions: bool = False
    drop_removed: bool = False
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    gpus: float = 0.0
    decoders: int | None = None
    time_limit: float = 600.0
    retries: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus < 0 or self.time_limit <= 0 or self.retries < 0:
            raise ValueError("gpus and retries must not be negative, time_limit positive")
        if self.decoders is not None and self.decoders < 1:
            raise ValueError("decoders must be at least 1")
        at_most(MOST_WORKERS, decoders=self.decoders)


Axes = Literal["R D", "R K D", "K R D", "R K P D"]


@dataclass(frozen=True)
class StreamConfig:
    """Feature files of one kind, one for each video or each query.

    Attributes:
        pattern: path of a file below the folder, with {vid} or {qid} in it: slowfast/{vid}.npz; of
            several, the first of which there are files; "{vid}_rgb.npy + {vid}_opt.npy" joins
            files row by row before anything else. A .txt holds vectors of words, as GloVe's
        key: name of the array in an .npz, an HDF5 file or a mapping in a .pt, which may hold {vid}
            or {qid}; of several, the first that is there
        name: of the stream, for the records; default: the folder or the file that the pattern names
        l2: divide every row by its length, as the original loaders do (by the length + 1e-5)
        rows: rows, or tokens, that are taken from the start at most; none takes all
        skip: rows before those, such as a pooled vector that stands before the tokens
        axes: of the array: R rows, K layers, P patches, D width; where it has one fewer, K is 1
        width: D that files of this stream have, by which bare arrays are recognised
    """

    pattern: str | tuple[str, ...]
    key: str | tuple[str, ...] = ()
    name: str | None = None
    l2: bool = False
    rows: int | None = None
    skip: int = 0
    axes: Axes = "R D"
    width: int | None = None

    def __post_init__(self) -> None:
        for name, kind in KINDS_OF_STREAM.items():
            value = getattr(self, name)
            listed = name in ("pattern", "key") and isinstance(value, tuple)
            for each in value if listed else (value,):
                # A Boolean is an integer to Python.
                if not isinstance(each, kind) or (isinstance(each, bool) and kind is not bool):
                    raise ValueError(f"a stream's {name} cannot be {shown(each)}")
        least = min(1 if value is None else value for value in (self.rows, self.width))
        if least < 1 or self.skip < 0:
            raise ValueError("a stream's rows and width must be at least 1, skip not negative")
        if not self.patterns or not all(self.patterns):
            raise ValueError("a stream's pattern must name a file, such as slowfast/{vid}.npz")
        if self.axes not in get_args(Axes):
            raise ValueError(f"a stream's axes are one of {', '.join(get_args(Axes))}")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "StreamConfig":
        """A stream from a mapping of its keys; ValueError names one that is unknown."""
        known = [each.name for each in fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise ValueError(f"unknown key {shown(name)} of a stream; {hint}")
        if "pattern" not in settings:
            raise ValueError("a stream needs a pattern, such as slowfast/{vid}.npz")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in settings.items()
        }
        return cls(**values)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns to look for, in order."""
        return (self.pattern,) if isinstance(self.pattern, str) else self.pattern

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys to look for, in order."""
        return (self.key,) if isinstance(self.key, str) else self.key


KINDS_OF_STREAM: dict[str, type | UnionType] = {
    "pattern": str,
    "key": str,
    "name": str | None,
    "l2": bool,
    "rows": int | None,
    "skip": int,
    "axes": str,
    "width": int | None,
}


@dataclass(frozen=True, kw_only=True)
class ImportConfig(JobConfig):
    """Taking in features that others released.

    Attributes:
        preset: one of configs/import, by name, whose keys are set before any other; default: that
            whose layout the folder has
        features: folder of the feature files
        video_dir: folder of the videos' files, where they lie apart; patterns lose their folders
        text_dir: folder of the queries' files, where they lie apart
        streams: what makes a video's rows, concatenated in this order, which is part of trained
            weights; each a mapping with the keys of StreamConfig, {pattern, key, l2, rows, …}
        text: what makes a query's tokens, a mapping with the same keys
        clip_length: seconds that one row of the video features stands for
        spread: where a video's rows do not fit clip_length and its annotated duration, take them as
            spread evenly over it, and put them on the grid of clip_length
        pooling: of patch tokens, where files have them; none keeps all, side by side in one width
        video_encoder: what made the video features; default: the streams' names
        text_encoder: what made the text features; default: the stream's name
        video_depth: layers of the video encoder, of which the files hold the deepest ones
        text_depth: layers of the text encoder
        video_layers: which of its layers they are; default: the deepest ones
        text_layers: which of its layers they are; default: the deepest ones
        frames_per_clip: frames that the video encoder saw of a clip; 0 if that is not known
    """

    annotations: Path
    preset: str | None = None
    features: Path | None = None
    video_dir: Path | None = None
    text_dir: Path | None = None
    streams: tuple[dict[str, Any], ...] = ()
    text: dict[str, Any] | None = None
    clip_length: float = 2.0
    spread: bool = False
    pooling: Pooling = "cls"
    video_encoder: str | None = None
    text_encoder: str | None = None
    video_depth: int | None = None
    text_depth: int | None = None
    video_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None
    frames_per_clip: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_length <= 0:
            raise ValueError("clip_length must be a positive number of seconds")
        if self.features is None and (self.video_dir is None or self.text_dir is None):
            raise ValueError("features: name the folder of the feature files")
        if self.video_dir is not None and len(self.streams) > 1:
            raise ValueError("video_dir: of several streams, name the folder of all by features")
        for settings in (*self.streams, *([self.text] if self.text else [])):
            StreamConfig.of(settings)


@dataclass(frozen=True)
class OrderConfig:
    """In which order the pairs of an epoch are served.

    Attributes:
        lanes: canonical number of lanes; every world size must divide it
        window: pairs of a lane that are shuffled among each other; bounds what a lane may hold at
            once, and spreads the queries of one video
        bucket: serve pairs of similar length together: rounds of lanes x window pairs, each of
            videos about as long; a smaller round pads less, and has fewer videos in a batch
    """

    lanes: int = 64
    window: int = 64
    bucket: bool = False

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.window < 1:
            raise ValueError("order.lanes and order.window must be at least 1")
        at_most(MOST, data__order__lanes=self.lanes)


@dataclass(frozen=True)
class ShapesConfig:
    """To which lengths batches are padded, so that compiled code meets few shapes.

    A length takes the first of its list that is not below it, beyond the last a multiple of that:
    [32] pads to multiples of 32. An empty list pads to the longest of the batch. Padding changes no
    loss and no prediction but by rounding; the elements that dropout hits are others.

    Attributes:
        clips: lengths of videos
        tokens: lengths of sentences
        windows: numbers of ground-truth windows
    """

    clips: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("clips", "tokens", "windows"):
            sizes = getattr(self, name)
            if list(sizes) != sorted(set(sizes)) or min(sizes, default=1) < 1:
                raise ValueError(
                    f"data.shapes.{name} {list(sizes)} must be numbers from 1 on, each above the "
                    "one before"
                )
            at_most(LONGEST, **{f"data__shapes__{name}": max(sizes, default=1)})


def padded(length: int, sizes: tuple[int, ...]) -> int:
    """What `length` is padded to: see `ShapesConfig`."""
    if not sizes:
        return length
    fitting = [size for size in sizes if size >= length]
    return fitting[0] if fitting else -(-length // sizes[-1]) * sizes[-1]


@dataclass(frozen=True)
class ReadingConfig:
    """How a process reads; none of it changes a batch.

    Attributes:
        buffer_mb: memory in which a process keeps videos between two of their queries; what does
            not fit is read again
        connections: samples that a process asks an object store for at the same time
        cache: local folder where what came from an object store is kept; none keeps nothing
        cache_gb: its limit; what was used longest ago goes first
    """

    buffer_mb: int = 1024
    connections: int = 16
    cache: Path | None = None
    cache_gb: float = 50.0

    def __post_init__(self) -> None:
        if self.buffer_mb < 0 or self.cache_gb <= 0 or self.connections < 1:
            raise ValueError(
                "data.reading: buffer_mb must not be negative, cache_gb positive, connections "
                "at least 1"
            )
        at_most(MOST_WORKERS, data__reading__connections=self.connections)


@dataclass(frozen=True)
class DataConfig:
    """The features of an experiment, and how they become batches.

    Attributes:
        name: what the data are called, in records, reports and on model cards; none leaves them
            without a name. (Whose convention they are scored by is eval.dataset.)
        train: feature shards to learn from, a folder or a URL (s3://bucket/folder)
        selection: feature shards that choose the best epoch; none keeps the last epoch
        report: feature shards whose scores are reported, once, at the end
        batch_size: pairs of one training step over all ranks
        eval_batch_size: pairs of one evaluation step over all ranks
        last_batch: what becomes of the pairs that do not fill a batch: left out of this epoch, or
            filled up with the epoch's first pairs
        workers: loader processes per rank; 0 reads in the training process
        prefetch: batches that each worker keeps ready
        skip_damaged: go on where stored samples are damaged: in training the next pair of the order
            stands in for one that cannot be read, in evaluation it is left out; all are counted
        clip_dropout: probability with which a clip of a training pair is zeroed
        text_dropout: probability with which a token of a training pair's sentence is zeroed
        domain: take only the videos of this domain, as TVSum and YouTube Highlights name them
        fold: of `folds` parts of each domain's videos the one that is held out: training takes the
            others, selection and report it alone; none takes every video
        folds: into how many parts videos are dealt
        provenance: what the features must have been made with, by the names of the manifest's
            provenance: {video_encoder: internvideo2-1b, clip_length: 2.0}; anything else is free
        order: in which order pairs are served
        shapes: to which lengths batches are padded
        resident: read the features of every split once and keep them in memory, the GPU's where
            there is one, else memory that the ranks of a host share; batches are the same
        resident_gb: most that those of a split may take there; none takes nine tenths of what is
            free, which in a container may be more than it is allowed
        reading: how a process reads them
    """

    name: str | None = None
    train: str = "features/train"
    selection: str | None = None
    report: str | None = None
    batch_size: int = 32
    eval_batch_size: int = 64
    last_batch: Literal["drop", "wrap"] = "drop"
    workers: int = 0
    prefetch: int = 4
    skip_damaged: bool = False
    clip_dropout: float = 0.0
    text_dropout: float = 0.0
    domain: str | None = None
    fold: int | None = None
    folds: int = 5
    provenance: dict[str, Any] = field(default_factory=dict)
    order: OrderConfig = field(default_factory=OrderConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    resident: bool = False
    resident_gb: float | None = None
    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.eval_batch_size < 1:
            raise ValueError("data.batch_size and data.eval_batch_size must be at least 1")
        at_most(MOST, data__batch_size=self.batch_size, data__eval_batch_size=self.eval_batch_size)
        at_most(MOST_WORKERS, data__workers=self.workers, data__prefetch=self.prefetch)
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError("data.workers must not be negative, data.prefetch at least 1")
        if not (0 <= self.clip_dropout < 1 and 0 <= self.text_dropout < 1):
            raise ValueError("data.clip_dropout and data.text_dropout must be in [0, 1)")
        if self.resident_gb is not None and not 0 < self.resident_gb < math.inf:
            raise ValueError("data.resident_gb must be a positive number of gigabytes")
        if self.folds < 2 or not 0 <= (self.fold or 0) < self.folds:
            raise ValueError("data.folds must be at least 2, data.fold from 0 to data.folds - 1")
