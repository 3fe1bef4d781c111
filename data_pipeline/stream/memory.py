"""In which memory does a batch lie?"""

import math
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 4
"""Blocks that are kept for the next batches, the largest ones: video and text of two batches."""


class Reused:
    """Allocates tensors in the memory of earlier ones that nobody holds any more.

    New memory costs as much as reading into it, because the system clears every page of it.
    """

    def __init__(self) -> None:
        self._free: dict[int, NDArray[np.uint8]] = {}

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor whose values are left as they are."""
        size = math.prod(shape) * dtype.itemsize
        fitting = [block for block in tuple(self._free.values()) if len(block) >= size]
        block = min(fitting, key=len) if fitting else np.empty(size, np.uint8)
        self._free.pop(id(block), None)
        part = block[:size]
        # The tensor, and whatever shares its memory, holds `part`.
        weakref.finalize(part, self._give_back, block).atexit = False
        return torch.from_numpy(part).view(dtype).view(shape)

    def _give_back(self, block: NDArray[np.uint8]) -> None:
        self._free[id(block)] = block
        if len(self._free) > KEPT:
            smallest = min(tuple(self._free.values()), key=len)
            self._free.pop(id(smallest), None)


reused = Reused()
"""One for the process: training and evaluation take turns."""


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in page-locked memory, from which a GPU copies by itself; torch reuses it."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in memory that a loader worker hands to the training process without another copy,
    as torch's own default_collate allocates it."""
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)
