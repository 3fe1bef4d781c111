"""Is the slope that a CPU learns PyTorch's own?"""

import pytest
import torch
import torch.nn.functional as F

from model.layers.positioned import LearnedSlope


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_a_learned_slope_and_its_gradients_are_those_of_prelu(slope):
    torch.manual_seed(0)
    layer = LearnedSlope(init=slope).double()
    ours = torch.randn(3, 5, 7, dtype=torch.float64)
    ours[0, 0, 0] = 0.0
    theirs, upstream = ours.clone().requires_grad_(), torch.randn_like(ours)
    weight = layer.weight.detach().clone().requires_grad_()
    out, expected = layer(ours.requires_grad_()), F.prelu(theirs, weight)
    (out * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
