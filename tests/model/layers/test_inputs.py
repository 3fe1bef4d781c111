"""Are positions and ends of clips what their formulas say?"""

import math

import pytest
import torch

from model.layers.inputs import clip_endpoints, sinusoids


def test_positions_are_sines_then_cosines_of_falling_frequency():
    found = sinusoids(6, 8, torch.device("cpu"))
    for place in range(6):
        angles = [place / 10000 ** (2 * pair / 8) for pair in range(4)]
        expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
        assert found[place].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_clip_begins_where_the_one_before_ends_and_the_last_ends_the_video():
    found = clip_endpoints(torch.tensor([[True, True, True, True], [True, True, False, False]]))
    assert found[0].tolist() == [[0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1]]
    assert found[1, :2].tolist() == [[0, 0.5], [0.5, 1]]
