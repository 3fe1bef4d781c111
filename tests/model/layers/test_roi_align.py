"""RoIAlign against a version that follows its definition one sample at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers.roi_align import roi_align


def one_bin(memory, start, end, length, bins, index):
    """Mean of the linearly interpolated samples of one bin; memory (L, F)."""
    first, last = start * length, end * length
    size = (last - first) / bins
    samples = max(1, math.ceil(size))
    values = []
    for j in range(samples):
        x = first + index * size + (j + 0.5) * size / samples - 0.5
        x = min(max(x, 0.0), length - 1.0)
        low = min(math.floor(x), length - 1)
        high = min(low + 1, length - 1)
        values.append(memory[low] * (low + 1 - x) + memory[high] * (x - low))
    return torch.stack(values).mean(0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    clips=st.integers(1, 40),
    padding=st.integers(0, 9),
    bins=st.integers(1, 6),
)
def test_bins_are_means_of_interpolated_samples(seed, clips, padding, bins):
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(1, clips + padding, 3, generator=generator)
    edges = torch.rand(1, 4, 2, generator=generator).sort(-1).values
    edges[0, 0] = torch.tensor([0.0, 1.0])
    edges[0, 1, 1] = edges[0, 1, 0]  # an empty span
    actual = roi_align(memory, edges, torch.tensor([clips]), bins)
    for m, (start, end) in enumerate(edges[0].tolist()):
        for index in range(bins):
            expected = one_bin(memory[0], start, end, clips, bins, index)
            assert torch.allclose(actual[0, m, index], expected, atol=1e-4)


def test_the_gradient_is_that_of_the_average():
    memory = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    edges = torch.tensor([[[0.1, 0.9]], [[0.0, 0.3]]])
    length = torch.tensor([9, 6])
    # The averaging weights are float32, hence the tolerance.
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, edges, length, 4), memory, atol=1e-4, rtol=1e-4
    )


def test_the_cost_is_linear_in_the_number_of_clips():
    sizes = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes[-1] = max(sizes[-1], out.numel())
            return out

    for clips in (500, 1000):
        sizes.append(0)
        with Largest():
            roi_align(
                torch.randn(1, clips, 2),
                torch.rand(1, 3, 2).sort(-1).values,
                torch.tensor([clips]),
                16,
            )
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.1)
