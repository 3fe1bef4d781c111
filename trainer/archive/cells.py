"""How are FAISS's cells kept, so that what lies in a file is never more than arrays?

FAISS reads its own files by what these say of themselves, and ends a process by one that lies. So
its arrays are kept, and an index is made of them here: their lengths follow from the kind, the
width, the cells and the rows, or they are refused.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from data_pipeline.mapped import Mapped, write_arrays

Kind = Literal["ivfpq", "sq8"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def library() -> Any:
    """FAISS; InputError where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            f"{error}; install it with: pip install -c constraints.txt -e '.[search]'"
        ) from error
    return faiss


def empty(kind: Kind, width: int, cells: int) -> Any:
    """An index of `cells` that knows nothing yet, by inner products."""
    faiss = library()
    centroids, metric = faiss.IndexFlatIP(width), faiss.METRIC_INNER_PRODUCT
    if kind == "ivfpq":
        return faiss.IndexIVFPQ(centroids, width, cells, _subvectors(width), 8, metric)
    numbers = faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexIVFScalarQuantizer(centroids, width, cells, numbers, metric)


def keep(path: Path, kind: Kind, found: Any) -> None:
    """Write what an index has learnt and holds."""
    faiss, lists = library(), found.invlists
    sizes = np.array([lists.list_size(cell) for cell in range(found.nlist)], np.int64)
    ids = [faiss.rev_swig_ptr(lists.get_ids(c), int(n)) for c, n in enumerate(sizes) if n]
    size = found.code_size
    codes = [
        faiss.rev_swig_ptr(lists.get_codes(c), int(n) * size) for c, n in enumerate(sizes) if n
    ]
    arrays = {
        "sizes": sizes,
        "ids": np.concatenate(ids),
        "codes": np.concatenate(codes),
        "centroids": found.quantizer.reconstruct_n(0, found.nlist).ravel(),
        "learnt": faiss.vector_to_array(_learnt(kind, found)),
    }
    with open(path, "wb") as file:
        write_arrays(file, arrays, {})


def restored(path: Path, kind: Kind, width: int, rows: int) -> Any:
    """The index of `rows` rows that `keep` wrote; ValueError or KeyError for other arrays."""
    faiss, arrays = library(), Mapped.of_file(path)
    if kind not in KINDS:
        raise ValueError(f"FAISS of kind {kind!r}")
    sizes = _of(arrays, "sizes", np.int64, len(arrays["sizes"]))
    if not len(sizes) or sizes.min() < 0 or sizes.max() > rows or int(sizes.sum()) != rows:
        raise ValueError("its cells hold other rows")
    ids = _of(arrays, "ids", np.int64, rows)
    if ids.min() < 0 or ids.max() >= rows:
        raise ValueError("a row is none of the index's")
    found = empty(kind, width, len(sizes))
    codes = _of(arrays, "codes", np.uint8, rows * found.code_size)
    found.quantizer.add(_of(arrays, "centroids", np.float32, len(sizes) * width).reshape(-1, width))
    learnt = _of(arrays, "learnt", np.float32, 2 * width if kind == "sq8" else 256 * width)
    faiss.copy_array_to_vector(learnt, _learnt(kind, found))
    ends = np.cumsum(sizes)
    for cell, (end, size) in enumerate(zip(ends.tolist(), sizes.tolist(), strict=True)):
        if size:
            some = codes[(end - size) * found.code_size : end * found.code_size]
            pointers = faiss.swig_ptr(ids[end - size : end]), faiss.swig_ptr(some)
            found.invlists.add_entries(cell, size, *pointers)
    found.ntotal, found.is_trained = rows, True
    return found


def _of(arrays: Mapped, name: str, kind: Any, length: int) -> NDArray[Any]:
    array = arrays[name]
    if array.dtype != kind or len(array) != length:
        raise ValueError(f"{name} are {len(array)} of {array.dtype}, not {length}")
    return array


def _learnt(kind: Kind, found: Any) -> Any:
    """What the codes mean: ranges of numbers, or the centroids of parts of vectors."""
    return found.sq.trained if kind == "sq8" else found.pq.centroids


def _subvectors(width: int) -> int:
    """Bytes of a vector: one for every four numbers, or for as many as divide it evenly."""
    return next(width // part for part in (4, 3, 2, 1) if width % part == 0)
