"""How are tens of millions of clips searched without looking at each? By FAISS, measured.

FAISS (Johnson et al., 2019) proposes clips, which are then compared exactly, by their own rows.
Rows that were added since it was trained are compared exactly too, all of them. How many of its
cells a search opens is the least number that finds enough of what an exact search finds.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xxhash
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.output import whole, writing
from data_pipeline.untrusted import natural, reading
from trainer.archive.index import Index
from trainer.archive.searching import Candidate, highest, similarities, stretches_of
from trainer.archive.vectors import Floats
from trainer.archive.writing import Writer

Kind = Literal["ivfpq", "sq8"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FEWEST = 10_000
"""Clips below which there is nothing to gain, nor enough to learn cells from."""

PROPOSED = 1000
"""Clips that FAISS proposes for a sentence."""

RECALL = 0.95
"""Share of the best 100 clips that is to be found."""

DRAWN = 256
"""Sentences by which that is measured, at most."""

ROWS_AT_ONCE = 1 << 16
TRAINED_ON = 64  # rows for each cell
RETRAIN = "train it again with launch.index --approximate"


@dataclass(frozen=True)
class Trained:
    """What index.json says of a FAISS index.

    Attributes:
        kind: inverted lists of product-quantised vectors, or of vectors of 8-bit numbers
        rows: how many rows, from the first on, it knows
        probes: cells that a search opens
        recall: share of the best 100 clips of an exact search that were found
        file: its name, which holds the hash of its bytes
    """

    kind: str
    rows: int
    probes: int
    recall: float
    file: str

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Trained":
        """Raises KeyError, TypeError or ValueError for another object."""
        found = cls(**value)
        natural(found.rows), natural(found.probes)
        if found.file != f"faiss.{found.file.split('.')[1]}.index" or "/" in found.file:
            raise ValueError("its file has another name")
        return found


@dataclass(frozen=True)
class Measured:
    """What training gave: milliseconds are of one sentence."""

    trained: Trained
    sentences: int
    milliseconds: float
    exactly: float


def train(target: Writer, kind: Kind, sentences: Floats) -> Measured:
    """Train FAISS on an index, measure it by `sentences` (Q, F), keep it beside the index."""
    faiss = library()
    index = Index(target.folder)
    rows, width = index.vectors.shape
    if rows < FEWEST:
        raise InputError(
            f"{target.folder}: has {rows} clips, which an exact search compares at once; FAISS is "
            f"for more than {FEWEST}"
        )
    cells = min(int(2 * np.sqrt(rows)), rows // 39)  # FAISS asks for so many rows of each
    codes = f"PQ{_subvectors(width)}x8" if kind == "ivfpq" else "SQ8"
    found = faiss.index_factory(width, f"IVF{cells},{codes}", faiss.METRIC_INNER_PRODUCT)
    drawn = np.sort(_draw(rows, TRAINED_ON * cells))
    found.train(index.vectors[drawn].astype(np.float32))
    for first in range(0, rows, ROWS_AT_ONCE):
        found.add(index.vectors[first : first + ROWS_AT_ONCE].astype(np.float32))
    asked = sentences if len(sentences) else index.vectors[_draw(rows, DRAWN)].astype(np.float32)
    asked = asked[_draw(len(asked), DRAWN)]
    begin = time.perf_counter()
    right = [highest(similarities(index.vectors, one[None])[0], 100) for one in asked]
    exactly = (time.perf_counter() - begin) / len(asked)
    probes, recall, seconds = 1, 0.0, 0.0
    while True:
        found.nprobe = min(probes, cells)
        begin = time.perf_counter()
        best = [_propose(found, index, one, rows)[0][:100] for one in asked]
        seconds = (time.perf_counter() - begin) / len(asked)
        recall = float(np.mean([np.isin(r, b).mean() for r, b in zip(right, best, strict=True)]))
        if recall >= RECALL or probes >= cells:
            break
        probes *= 2
    path = target.folder / "faiss.new.index"
    with whole(path) as temporary:
        faiss.write_index(found, str(temporary))
    name = _named(path)
    with writing(path):
        path.rename(path.with_name(name))
    trained = Trained(kind, rows, int(found.nprobe), round(recall, 4), name)
    target.commit(replace(target.manifest, approximate=asdict(trained)))
    target.clear_others()
    return Measured(trained, len(asked), 1000 * seconds, 1000 * exactly)


def approximately(
    index: Index,
) -> Callable[[Floats, int, int], list[list[Candidate]]]:
    """The search of an index that FAISS was trained on; InputError where its file is another."""
    with reading(index.folder, RETRAIN):
        trained = Trained.from_json(index.manifest.approximate or {})
    path = index.folder / trained.file
    found = _read(path)
    if (found.ntotal, found.d) != (trained.rows, index.vectors.shape[1]) or len(
        index
    ) < found.ntotal:
        raise InputError(f"{path}: is of other rows than the index has; {RETRAIN}")
    found.nprobe = trained.probes

    def search(sentences: Floats, count: int, longest: int) -> list[list[Candidate]]:
        return [
            stretches_of(index, *_propose(found, index, one, trained.rows), count, longest)
            for one in sentences
        ]

    return search


def library() -> Any:
    """FAISS; InputError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            f"{error}; install it with: pip install -c constraints.txt -e '.[search]'"
        ) from error
    return faiss


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
    best = np.argsort(-scores, kind="stable")
    return places[best], scores[best]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: is missing; {RETRAIN}")
    with reading(path, RETRAIN):
        if path.name != _named(path):
            raise InputError(f"{path}: is damaged; {RETRAIN}")
        return library().read_index(str(path))


def _named(path: Path) -> str:
    """The name that a file has by its bytes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"faiss.{digest.hexdigest()}.index"


def _subvectors(width: int) -> int:
    """Bytes of a vector: one for every four numbers, or for as many as divide it evenly."""
    return next(width // part for part in (4, 3, 2, 1) if width % part == 0)


def _draw(rows: int, count: int) -> NDArray[np.int64]:
    random = np.random.default_rng(0)
    return np.asarray(random.choice(rows, min(rows, count), replace=False), np.int64)
