import gc

import numpy as np
import torch

from data_pipeline.stream.memory import KEPT, Reused


def test_memory_is_used_again_once_nobody_holds_what_lay_in_it():
    empty = Reused()
    first = empty((4, 100), torch.float16).fill_(1)
    view = first[2]  # holds the memory as well as the whole does
    place = first.data_ptr()
    del first
    second = empty((2, 100), torch.float32).fill_(2)
    assert second.data_ptr() != place
    assert view.eq(1).all()
    del view
    third = empty((1, 80), torch.float32)
    assert third.data_ptr() == place
    assert third.shape == (1, 80)


def test_an_array_of_a_tensor_holds_its_memory():
    empty = Reused()
    array = empty((50,), torch.float16).fill_(3).numpy()
    assert empty((50,), torch.float16).fill_(4).data_ptr() != array.ctypes.data
    assert (array == 3).all()


def test_no_more_than_the_largest_blocks_are_kept():
    empty = Reused()
    held = [empty((size,), torch.float16) for size in range(100, 100 + 2 * KEPT)]
    sizes = [tensor.nbytes for tensor in held]
    del held
    gc.collect()
    assert sorted(map(len, empty._free.values())) == sizes[KEPT:]
    assert all(block.dtype == np.uint8 for block in empty._free.values())
