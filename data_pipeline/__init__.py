"""From videos and sentences to batches of frozen features: decode, encode, store, stream."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.features.shards import FeatureSet
    from data_pipeline.stream.dataset import PairDataset
    from data_pipeline.stream.stream import PairStream

__all__ = ["FeatureSet", "PairDataset", "PairStream"]

_HOMES = {
    "FeatureSet": "data_pipeline.features.shards",
    "PairDataset": "data_pipeline.stream.dataset",
    "PairStream": "data_pipeline.stream.stream",
}


def __getattr__(name: str) -> Any:
    # What is not asked for is not imported: a command's --help must not wait for PyTorch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
