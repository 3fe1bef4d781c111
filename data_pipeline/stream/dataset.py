"""How does a program of somebody else's read stored pairs? As a map-style torch `Dataset`.

    pairs = PairDataset(FeatureSet("features/train"))
    loader = DataLoader(pairs, batch_size=32, shuffle=True, collate_fn=PairDataset.collate)

Training itself uses `PairStream`, which reads faster, and exactly in its own order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_pipeline.annotations import Annotation
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.batches import BatchBuffer, PairBatch
from data_pipeline.stream.order import Pairs, list_pairs


@dataclass(frozen=True)
class Pair:
    """A video and a sentence: `video` (L, K, Dv) and `text` (T, K, Dt), float16.

    `clip_length` is in seconds; windows and saliency stand in the annotation. `sentences` are all
    about the video.
    """

    video: Tensor
    text: Tensor
    annotation: Annotation
    clip_length: float
    sentences: tuple[str, ...] = ()


class PairDataset(Dataset[Pair]):
    """All pairs of a feature set, in the order in which they are stored."""

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self._pairs: Pairs = list_pairs(features)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        """Pair `index`, by one read of its sample; Damaged as `FeatureSet.read`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        number = int(self._pairs.sample_of(np.array([index % len(self)]))[0])
        sample = self.features.read(number)
        query = sample.queries[index % len(self) - self._pairs.first.item(number)]
        text = sample.text[slice(*query.tokens)]
        video, words = (torch.from_numpy(np.array(each)) for each in (sample.video, text))
        sentences = tuple(each.annotation.query for each in sample.queries)
        return Pair(video, words, query.annotation, sample.clip_length, sentences)

    @staticmethod
    def collate(pairs: Sequence[Pair]) -> PairBatch:
        """A padded batch with its training targets, as the trainer's models take it."""
        clips, tokens = (max(map(len, each)) for each in zip(*_features(pairs), strict=True))
        first = pairs[0]
        buffer = BatchBuffer(len(pairs), clips, tokens, _shape(first.video), _shape(first.text))
        for pair in pairs:
            size = len(pair.video), len(pair.text)
            video, text = buffer.row(*size)
            video[:], text[:] = pair.video.numpy(), pair.text.numpy()
            told = pair.annotation, pair.clip_length
            buffer.add(*size, *told, repeated=False, sentences=pair.sentences)
        return buffer.finish([])


def _features(pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    return [(pair.video, pair.text) for pair in pairs]


def _shape(features: Tensor) -> tuple[int, int]:
    _, layers, width = features.shape
    return layers, width
