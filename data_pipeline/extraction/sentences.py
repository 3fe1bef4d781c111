"""How is a sentence that several rows share encoded once, whatever the number of workers and runs?

Such sentences are encoded ahead of the shards, a file of them being a task like a shard is, and
whoever makes a shard reads them there. The other sentences stand in one row of the plan: they are
encoded where that row is stored, and not kept twice. So every distinct sentence is encoded once, a
crash costs one file's work, and no worker holds more than a file's features, however many there
are.

    sentences/00000.npy     features of its sentences (tokens of all of them, K, Dt) float16, then,
                            where the encoders share a space, their vectors in it
    sentences/00000.json    how many tokens each has, and the file's SHA-256; written after it

They are kept for later runs, which make shards that were lost or whose videos failed; a complete
feature set does not need them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.extraction.encoding import ClipFeatures, SentenceFeatures
from data_pipeline.extraction.plan import SENTENCES
from data_pipeline.features.samples import Sample, StoredQuery, npy_header
from data_pipeline.features.shards import FORMAT, read_json
from data_pipeline.features.writing import write_json
from data_pipeline.storage import Location, Source

OPEN = 16
"""Indexes that a reader remembers."""


def folder_of(output: Source) -> Location:
    """Where a feature set's shared sentences lie."""
    return Location(output) / "sentences"


def write_sentences(output: Source, name: str, features: Sequence[SentenceFeatures]) -> None:
    """Write the features of sentences and, when they are there, their index."""
    folder = folder_of(output)
    folder.mkdir()
    values = np.ascontiguousarray(np.concatenate([each.features for each in features]))
    joint = [each.joint for each in features if each.joint is not None]
    data = npy_header(values.shape) + values.tobytes() + b"".join(row.tobytes() for row in joint)
    (folder / f"{name}.npy").write_bytes(data)
    index = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "tokens": [len(each.features) for each in features],
        "shape": values.shape[1:],
    }
    if joint:
        index["joint"] = len(joint[0])
    if any(each.unread for each in features):
        index["unread"] = [each.unread for each in features]
    write_json(folder / f"{name}.json", index)


def make_sample(
    vid: str,
    duration: float,
    clip_length: float,
    clips: ClipFeatures,
    annotations: Sequence[Annotation],
    sentences: Sequence[SentenceFeatures],
    text_shape: tuple[int, int],
) -> Sample:
    """A video with its queries, of which there may be none; `text_shape` is (K, Dt)."""
    ends = np.cumsum([len(each.features) for each in sentences], dtype=int).tolist()
    joint = None
    if clips.joint is not None:
        vectors = [each.joint for each in sentences if each.joint is not None]
        joint = np.concatenate([clips.joint, *(row[None] for row in vectors)])
    empty = np.empty((0, *text_shape), np.float16)
    return Sample(
        vid=vid,
        duration=duration,
        clip_length=clip_length,
        video=clips.features,
        text=np.concatenate([empty, *(each.features for each in sentences)]),
        queries=tuple(
            StoredQuery(annotation, (end - len(each.features), end))
            for annotation, each, end in zip(annotations, sentences, ends, strict=True)
        ),
        joint=joint,
    )


class SharedSentences:
    """The sentences of a set that were encoded ahead, by their numbers in the plan."""

    def __init__(self, output: Source) -> None:
        self._folder = folder_of(output)
        self._index = lru_cache(OPEN)(lambda name: read_json(self._folder / f"{name}.json"))

    def read(self, number: int) -> SentenceFeatures:
        """The features of a sentence, by a read of their bytes."""
        name, place = f"{number // SENTENCES:05d}", number % SENTENCES
        index = self._index(name)
        tokens, shape = index["tokens"], tuple(index["shape"])
        header = len(npy_header((sum(tokens), *shape)))
        row = int(np.prod(shape)) * np.dtype(np.float16).itemsize
        file = self._folder / f"{name}.npy"
        data = file.read_range(header + sum(tokens[:place]) * row, tokens[place] * row)
        features = np.frombuffer(data, np.float16).reshape(tokens[place], *shape)
        unread = index["unread"][place] if "unread" in index else 0
        if "joint" not in index:
            return SentenceFeatures(features, None, unread)
        width = index["joint"] * np.dtype(np.float16).itemsize
        data = file.read_range(header + sum(tokens) * row + place * width, width)
        return SentenceFeatures(features, np.frombuffer(data, np.float16), unread)
