"""How is a sentence that several rows share encoded once, whatever the number of workers and runs?

Such sentences are encoded ahead of the shards, a file of them being a task like a shard is, and
whoever makes a shard reads them there. The other sentences stand in one row of the plan: they are
encoded where that row is stored, and not kept twice. So every distinct sentence is encoded once, a
crash costs one file's work, and no worker holds more than a file's features, however many there
are.

    sentences/00000.npy     features of its sentences (tokens of all of them, K, Dt) float16
    sentences/00000.json    how many tokens each has, and the file's SHA-256; written after it

They are kept for later runs, which make shards that were lost or whose videos failed; a complete
feature set does not need them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data_pipeline.extraction.plan import SENTENCES
from data_pipeline.features.samples import Half, npy_header
from data_pipeline.features.shards import FORMAT, read_json
from data_pipeline.features.writing import write_json
from data_pipeline.storage import Location, Source

OPEN = 16
"""Indexes that a reader remembers."""


def folder_of(output: Source) -> Location:
    """Where a feature set's shared sentences lie."""
    return Location(output) / "sentences"


def write_sentences(output: Source, name: str, features: Sequence[Half]) -> None:
    """Write the features (T, K, Dt) of sentences and, when they are there, their index."""
    folder = folder_of(output)
    folder.mkdir()
    values = np.ascontiguousarray(np.concatenate(features))
    data = npy_header(values.shape) + values.tobytes()
    (folder / f"{name}.npy").write_bytes(data)
    index = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "tokens": [len(sentence) for sentence in features],
        "shape": values.shape[1:],
    }
    write_json(folder / f"{name}.json", index)


class SharedSentences:
    """The sentences of a set that were encoded ahead, by their numbers in the plan."""

    def __init__(self, output: Source) -> None:
        self._folder = folder_of(output)
        self._index = lru_cache(OPEN)(lambda name: read_json(self._folder / f"{name}.json"))

    def read(self, number: int) -> Half:
        """(T, K, Dt) of a sentence, by one read of its bytes."""
        name, place = f"{number // SENTENCES:05d}", number % SENTENCES
        index = self._index(name)
        tokens, shape = index["tokens"], tuple(index["shape"])
        header = len(npy_header((sum(tokens), *shape)))
        row = int(np.prod(shape)) * np.dtype(np.float16).itemsize
        data = (self._folder / f"{name}.npy").read_range(
            header + sum(tokens[:place]) * row, tokens[place] * row
        )
        return np.frombuffer(data, np.float16).reshape(tokens[place], *shape)
