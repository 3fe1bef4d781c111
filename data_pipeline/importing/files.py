"""What array does a feature file of anybody hold? .npz, .npy, .pt, HDF5, and vectors of words.

Nothing is unpickled but tensors, by PyTorch's reader that makes nothing else; no name in a file
leads to another file; no memory is taken that the file does not account for.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline import packed
from data_pipeline.errors import InputError
from data_pipeline.packed import MAX_ARRAY, MAX_RATIO, UNSUSPECTED, OtherContents, open_zip
from data_pipeline.untrusted import reading, shown

SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".hdf5", ".h5", ".txt")
HDF5 = (".hdf5", ".h5")
WORDS = ".txt"

OPEN = 8
"""HDF5 files that a process holds open."""

PACKED = {"gzip", "shuffle", "fletcher32", "scaleoffset", "lzf"}
"""What may have packed the values of an HDF5 file: it is built into the library."""

MAX_VECTOR = 1 << 16
"""Bytes of a line in a file of word vectors: GloVe's have 3,000."""


class FeatureFileError(InputError):
    """A file that cannot be used; `kind` is a class of causes to count by."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_array(path: Path, keys: Sequence[str] = ()) -> NDArray[Any]:
    """The one array of a file, or that under the first of `keys` that is there.

    Raises FeatureFileError: "missing" where an HDF5 file has none of `keys`, "unreadable" for a
    damaged file, "other contents" for one that is sound and no array.
    """
    try:
        if path.suffix in HDF5:
            return _of_hdf5(path, keys)
        if path.suffix in (".pt", ".pth"):
            return _of_torch(path, keys)
        return packed.read_array(path, keys)
    except FeatureFileError:
        raise
    except OtherContents as error:
        raise FeatureFileError(
            f"{error}; is it a released feature file?", "other contents"
        ) from error
    except InputError as error:
        raise FeatureFileError(f"{error}; fetch it again", "unreadable") from error


def _of_torch(path: Path, keys: Sequence[str]) -> NDArray[Any]:
    """The tensor of a .pt, a bare one or an entry of a mapping."""
    with open_zip(path) as archive:  # older files are streams of pickles, with sizes of their own
        members = archive.infolist()
        size = sum(info.file_size for info in members)
        stored = all(info.file_size <= max(4096, 2 * info.compress_size) for info in members)
    if size > MAX_ARRAY or not stored:
        raise InputError(f"{path}: unpacks to {size / 1e6:.0f} MB; is it the right file?")
    import torch

    with reading(path):
        try:
            value = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            raise InputError(f"{path}: holds more than tensors, which is not unpickled") from error
    if isinstance(value, dict):
        found = value
        value = next((found[key] for key in keys if key in found), None)
        if value is None:
            some = ", ".join(shown(key) for key in list(found)[:5])
            asked = " or ".join(keys) or "a bare tensor"
            raise OtherContents(f"{path}: holds {some or 'nothing'} and not {asked}")
    if not isinstance(value, torch.Tensor):
        raise OtherContents(f"{path}: holds {shown(value)} and no tensor")
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise OtherContents(f"{path}: holds a tensor that is not plain")
    # A view can repeat one stored value without end.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(f"{path}: claims a tensor {shown(tuple(value.shape))} and holds less")
    value = value.detach()
    if value.dtype is torch.bfloat16:  # which numpy does not have
        value = value.float()
    array: NDArray[Any] = value.resolve_conj().resolve_neg().numpy()
    return array


def _of_hdf5(path: Path, keys: Sequence[str]) -> NDArray[Any]:
    """A dataset of an HDF5 file, plainly stored in it."""
    with reading(path):
        file = _open_hdf5(path, path.stat().st_mtime_ns)
        for key in keys:
            dataset = _dataset(file, key)
            if dataset is not None:
                return _values(dataset, f"{path}/{key}")
        some = ", ".join(shown(name) for _, name in zip(range(5), file, strict=False))
    asked = " or ".join(keys) or "a key: say which"
    raise FeatureFileError(f"{path}: holds {some or 'nothing'} and not {asked}", "missing")


@lru_cache(maxsize=OPEN)
def _open_hdf5(path: Path, _changed: int) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{path}: is HDF5; for that pip install 'sdst[hdf5]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:  # of several lines
        raise InputError(f"{path}: damaged, or no HDF5 file ({shown(error)})") from error


def _dataset(file: Any, key: str) -> Any:
    """The dataset that `key` leads to by plain links; None where there is none."""
    import h5py

    group = file
    for part in key.split("/"):
        if not isinstance(group, h5py.Group) or part not in group:
            return None
        link = group.get(part, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{file.filename}/{key}: is a link; features are stored in the file")
        group = group[part]
    return group if isinstance(group, h5py.Dataset) else None


def _values(dataset: Any, place: str) -> NDArray[Any]:
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{place}: lies in another file; features are stored in the file")
    if dataset.dtype.kind not in "fiu" or dataset.shape is None:
        raise OtherContents(f"{place}: holds {shown(str(dataset.dtype))} and no numbers")
    if set(dataset._filters) - PACKED:  # others would be programs that are found elsewhere
        raise InputError(f"{place}: is packed in a way that is not built into HDF5")
    size, held = dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if size > MAX_ARRAY or size > max(UNSUSPECTED, MAX_RATIO * held):
        raise InputError(f"{place}: unpacks to {size / 1e6:.0f} MB; is it the right file?")
    array: NDArray[Any] = dataset[()]
    return array


def read_word_vectors(path: Path, words: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """The vectors of `words` in a text file such as GloVe's: a word and its numbers on each line.

    Words that the file lacks are absent. Raises FeatureFileError for a file of another form.
    """
    wanted = {word.encode() for word in words}
    found: dict[str, NDArray[np.float32]] = {}
    try:
        with reading(path), open(path, "rb") as file:
            number = 0
            while line := _line(file):
                number += 1
                word, _, numbers = line.rstrip().partition(b" ")
                if word in wanted:
                    with reading(f"{path}:{number}"):
                        found[word.decode()] = vector = np.array(numbers.split(), dtype=np.float32)
                        if not len(vector) or not np.isfinite(vector).all():
                            raise ValueError("not a word and its numbers")
    except InputError as error:
        raise FeatureFileError(f"{error}; is it a file of word vectors?", "unreadable") from error
    if len({len(vector) for vector in found.values()}) != 1:
        what = "vectors of several widths" if found else "none of the words that are asked for"
        raise FeatureFileError(f"{path}: has {what}", "other contents")
    return found


def _line(file: IO[bytes]) -> bytes:
    line = file.readline(MAX_VECTOR + 1)
    if len(line) > MAX_VECTOR:
        raise ValueError("a line is too long")
    return line
