"""Where do the random numbers of a training step come from?

From (seed, step, rank) alone, so that no generator's state has to be kept, and a run that goes on
from a checkpoint, with any number of ranks, draws what it would have drawn.
"""

import os

import numpy as np
import torch
from torch import Tensor


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's generators, on the CPU and the GPU, for what one rank drops in one step."""
    torch.manual_seed(_mix(seed, step, rank))


def draw_pairs(seed: int, step: int, rank: int, world: int, pairs: int) -> Tensor:
    """One uniform number in [0, 1) for each of the rank's rows of a global batch of `pairs`.

    A pair gets the same number whichever rank it falls to: row i of rank r of W is row r + W i of
    the global batch.
    """
    generator = torch.Generator().manual_seed(_mix(seed, step))
    return torch.rand(pairs, generator=generator)[rank::world]


def make_deterministic() -> None:
    """Let torch refuse every kernel whose result depends on the order in which threads finish."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it for that
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def _mix(*numbers: int) -> int:
    # The words of a SeedSequence are independent for neighbouring inputs; sums would collide.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
