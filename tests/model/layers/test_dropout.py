"""Dropout keeps the share, the mean and the gradient that it promises."""

import pytest
import torch

from model.layers.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.35, 0.5])
def test_the_share_dropped_is_the_rate_and_the_mean_is_kept(rate):
    torch.manual_seed(0)
    out = Dropout(rate)(torch.ones(333, 1001))
    assert abs((out == 0).float().mean().item() - rate) < 0.005
    assert abs(out.mean().item() - 1) < 0.01
    assert len(out.unique()) == 2


def test_elements_are_dropped_independently_of_their_neighbours():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(100_000)) != 0).float() - 0.5
    for distance in range(1, 17):
        assert abs((kept[distance:] * kept[:-distance]).mean().item()) < 0.005


def test_the_gradient_flows_where_the_value_was_kept():
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert torch.equal(x.grad * x, out)


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero():
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_same_seed_drops_the_same_elements():
    x = torch.randn(50)
    torch.manual_seed(3)
    first = Dropout(0.5)(x)
    torch.manual_seed(3)
    assert torch.equal(first, Dropout(0.5)(x))
