"""How are tens of millions of clips searched without looking at each? By FAISS, measured.

FAISS (Johnson et al., 2019) proposes clips, which are then compared exactly, by their own rows.
Rows that were added since it was trained are compared exactly too, all of them. How many of its
cells a search opens is the least number that finds enough of what an exact search finds: of the
best hundred clips, and the very first, also where that is a lonely clip, far from the middle of the
cell that it lies in.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.output import whole, writing
from data_pipeline.untrusted import natural, reading
from trainer.archive.cells import Kind, empty, keep, library, restored
from trainer.archive.index import REMAKE, Index
from trainer.archive.searching import (
    SCORES_AT_ONCE,
    Candidate,
    highest,
    similarities,
    stretches_of,
)
from trainer.archive.vectors import Floats, Half
from trainer.archive.writing import Writer

FEWEST = 10_000
"""Clips below which there is nothing to gain, nor enough to learn cells from."""

PROPOSED = 1000
"""Clips that FAISS proposes for a sentence."""

HUNDRED, RECALL = 100, 0.95
"""Of the best so many clips this share is to be found, and ..."""

FIRST = 0.99
"""... of the sentences whose best clip is."""

DRAWN = 256
"""Sentences by which that is measured, at most."""

LONELY = 128
"""Clips, the farthest from the middles of their cells, by which it is measured too."""

CLOSE = 0.7
"""Cosine of a drawn question and its clip, where no sentences are known."""

ROWS_AT_ONCE = 1 << 16
TRAINED_ON = 64  # rows for each cell
EQUAL = 1e-4  # cosines that differ by less
TIMED = 8  # sentences that are asked exactly one by one
RETRAIN = "train it again with launch.index --approximate"


@dataclass(frozen=True)
class Trained:
    """What index.json says of a FAISS index.

    Attributes:
        kind: inverted lists of product-quantised vectors, or of vectors of 8-bit numbers
        rows: how many rows, from the first on, it knows
        probes: cells that a search opens
        recall: share of the best 100 clips of an exact search that were found
        first: share of the sentences, or of the lonely clips if lower, whose best clip was found
        file: its name, which holds the hash of its bytes
    """

    kind: Kind
    rows: int
    probes: int
    recall: float
    first: float
    file: str

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Trained":
        """Raises KeyError, TypeError or ValueError for another object."""
        found = cls(**value)
        if not natural(found.rows) or not natural(found.probes, 1 << 31):
            raise ValueError("no rows, or no cells to open")
        if found.file != _name(found.file.split(".")[1]) or "/" in found.file:
            raise ValueError("its file has another name")
        return found


@dataclass(frozen=True)
class Measured:
    """What training gave: `lonely` clips were asked for beside the sentences; milliseconds are of
    one sentence."""

    trained: Trained
    sentences: int
    lonely: int
    milliseconds: float
    exactly: float


def train(target: Writer, kind: Kind, sentences: Floats) -> Measured:
    """Train FAISS on an index, measure it by `sentences` (Q, F), keep it beside the index."""
    index = Index(target.folder)
    rows, width = index.vectors.shape
    if rows < FEWEST:
        raise InputError(
            f"{target.folder}: has {rows} clips, which an exact search compares at once; FAISS is "
            f"for more than {FEWEST}"
        )
    cells = min(int(2 * np.sqrt(rows)), rows // 39)  # FAISS asks for so many rows of each
    found = empty(kind, width, cells)
    with _all_processors():
        drawn = np.sort(_draw(rows, TRAINED_ON * cells))
        found.train(index.vectors[drawn].astype(np.float32))
        lonely = _add(found, index)
    if len(sentences):
        asked = sentences[_draw(len(sentences), DRAWN)]
    else:
        asked = _turned(index.vectors[np.sort(_draw(rows, DRAWN))], CLOSE)
    begin = time.perf_counter()
    for one in asked[:TIMED]:
        highest(similarities(index.vectors, one[None])[0], HUNDRED)
    exactly = (time.perf_counter() - begin) / len(asked[:TIMED])
    best = _best(index, asked)
    # What is asked for is as far from a lonely clip as the farthest sentences are from theirs.
    hard = _turned(index.vectors[lonely], min(CLOSE, float(np.quantile(best[:, 0], 0.1))))
    best_of_hard = _best(index, hard)
    probes = 1
    while True:
        found.nprobe = min(probes, cells)
        begin = time.perf_counter()
        proposed = [_propose(found, index, one, rows)[1] for one in asked]
        seconds = (time.perf_counter() - begin) / len(asked)
        of_hard = [_propose(found, index, one, rows)[1] for one in hard]
        recall = _recall(best, proposed, HUNDRED)
        first = min(_recall(best, proposed, 1), _recall(best_of_hard, of_hard, 1))
        if (recall >= RECALL and first >= FIRST) or probes >= cells:
            break
        probes *= 2
    path = target.folder / "faiss.new.safetensors"
    with whole(path) as temporary:
        keep(temporary, kind, found)
    name = named(path)
    with writing(path):
        path.rename(path.with_name(name))
    counted = round(recall, 4), round(first, 4)
    trained = Trained(kind, rows, int(found.nprobe), *counted, name)
    target.commit(replace(target.manifest, approximate=asdict(trained)))
    target.clear_others()
    return Measured(trained, len(asked), len(hard), 1000 * seconds, 1000 * exactly)


@contextlib.contextmanager
def _all_processors() -> Iterator[None]:
    """Inside, FAISS works with as many threads as this process may use processors."""
    faiss = library()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _add(found: Any, index: Index) -> NDArray[np.int64]:
    """Add all rows to FAISS's cells; the `LONELY` ones that are the farthest from their middles."""
    lonely, close = np.empty(0, np.int64), np.empty(0, np.float32)
    for first in range(0, len(index), ROWS_AT_ONCE):
        rows = index.vectors[first : first + ROWS_AT_ONCE].astype(np.float32)
        cosines, cells = found.quantizer.search(rows, 1)
        pointers = library().swig_ptr(rows), None, library().swig_ptr(cells)
        found.add_core(len(rows), *pointers)
        close = np.concatenate((close, cosines[:, 0]))
        lonely = np.concatenate((lonely, np.arange(first, first + len(rows))))
        farthest = highest(-close, LONELY)
        lonely, close = lonely[farthest], close[farthest]
    return np.sort(lonely)


def _best(index: Index, asked: Floats) -> Floats:
    """The cosines (Q, 100) of the best rows for questions (Q, F), best first."""
    together = max(1, SCORES_AT_ONCE // len(index))
    cosines = []
    for place in range(0, len(asked), together):
        for scores in similarities(index.vectors, asked[place : place + together]):
            cosines.append(scores[highest(scores, HUNDRED)])
    return np.stack(cosines)


def _turned(rows: Half, cosine: float) -> Floats:
    """Questions (n, F) of length 1, each of this cosine with its row."""
    about = rows.astype(np.float32)
    about /= np.maximum(np.linalg.norm(about, axis=1, keepdims=True), 1e-12)
    away = np.random.default_rng(0).normal(size=about.shape)
    away -= (away * about).sum(1, keepdims=True) * about
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
    return np.asarray(cosine * about + np.sqrt(1 - cosine**2) * away, np.float32)


def _recall(best: Floats, proposed: Sequence[Floats], count: int) -> float:
    """Share of the `count` best that were found, of questions with the cosines of the best (Q, 100)
    and of what was proposed for each: of clips that are equally close, any is right."""
    least = best[:, count - 1] - EQUAL
    pairs = zip(proposed, least, strict=True)
    return float(np.mean([(close[:count] >= edge).sum() / count for close, edge in pairs]))


def approximately(
    index: Index,
) -> Callable[[Floats, int, int], list[list[Candidate]]]:
    """The search of an index that FAISS was trained on; InputError where its file is another."""
    with reading(index.folder, RETRAIN):
        trained = Trained.from_json(index.manifest.approximate or {})
    if trained.rows > len(index):
        raise InputError(f"{index.folder}: FAISS knows more rows than it has; {RETRAIN}")
    found = _read(index, trained)
    found.nprobe = trained.probes

    def search(sentences: Floats, count: int, longest: int) -> list[list[Candidate]]:
        return [
            stretches_of(index, *_propose(found, index, one, trained.rows), count, longest)
            for one in sentences
        ]

    return search


def _propose(found: Any, index: Index, sentence: Floats, rows: int) -> tuple[Any, Floats]:
    """Rows and their exact cosines, best first: what FAISS proposes, and all that it knows not."""
    _, proposed = found.search(sentence[None], PROPOSED)
    known: NDArray[np.int64] = np.sort(proposed[0][proposed[0] >= 0])
    places = np.concatenate((known, np.arange(rows, len(index))))
    scores = np.concatenate(
        (
            index.vectors[known].astype(np.float32) @ sentence,
            similarities(index.vectors[rows:], sentence[None])[0],
        )
    )
    if not np.isfinite(scores).all():
        raise InputError(f"{index.folder}: holds vectors that are no numbers; {REMAKE}")
    best = np.argsort(-scores, kind="stable")
    return places[best], scores[best]


def _read(index: Index, trained: Trained) -> Any:
    path = index.folder / trained.file
    if not path.is_file():
        raise InputError(f"{path}: is missing; {RETRAIN}")
    with reading(path, RETRAIN):
        if path.name != named(path):
            raise InputError(f"{path}: is damaged; {RETRAIN}")
        return restored(path, trained.kind, index.vectors.shape[1], trained.rows)


def named(path: Path) -> str:
    """The name that a file has by its bytes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return _name(digest.hexdigest())


def _name(digest: str) -> str:
    return f"faiss.{digest}.safetensors"


def _draw(rows: int, count: int) -> NDArray[np.int64]:
    random = np.random.default_rng(0)
    return np.asarray(random.choice(rows, min(rows, count), replace=False), np.int64)
