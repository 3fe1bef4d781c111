"""Deformable sampling in plain PyTorch, against loops over clips that follow the definition."""

import math

import pytest
import torch
from torch import Tensor

from model.layers.deformable import check_kernel, deformable_sample, sample_linear


def interpolate(clips: Tensor, location: float, length: int) -> Tensor:
    """One video's clips (L, F) at one location, straight from the definition -> (F,)."""
    x = location * length - 0.5
    total = torch.zeros_like(clips[0])
    for clip in range(length):
        total += max(0.0, 1.0 - abs(x - clip)) * clips[clip]
    return total


def case(B: int, L: int, H: int, Dh: int, M: int, P: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs with locations outside the video and padded tails."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(B, L, H, Dh, generator=generator, dtype=torch.float64)
    locations = torch.rand(B, M, H, P, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.randn(B, M, H, P, generator=generator, dtype=torch.float64)
    length = torch.randint(1, L + 1, (B,), generator=generator)
    return value, locations, weights, length


@pytest.mark.parametrize("shape", [(3, 9, 2, 5, 4, 3), (2, 1, 1, 3, 1, 1), (1, 12, 4, 1, 7, 2)])
def test_equals_a_loop_over_clips(shape: tuple[int, ...]) -> None:
    value, locations, weights, length = case(*shape)
    B, _, H, Dh, M, P = shape
    expected = torch.zeros(B, M, H, Dh, dtype=torch.float64)
    for b in range(B):
        for m in range(M):
            for h in range(H):
                for p in range(P):
                    sample = interpolate(
                        value[b, :, h], float(locations[b, m, h, p]), int(length[b])
                    )
                    expected[b, m, h] += weights[b, m, h, p] * sample
    torch.testing.assert_close(
        deformable_sample(value, locations, weights, length), expected.flatten(2)
    )


def test_linear_sampling_equals_a_loop_over_clips() -> None:
    memory, locations, _, length = case(3, 8, 1, 6, 5, 3)
    memory, locations = memory[:, :, 0], locations[:, :, 0]
    expected = torch.stack(
        [
            torch.stack([interpolate(memory[b], float(x), int(length[b])) for x in row.flatten()])
            for b, row in enumerate(locations)
        ]
    ).view(3, 5, 3, 6)
    torch.testing.assert_close(sample_linear(memory, locations, length), expected)


def test_gradients_are_those_of_finite_differences() -> None:
    value, locations, weights, length = case(2, 7, 2, 3, 4, 3)
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda *x: deformable_sample(*x, length), inputs)


def test_gradients_of_linear_sampling_are_those_of_finite_differences() -> None:
    memory, locations, _, length = case(2, 7, 1, 3, 4, 3)
    inputs = [x[:, :, 0].clone().requires_grad_() for x in (memory, locations)]
    assert torch.autograd.gradcheck(lambda *x: sample_linear(*x, length), inputs)


def test_padding_does_not_change_the_samples() -> None:
    value, locations, weights, _ = case(2, 6, 2, 4, 3, 2)
    length = torch.tensor([6, 6])
    padding = torch.full((2, 5, 2, 4), 1e6, dtype=torch.float64)
    padded = torch.cat((value, padding), dim=1)
    torch.testing.assert_close(
        deformable_sample(padded, locations, weights, length),
        deformable_sample(value, locations, weights, length),
    )
    torch.testing.assert_close(
        sample_linear(padded[:, :, 0], locations[:, :, 0], length),
        sample_linear(value[:, :, 0], locations[:, :, 0], length),
    )


def test_positions_are_clip_centres_and_fade_out_past_the_edges() -> None:
    clips = torch.tensor([10.0, 20.0, 30.0, 40.0]).view(1, 4, 1)
    locations = torch.tensor([0.125, 0.25, 0.875, 1.0, 1.125, 2.0, 0.0, -1.0]).view(1, 8, 1)
    read = sample_linear(clips, locations, torch.tensor([4])).flatten()
    assert read.tolist() == [10.0, 15.0, 40.0, 20.0, 0.0, 0.0, 5.0, 0.0]


def test_a_location_that_is_not_a_number_shows_in_the_result() -> None:
    value, locations, weights, length = case(1, 4, 1, 2, 2, 1)
    locations[0, 0] = math.nan
    out = deformable_sample(value, locations, weights, length)
    assert out[0, 0].isnan().all()
    assert out[0, 1].isfinite().all()


def test_half_precision_values_keep_their_dtype_and_float32_positions() -> None:
    value, locations, weights, length = (x.float() for x in case(2, 200, 2, 4, 5, 3))
    half = deformable_sample(value.bfloat16(), locations, weights, length)
    assert half.dtype == torch.bfloat16
    full = deformable_sample(value.bfloat16().float(), locations, weights, length)
    torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.02)
    points = locations[:, :, 0]
    assert sample_linear(value[:, :, 0].bfloat16(), points, length).dtype == torch.bfloat16


def test_compiles_without_graph_breaks() -> None:
    value, locations, weights, length = case(2, 7, 2, 3, 4, 3)

    def both(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        read = sample_linear(value[:, :, 0], locations[:, :, 0], length)
        return deformable_sample(value, locations, weights, length).sum() + read.sum()

    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(both(*inputs), inputs)
    for got, want in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ValueError, match="cuda"):
        check_kernel("cuda")
    with pytest.raises(ValueError, match="cuda"):
        deformable_sample(*case(1, 2, 1, 2, 1, 1), kernel="cuda")
