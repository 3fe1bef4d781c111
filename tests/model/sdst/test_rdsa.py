"""Where does deformable attention look before it has learnt anything?"""

import pytest
import torch

from model.config import SDSTConfig
from model.sdst.heads import ActionnessHead
from model.sdst.rdsa import DeformableAttention, ReferenceQueries
from model.sdst.sdst import SDST


@pytest.mark.parametrize("attention", ["rdsa", "deformable"])
def test_heads_begin_to_both_sides_of_the_centre_further_out_by_the_point(attention):
    model = SDST(SDSTConfig(width=16, heads=8, points=3, sparse_attention=attention))
    fan = model.sparse.clip_attention.offsets.bias.view(8, 3)
    # cos(4 pi h / 8) for h = 0 ... 7, times the number of the point (TadTR)
    sides = torch.tensor([1.0, 0, -1, 0, 1, 0, -1, 0])
    torch.testing.assert_close(fan, sides[:, None] * torch.tensor([1.0, 2, 3]), atol=1e-5, rtol=0)
    assert not model.sparse.clip_attention.offsets.weight.any()


def test_points_that_are_as_many_as_their_offset_reach_the_edge_of_the_reference():
    torch.manual_seed(0)
    attention = DeformableAttention(SDSTConfig(width=16, heads=8, points=4))
    with torch.no_grad():  # every point of every head looks P to the right
        attention.offsets.bias.fill_(4.0)
    memory = torch.zeros(1, 10, 16)
    memory[:, 7:9] = torch.randn(16)  # beside 0.8, the end of a reference (0.6, 0.4)
    there = attention(
        torch.zeros(1, 1, 16), torch.tensor([[[0.6, 0.4]]]), memory, torch.tensor([10])
    )
    alone = attention.output(attention.value(memory[:, 7:8]))
    torch.testing.assert_close(there, alone)


def test_with_a_pure_initialisation_there_is_no_fan():
    attention = DeformableAttention(SDSTConfig(width=16, heads=8, points=3), pure_init=True)
    assert not attention.offsets.bias.any()
    assert attention.offsets.weight.any()


def felt(function, clips):
    """The clips of which a vector for a reference changes when they do."""
    memory = torch.randn(1, clips, 16, generator=torch.Generator().manual_seed(0))
    before, found = function(memory), []
    for clip in range(clips):
        other = memory.clone()
        other[:, clip] += 1
        if not torch.allclose(function(other), before, atol=1e-6):
            found.append(clip)
    return found


def test_what_predicts_offsets_is_read_at_start_centre_and_end_of_the_reference():
    torch.manual_seed(0)
    queries, mask = ReferenceQueries(SDSTConfig(width=16, heads=8)), torch.ones(1, 40).bool()
    reference = torch.tensor([[[0.5, 0.4]]])  # 12, 20 and 28 of 40 clips, between two of them each
    there = felt(lambda memory: queries(reference, memory, mask, torch.tensor([40])), 40)
    assert there == [10, 11, 12, 13, 18, 19, 20, 21, 26, 27, 28, 29]  # a convolution of three


@pytest.mark.parametrize(
    ("span", "covered"),
    [((0.5, 0.2), range(14, 26)), ((0.95, 0.2), range(32, 40)), ((0.05, 0.2), range(8))],
)
def test_actionness_covers_the_span_half_as_wide_again_within_the_video(span, covered):
    torch.manual_seed(0)
    head = ActionnessHead(SDSTConfig(width=16, heads=8, roi_bins=16, roi_scale=1.5))
    mask, spans = torch.ones(1, 40).bool(), torch.tensor([[span]])
    there = felt(lambda memory: head(memory, spans, mask), 40)
    assert set(covered) <= set(there)
    assert set(there) <= set(range(covered.start - 1, covered.stop + 1))  # which bins lie between
