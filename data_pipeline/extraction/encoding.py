"""How do a video and a sentence become features? One code path, for extraction and prediction."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.checkpoint import Checkpoint, find_checkpoint
from data_pipeline.extraction.weights import Safetensors, find_file, read_weights
from data_pipeline.features.samples import Half
from data_pipeline.features.shards import Provenance
from data_pipeline.storage import Location
from data_pipeline.untrusted import read_text
from data_pipeline.video.video import VideoFile, clip_count
from model.backbones import (
    TextEncoder,
    VideoEncoder,
    resolve_layers,
    text_encoder,
    video_encoder,
)

Key = TypeVar("Key")
Module = TypeVar("Module", VideoEncoder, TextEncoder)
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoFeatures:
    """`features` (L, K, Dv) of the clips of a video of `duration` seconds, or of a range of it.

    `joint` (L, J) are the clips in the space that the encoders share; None where they share none.
    `warnings` say, a line each, what of the file is damaged.
    """

    features: Half
    duration: float
    clip_length: float
    joint: Half | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClipFeatures:
    """`features` (L, K, Dv) of the clips of a video; `joint` as in `VideoFeatures`."""

    features: Half
    joint: Half | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class SentenceFeatures:
    """`features` (T, K, Dt) of a sentence, and its vector `joint` (J,) in the shared space.

    `unread` tokens at its end are beyond what the encoder reads.
    """

    features: Half
    joint: Half | None = None
    unread: int = 0


class FeatureEncoder:
    """The frozen video and text encoders of a configuration, loaded when first used.

    A clip's features are the same bytes whatever else is encoded with it: the batch always has
    `batch` clips (the last one is filled up), a sentence is encoded alone, and the number of
    threads is fixed while encoding.

    Raises InputError for unknown encoders, options or layers, for an encoder whose package is not
    installed, and for weights that are missing, unreadable or of another model.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(automatic if config.device == "auto" else config.device)
        self._dtype: torch.dtype = getattr(torch, config.arithmetic)
        with torch.device("meta"):  # attributes only: a large model costs nothing here
            self._unloaded = video, text = self._build_video(), self._build_text()
        self.frames_per_clip = config.frames_per_clip or video.frames_per_clip
        self.image_size = video.image_size
        self.crop = video.crop
        self._mean, self._std = video.mean, video.std
        self._video_layers = _layers("encoder.video_layers", config.video_layers, video.depth)
        self._text_layers = _layers("encoder.text_layers", config.text_layers, text.depth)

    @cached_property
    def provenance(self) -> Provenance:
        """How the features are made; hashes the weights."""
        config, size = self.config, self.image_size
        shown = f"squeezed to {size} x {size}"
        if self.crop is not None:
            shown = f"shorter side {round(size / self.crop)}, centre {size} x {size}"
        return Provenance(
            video_encoder=config.video,
            video_weights=self._hash("video", config.video),
            video_layers=tuple(self._video_layers),
            text_encoder=config.text,
            text_weights=self._hash("text", config.text),
            text_layers=tuple(self._text_layers),
            tokenizer=Location(self._tokenizer).sha256(),
            clip_length=config.clip_length,
            frames_per_clip=self.frames_per_clip,
            preprocessing=(f"{shown} (bicubic), RGB / 255, mean {self._mean}, std {self._std}"),
            arithmetic=config.arithmetic,
            options={"video": config.video_options, "text": config.text_options},
            version=package_version(),
            batch=config.batch,
            threads=config.threads,
            origin=self._checkpoint.name if self.uses_checkpoint else None,
        )

    def pinned(self) -> EncoderConfig:
        """The configuration that means the same files tomorrow: with the commit on the hub."""
        if not self.uses_checkpoint:
            return self.config
        return replace(self.config, revision=self._checkpoint.revision)

    def load(self) -> None:
        """Load both encoders now."""
        _ = self._video, self._text

    def encode_video(
        self,
        path: str | Path,
        start: float = 0.0,
        end: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> VideoFeatures:
        """Features of a video file, or of the clips from `start` to `end` seconds of it.

        `progress` is told the share that is done, in [0, 1], after each clip; what it raises ends
        the work. What is damaged is passed over and told in `warnings`. Raises InputError for a
        file of which nothing can be decoded.
        """
        video = VideoFile(path, damage="bear")
        end = video.info.duration if end is None else min(end, video.info.duration)
        clips = video.clips(
            self.config.clip_length,
            self.frames_per_clip,
            self.image_size,
            start,
            end,
            crop=self.crop,
        )
        if progress is not None:
            total = clip_count(end - start, self.config.clip_length)
            clips = _watched(clips, total, progress)
        pieces: Iterator[Frames | None] = chain(clips, [None])
        ((_, result),) = self.encode_clips((path, piece) for piece in pieces)
        if isinstance(result, InputError):
            raise result
        length = self.config.clip_length
        return VideoFeatures(result.features, end - start, length, result.joint, video.warnings)

    def encode_clips(
        self, pieces: Iterable[tuple[Key, Frames | InputError | None]]
    ) -> Iterator[tuple[Key, ClipFeatures | InputError]]:
        """Encode videos that arrive as pieces (n, T, H, W, 3) of clips, those of a video in order.

        None ends a video, an InputError abandons it. Yields features or the error for each, as soon
        as it is known. Clips of all videos share batches; a batch and the features of the videos
        that have begun are all that is held.
        """
        begun: dict[Key, _Video[Key]] = {}
        batch: list[tuple[_Video[Key], NDArray[np.uint8]]] = []
        for key, piece in pieces:
            video = begun.setdefault(key, _Video(key))
            if isinstance(piece, InputError):
                del begun[key]
                batch = [item for item in batch if item[0] is not video]
                yield key, piece
                continue
            if piece is None:
                video.complete = True
            else:
                for clip in piece:
                    batch.append((video, clip))
                    video.waiting += 1
                    if len(batch) == self.config.batch:
                        self._encode_batch(batch)
            for done in [v for v in begun.values() if v.complete and not v.waiting]:
                del begun[done.key]
                yield done.key, done.result()
        self._encode_batch(batch)
        for rest in begun.values():
            yield rest.key, rest.result()

    def encode_text(self, sentences: Sequence[str]) -> list[Half]:
        """(T, K, Dt) of each sentence, T its own number of tokens."""
        return [each.features for each in self.encode_sentences(sentences)]

    def encode_sentences(
        self, sentences: Sequence[str], together: int = 1
    ) -> list[SentenceFeatures]:
        """Features of each sentence, (T, K, Dt) with T its own number of tokens.

        At most `together` sentences of one T are encoded at once, which takes a third of the time
        of one by one; their last bits may then depend on each other.
        """
        asked = self._asked(self._text_layers, self._text.depth)
        features: list[SentenceFeatures | None] = [None] * len(sentences)
        with self._arithmetic():
            tokens = [self._text.tokenize([sentence]) for sentence in sentences]
            by_length: dict[int, list[int]] = {}
            for place, (ids, _) in enumerate(tokens):
                by_length.setdefault(ids.shape[1], []).append(place)
            for places in by_length.values():
                for first in range(0, len(places), together):
                    some = places[first : first + together]
                    ids, mask = (
                        torch.cat([tokens[place][part] for place in some]).to(self._device)
                        for part in (0, 1)
                    )
                    for place, each in zip(
                        some, self._encode_tokens(ids, mask, asked), strict=True
                    ):
                        unread = self._text.unread(sentences[place])
                        features[place] = replace(each, unread=unread)
        return [each for each in features if each is not None]

    def _encode_tokens(self, ids: Tensor, mask: Tensor, asked: list[int]) -> list[SentenceFeatures]:
        """Features of the sentences (N, T) of one length."""
        states = self._text(ids, mask, asked)  # (N, T, K, Dt)
        joint = self._text.project(states[:, :, -1], ids, mask) if self.joint_width else None
        own = states[:, :, : len(self._text_layers)]
        return [
            SentenceFeatures(
                _half(own[row][mask[row]]), None if joint is None else _half(joint[row])
            )
            for row in range(len(ids))
        ]

    @cached_property
    def joint_width(self) -> int | None:
        """J, the width of the space that both encoders lead to; None where they share none."""
        if self.config.video != self.config.text:
            return None
        video, text = self._unloaded
        width = video.joint_width_in(self._stored("video", self.config.video))
        return (
            width if width == text.joint_width_in(self._stored("text", self.config.text)) else None
        )

    @property
    def video_shape(self) -> tuple[int, int]:
        """(K, Dv)."""
        return len(self._video_layers), self._unloaded[0].width

    @property
    def text_shape(self) -> tuple[int, int]:
        """(K, Dt)."""
        return len(self._text_layers), self._unloaded[1].width

    def _asked(self, layers: list[int], depth: int) -> list[int]:
        """The layers to compute: the shared space is reached from the deepest one."""
        beyond = self.joint_width and layers[-1] != depth - 1
        return [*layers, depth - 1] if beyond else layers

    def _encode_batch(self, batch: "list[tuple[_Video[Key], NDArray[np.uint8]]]") -> None:
        """Encode clips, hand each video its own, and empty the batch."""
        if not batch:
            return
        first = batch[0][1]
        clips = np.zeros((self.config.batch, *first.shape), dtype=np.uint8)
        for row, (_, clip) in enumerate(batch):
            clips[row] = clip
        with self._arithmetic():
            pixels = torch.from_numpy(clips).to(self._device)  # (B, T, H, W, 3)
            frames = pixels.permute(0, 4, 1, 2, 3).float() / 255  # (B, 3, T, H, W)
            frames = (frames - self._channels(self._mean)) / self._channels(self._std)
            asked = self._asked(self._video_layers, self._video.depth)
            pooled = self._video(frames.to(self._dtype), asked)  # (B, K, Dv)
            features = _half(pooled[:, : len(self._video_layers)])
            joint = _half(self._video.project(pooled[:, -1])) if self.joint_width else None
        for row, (video, _) in enumerate(batch):
            video.features.add(features[row])
            if joint is not None:
                video.joint.add(joint[row])
            video.waiting -= 1
        batch.clear()

    def _channels(self, values: tuple[float, float, float]) -> Tensor:
        return torch.tensor(values, device=self._device).view(3, 1, 1, 1)

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Without gradients, and with all that could change a sum's order fixed."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            with (
                torch.inference_mode(),
                torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False),
            ):
                yield
        finally:
            torch.set_num_threads(threads)

    @cached_property
    def _video(self) -> VideoEncoder:
        return self._load(self._unloaded[0], "video", self.config.video)

    @cached_property
    def _text(self) -> TextEncoder:
        return self._load(self._unloaded[1], "text", self.config.text)

    def _build_video(self) -> VideoEncoder:
        options = dict(self.config.video_options)
        if self.config.video in FROM_CHECKPOINTS:
            files = self._checkpoint
            options |= {"config": files.config, "preprocessor": files.preprocessor}
        with _faults(self._called("video", self.config.video)):
            return video_encoder(self.config.video, **options)

    def _build_text(self) -> TextEncoder:
        options = dict(self.config.text_options)
        if self.config.text in FROM_CHECKPOINTS:
            options |= {"config": self._checkpoint.config}
        with _faults(self._called("text", self.config.text)):
            tokenizer = read_text(self._tokenizer)
            return text_encoder(self.config.text, tokenizer, **options)

    def _called(self, kind: str, name: str) -> str:
        """How faults call the video or the text encoder."""
        if name in FROM_CHECKPOINTS:
            return str(self._checkpoint.folder)
        return f"encoder.{kind} {name}"

    def _load(self, encoder: Module, kind: str, name: str) -> Module:
        with _faults(str(self._weights(kind, name)[0])):
            # On the meta device it takes the file's own tensors: nothing is held twice.
            encoder.load_official(self._stored(kind, name))
        return encoder.requires_grad_(False).eval().to(self._device, self._dtype)

    def _stored(self, kind: str, name: str) -> Mapping[str, Tensor]:
        files = self._weights(kind, name)
        return Safetensors(files) if len(files) > 1 else read_weights(files[0])

    def _weights(self, kind: str, name: str) -> Sequence[Path]:
        if name in FROM_CHECKPOINTS:
            return self._checkpoint.weights
        given: Path | None = getattr(self.config, f"{kind}_weights")
        return [find_file(f"{kind}_weights", given, name)]

    def _hash(self, kind: str, name: str) -> str:
        """SHA-256 of the weights."""
        if name in FROM_CHECKPOINTS:
            return self._checkpoint.sha256
        (file,) = self._weights(kind, name)
        return Location(file).sha256()

    @cached_property
    def _tokenizer(self) -> Path:
        if self.config.text in FROM_CHECKPOINTS and self.config.tokenizer is None:
            return self._checkpoint.tokenizer
        return find_file("tokenizer", self.config.tokenizer, self.config.text)

    @property
    def uses_checkpoint(self) -> bool:
        """Whether an encoder comes from a Hugging Face checkpoint."""
        return bool({self.config.video, self.config.text} & FROM_CHECKPOINTS)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        if self.config.checkpoint is None:
            raise InputError(
                "encoder.checkpoint: set it to the folder of a CLIP-like checkpoint, or to its "
                "name on the Hugging Face hub"
            )
        return find_checkpoint(self.config.checkpoint, self.config.revision)


FROM_CHECKPOINTS = frozenset({"clip"})
"""Encoders whose weights, tokenizer and settings are those of a Hugging Face checkpoint."""

_BLOCK = 1024


class _Rows:
    """Rows that come one by one.

    They go into blocks: kept one by one between the encoder's large temporaries, those of an hour
    of video would hold the heap apart and memory would grow by a gigabyte.
    """

    def __init__(self) -> None:
        self._blocks: list[Half] = []
        self._count = 0

    def add(self, row: Half) -> None:
        """Keep the next row."""
        if self._count % _BLOCK == 0:
            self._blocks.append(np.empty((_BLOCK, *row.shape), dtype=np.float16))
        self._blocks[-1][self._count % _BLOCK] = row
        self._count += 1

    def all(self) -> Half | None:
        """The rows in order; None if there were none."""
        return np.concatenate(self._blocks)[: self._count] if self._blocks else None


@dataclass(eq=False)
class _Video(Generic[Key]):
    """A video on its way through the encoder, with what is known of its clips."""

    key: Key
    features: _Rows = field(default_factory=_Rows)
    joint: _Rows = field(default_factory=_Rows)
    waiting: int = 0
    complete: bool = False

    def result(self) -> ClipFeatures | InputError:
        features, joint = self.features.all(), self.joint.all()
        assert features is not None
        if not all(np.isfinite(rows).all() for rows in (features, joint) if rows is not None):
            return InputError(f"{self.key}: its features exceed float16; encode in float32?")
        return ClipFeatures(features, joint)


def _watched(
    pieces: Iterable[Frames], total: int, progress: Callable[[float], None]
) -> Iterator[Frames]:
    """The clips one by one: the next is asked for when the batch with the last one is encoded."""
    done = 0
    for piece in pieces:
        for row in range(len(piece)):
            progress(done / total)
            yield piece[row : row + 1]
            done += 1
    progress(1.0)


def _half(x: Tensor) -> Half:
    return x.to(torch.float16).cpu().numpy()


def _layers(name: str, layers: Sequence[int], depth: int) -> list[int]:
    try:
        return resolve_layers(layers, depth)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


@contextlib.contextmanager
def _faults(what: str) -> Iterator[None]:
    """Faults of names, options, weights and installation as the user's."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"{what}: {error}") from error


def package_version() -> str:
    """Version of the installed package; a checkout that is not installed has none."""
    try:
        return metadata.version("sdst")
    except metadata.PackageNotFoundError:
        return "not installed"
