"""What can be chosen about features: how they are made, taken in and read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Pooling = Literal["cls", "average"]


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
        annotations: annotation rows of the split, JSONL
        output: folder of the feature set, or its URL in an object store
        split: its name, for the records; default: the name of the output folder
        sharding: which videos share a shard
        workers: actors that make shards; default: as many as there is room for
        threshold: part of the videos that may fail before the job counts as failed
        retry_failed: make shards with failed videos again
    """

    annotations: Path
    output: str | Path
    split: str | None = None
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    workers: int | None = None
    threshold: float = 0.05
    retry_failed: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError("workers must be at least 1")
        if not 0 <= self.threshold <= 1:
            raise ValueError("threshold must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig(JobConfig):
    """Extraction from videos; a worker is an encoder with decoders of its own.

    Attributes:
        videos: folder of the videos, named by their ids, or its URL in an object store
        encoder: what features are made of
        gpus: GPUs of one encoder, 0.5 puts two on one
        decoders: actors that decode for one encoder; default: one without a GPU, else a fair part
            of the processors
        time_limit: seconds that decoding one video may take
        retries: times that a video is tried again whose decoder died or whose file could not be
            read
    """

    videos: str | Path
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


@dataclass(frozen=True, kw_only=True)
class ImportConfig(JobConfig):
    """Taking in features that others released.

    Attributes:
        video_dir: folder of the videos' feature files, named by their ids
        text_dir: folder of the queries' feature files, named by their qids
        clip_length: seconds that one row of the video features stands for
        pooling: of the patch tokens of R2-Tuning's files
        video_encoder: what made the video features; default: what the release used
        text_encoder: what made the text features; default: what the release used
        video_layers: which of its layers they are; default: the deepest ones
        text_layers: which of its layers they are; default: the deepest ones
    """

    video_dir: Path
    text_dir: Path
    clip_length: float = 2.0
    pooling: Pooling = "cls"
    video_encoder: str | None = None
    text_encoder: str | None = None
    video_layers: tuple[int, ...] | None = None
    text_layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip_length <= 0:
            raise ValueError("clip_length must be a positive number of seconds")


@dataclass(frozen=True)
class OrderConfig:
    """In which order the pairs of an epoch are served.

    Attributes:
        lanes: canonical number of lanes; every world size must divide it
        window: pairs of a lane that are shuffled among each other; bounds what a lane may hold at
            once, and spreads the queries of one video
        bucket: serve pairs of similar length together, within the windows
    """

    lanes: int = 64
    window: int = 64
    bucket: bool = False

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.window < 1:
            raise ValueError("order.lanes and order.window must be at least 1")


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


@dataclass(frozen=True)
class DataConfig:
    """The features of an experiment, and how they become batches.

    Attributes:
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
        provenance: what the features must have been made with, by the names of the manifest's
            provenance: {video_encoder: internvideo2-1b, clip_length: 2.0}; anything else is free
        order: in which order pairs are served
        reading: how a process reads them
    """

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
    provenance: dict[str, Any] = field(default_factory=dict)
    order: OrderConfig = field(default_factory=OrderConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.eval_batch_size < 1:
            raise ValueError("data.batch_size and data.eval_batch_size must be at least 1")
        if self.workers < 0 or self.prefetch < 1:
            raise ValueError("data.workers must not be negative, data.prefetch at least 1")
        if not (0 <= self.clip_dropout < 1 and 0 <= self.text_dropout < 1):
            raise ValueError("data.clip_dropout and data.text_dropout must be in [0, 1)")
