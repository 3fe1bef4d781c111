"""By which vectors do clips and sentences find each other before either has seen the other?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import SentenceFeatures
from data_pipeline.features.shards import FeatureSet
from model.interface import GroundingModel
from trainer.inference.predict import CLIPS_AT_ONCE

Half = NDArray[np.float16]
Floats = NDArray[np.float32]

Kind = Literal["projected", "joint"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""A model's own projections, or what encoders that share a space have stored."""


@dataclass(frozen=True)
class Stored:
    """What the index takes of a stored video: its id and (L, K, Dv), or for `joint` (L, J)."""

    vid: str
    clips: Half


class Vectors:
    """Vectors of length 1: of clips from stored features, of sentences from encoded ones.

    `longest` is the number of clips that the model sees at once; it knows the ends of what it sees.
    """

    def __init__(self, model: GroundingModel, longest: int, kind: Kind, joint: int | None) -> None:
        width = model.shared_width if kind == "projected" else joint
        if width is None:
            other = "joint" if kind == "projected" else "projected"
            lack = (
                f"a model of kind {model.config.kind} projects no clips beside sentences"
                if kind == "projected"
                else "the model's encoders share no space of videos and sentences"
            )
            raise InputError(f"--vectors {kind}: {lack}; try --vectors {other}")
        self.kind: Kind = kind
        self.width = width
        self.joint_width = joint
        self._model = model
        self._longest = longest
        self._device = next(model.parameters()).device

    def read(self, features: FeatureSet, index: int) -> Stored:
        """What is needed of a sample; Damaged as `FeatureSet.read`."""
        if self.kind == "projected":
            sample = features.read(index)
            return Stored(sample.vid, sample.video)
        _, vectors = features.read_joint(index)
        entry = features.samples[index]
        return Stored(entry.vid, vectors[: entry.clips])

    @torch.inference_mode()
    def of_clips(self, videos: Sequence[Stored]) -> list[Half]:
        """(L, width) of each video."""
        if self.kind == "joint":
            return [_unit(video.clips.astype(np.float32)).astype(np.float16) for video in videos]
        parts = [part for video in videos for part in stretches(video.clips, self._longest)]
        done: list[Half] = []
        together = max(1, CLIPS_AT_ONCE // max((len(part) for part in parts), default=1))
        for first in range(0, len(parts), together):
            some = parts[first : first + together]
            clips, mask = padded(some)
            vectors = self._model.clip_vectors(clips.to(self._device), mask.to(self._device))
            half = vectors.cpu().half().numpy()
            done += [row[: len(part)] for row, part in zip(half, some, strict=True)]
        each = iter(done)
        return [
            np.concatenate([next(each) for _ in stretches(video.clips, self._longest)])
            for video in videos
        ]

    @torch.inference_mode()
    def of_sentences(self, texts: Sequence[SentenceFeatures]) -> Floats:
        """(Q, width) of the sentences."""
        if self.kind == "joint":
            joint = [text.joint for text in texts if text.joint is not None]
            return _unit(np.stack(joint).astype(np.float32))
        rows = []
        for text in texts:
            words = torch.from_numpy(text.features)[None].float().to(self._device)
            mask = torch.ones(words.shape[:2], dtype=torch.bool, device=self._device)
            rows.append(self._model.sentence_vectors(words, mask).cpu().numpy())
        return np.concatenate(rows)


def stretches(clips: Half, longest: int) -> list[Half]:
    """A video in as few parts as can be, about equally long, none of more than `longest` clips."""
    return np.array_split(clips, max(1, -(-len(clips) // longest)))


def padded(parts: Sequence[Half]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L, K, Dv) float16 and the mask (B, L) of parts (l, K, Dv)."""
    longest = max(len(part) for part in parts)
    clips = np.zeros((len(parts), longest, *parts[0].shape[1:]), np.float16)
    mask = np.zeros((len(parts), longest), bool)
    for row, part in enumerate(parts):
        clips[row, : len(part)] = part
        mask[row, : len(part)] = True
    return torch.from_numpy(clips), torch.from_numpy(mask)


def _unit(vectors: Floats) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-12), np.float32)
