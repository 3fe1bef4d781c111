"""Which clips are compared, and what the highlight terms of the DETR family make of them."""

import pytest
import torch

from model.interface import stored_layers
from model.objective.detr import clips_inside
from model.objective.highlights import draw_clips, margin_loss, rank_contrast

MASK = torch.tensor([[True] * 5, [True] * 5, [True, True, True, False, False]])
RELEVANT = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
SALIENCY = torch.tensor([[9, 2, 3, 1, 9], [1, 5, 2, 0.5, 4], [1, 1, 1, 1, 1]])


def test_a_clip_is_inside_from_the_start_of_a_window_to_before_its_end():
    window = torch.tensor([[[0.5, 0.4]]])  # 0.3 to 0.7: the middles of the clips 1 and 3 of 5
    inside = clips_inside(window, torch.ones(1, 1) > 0, MASK[:1])
    assert inside.tolist() == [[False, True, True, False, False]]
    assert not clips_inside(window, torch.zeros(1, 1) > 0, MASK[:1]).any()


def test_the_hardest_pair_is_the_most_and_the_least_salient_relevant_clip():
    better, worse, valid = draw_clips(SALIENCY, RELEVANT, MASK, torch.zeros(3))
    assert (better[:2, 0].tolist(), worse[:2, 0].tolist()) == ([2, 1], [3, 3])
    assert valid.tolist() == [True, True, False]  # the third has none that is real


def test_the_random_pair_is_one_inside_and_one_outside_or_the_hardest_again():
    pairs = set()
    for draw in torch.linspace(0, 0.999, 50):
        better, worse, _ = draw_clips(SALIENCY, RELEVANT, MASK, draw.expand(3))
        pairs.add((better[0, 1].item(), worse[0, 1].item()))
        assert (better[1, 1].item(), worse[1, 1].item()) == (1, 3)
    assert pairs == {(inside, outside) for inside in (1, 2, 3) for outside in (0, 4)}


def test_what_lies_in_padding_is_not_compared():
    better, worse, _ = draw_clips(SALIENCY, RELEVANT | ~MASK, MASK, torch.full((3,), 0.99))
    assert (worse[0] < 5).all()
    loss = margin_loss(SALIENCY, better, worse, torch.tensor([True, True, False]), 0.2)
    assert loss.isfinite()
    scores, labels = torch.randn(3, 5), torch.randint(0, 13, (3, 5))
    every = torch.ones(3) > 0
    alone = rank_contrast(scores[2:, :3], labels[2:, :3], MASK[2:, :3], every[2:])
    together = rank_contrast(scores[2:], labels[2:], MASK[2:], every[2:])
    torch.testing.assert_close(together, alone)


def test_a_margin_that_is_kept_costs_nothing():
    scores = torch.tensor([[0.0, 0.5, 0.1]])
    better, worse = torch.tensor([[1, 1]]), torch.tensor([[0, 2]])
    valid = torch.tensor([True])
    assert margin_loss(scores, better, worse, valid, 0.2) == 0
    # One of two pairs is short of 0.5 by 0.1, and the mean is taken twice.
    assert margin_loss(scores, better, worse, valid, 0.5).item() == pytest.approx(0.1)


def test_a_layer_that_is_not_stored_is_named_with_those_that_are():
    assert stored_layers((-1, 0, 2), 3, 3) == [2, 0, 2]
    for layers, wrong in (((3,), 3), ((0, -4), -4)):
        message = rf"^layers holds {wrong} but .* 3 layers: use indices from -3 to 2$"
        with pytest.raises(ValueError, match=message):
            stored_layers(layers, 3, 3)
    with pytest.raises(ValueError, match="3 video but 2 text feature layers"):
        stored_layers((0,), 3, 2)
