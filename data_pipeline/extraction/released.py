"""How are features that others have released laid out in their files?

SDST: `<vid>.npz` with `visual_feats_interm_pooled` (L, K, Dv) or, of a single layer,
`visual_feats_pooled` (L, Dv); `<qid>.npz` with `text_feats` (K, tokens, Dt): the layers come first.
R2-Tuning: `<vid>.npy` (L, K, patches, Dv) with the CLS token first; `<qid>.npy` (tokens, K, Dt).
In both the last layer is the deepest, as in our shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import Pooling
from data_pipeline.errors import InputError
from data_pipeline.features.samples import Half, is_finite
from data_pipeline.packed import OtherContents, read_array
from data_pipeline.untrusted import plain_name

VIDEO_KEYS = ("visual_feats_interm_pooled", "visual_feats_pooled")
TEXT_KEYS = ("text_feats",)
SUFFIXES = (".npz", ".npy")


class FeatureFileError(InputError):
    """A file that cannot be used; `kind` is a class of causes to count by."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Release:
    """Who released features of this kind of file, and what made them, as far as that is known."""

    video_encoder: str
    video_depth: int
    text_encoder: str
    text_depth: int
    frames_per_clip: int


RELEASES = {
    ".npz": Release("internvideo2-1b", 40, "internvideo2-1b", 19, frames_per_clip=4),
    ".npy": Release("clip-vit-b-32", 12, "clip-vit-b-32", 12, frames_per_clip=1),
}


def find_features(folder: Path, name: int | str) -> Path:
    """The file of a video or a query; raises FeatureFileError where there is none."""
    plain_name(str(name), "a video or query", folder, folders=True)
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise FeatureFileError(f"{folder / str(name)}.npz, .npy: no such feature file", "missing")


def read_video(path: Path, pooling: Pooling) -> Half:
    """(L, K, Dv) of a video; `pooling` of patch tokens, where the file has them."""
    array = _read(path, VIDEO_KEYS)
    if path.suffix == ".npz" and array.ndim == 2:
        array = array[:, None]  # (L, 1, Dv)
    if path.suffix == ".npy" and array.ndim == 4:
        array = array[:, :, 0] if pooling == "cls" else array.mean(axis=2, dtype=np.float32)
    return _half(path, array, "(L, K, Dv), or in .npy (L, K, patches, Dv)")


def read_text(path: Path) -> Half:
    """(tokens, K, Dt) of a query."""
    array = _read(path, TEXT_KEYS)
    if path.suffix == ".npz":
        array = array[None] if array.ndim == 2 else array  # a single layer may come without axis
        array = array.swapaxes(0, 1)
    return _half(path, array, "(K, tokens, Dt) in .npz, (tokens, K, Dt) in .npy")


def _read(path: Path, keys: Sequence[str]) -> NDArray[Any]:
    """The array of a .npy, or the one of a .npz under one of `keys`; never unpickles."""
    try:
        return read_array(path, keys)
    except OtherContents as error:
        raise FeatureFileError(
            f"{error}; is it a released feature file?", "other contents"
        ) from error
    except InputError as error:
        raise FeatureFileError(f"{error}; fetch it again", "unreadable") from error


def _half(path: Path, array: NDArray[Any], axes: str) -> Half:
    """Three axes of float16, all finite."""
    if array.ndim != 3 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise FeatureFileError(
            f"{path}: an array {array.shape} of {array.dtype}, expected {axes} of floats",
            "other contents",
        )
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(array, dtype=np.float16)
    if not is_finite(half):
        raise FeatureFileError(f"{path}: holds values that float16 cannot hold", "not finite")
    return half
