"""Which points answer for which windows, and what FlashVTG's terms make of scores and attention."""

import pytest
import torch

from model.config.pyramid import PyramidLossConfig
from model.interface import Prediction
from model.objective.pyramid import PyramidCriterion, in_clips, label_loss, targets
from model.pyramid.levels import points
from model.pyramid.pyramid import Points

ONE = torch.ones(1, 1) > 0


def weigh(windows, clips, padded_to, count_padding, **own):
    """Losses of one video of `clips` clips, padded, whose points are all of one level and reach one
    stride to both sides, in the padding five; windows in clips."""
    mask = torch.arange(padded_to) < torch.tensor([[clips]])
    start, end = torch.tensor([windows], dtype=torch.float32).unbind(-1)
    spans = torch.stack(((start + end) / 2, end - start), -1) / clips
    known = own.pop("labels", torch.zeros(1, padded_to))
    points_of_it = Points(
        reach=torch.where(mask, 1.0, 5.0)[..., None].expand(-1, -1, 2),
        points=points([padded_to], (1,), mask.device),
        places=torch.ones_like(mask) if count_padding else mask,
        clips=torch.ones(1, padded_to, 4),
        sentences=torch.ones(1, 4),
        **own,
    )
    prediction = Prediction(
        logits=torch.zeros(1, 1, padded_to), spans=torch.zeros(1, 1, padded_to, 2),
        saliency=torch.zeros(1, padded_to), queries=torch.zeros(1, padded_to), valid=mask,
        own=points_of_it,
    )  # fmt: skip
    clip = torch.zeros(1, dtype=torch.int64)
    every = torch.ones(1) > 0
    _, losses = PyramidCriterion(PyramidLossConfig()).weigh(
        prediction, spans, torch.ones(1, len(windows)) > 0, known, mask,
        clip, every, clip[:, None], clip[:, None], every,
    )  # fmt: skip
    return losses


def test_reach_is_measured_to_where_a_window_is_and_not_to_a_share_of_a_clip():
    start, end, clips = 1.85, 4.37, 75
    window = torch.tensor([[[(start + end) / 2, end - start]]]) / clips
    edges = in_clips(window, torch.ones(1, clips) > 0)
    table = points([clips], (1,), window.device)
    positive, reach = targets(table, edges, ONE, 1.5)
    assert positive[0].nonzero().flatten().tolist() == [2, 3, 4]
    expected = torch.tensor([[n - start, end - n] for n in (2, 3, 4)])
    torch.testing.assert_close(reach[0, 2:5], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("clips", [7, 75, 999])
def test_windows_of_whole_clips_keep_their_edges_on_the_way_through_the_length_of_a_video(clips):
    start = torch.arange(clips, dtype=torch.float32)
    windows = torch.stack(((start + clips) / 2, clips - start), -1) / clips
    edges = in_clips(windows[None], torch.ones(1, clips) > 0)
    assert torch.equal(edges[0], torch.stack((start, torch.full_like(start, clips)), -1))


def test_the_point_where_a_video_ends_is_taught_boundaries_only_where_padding_counts():
    # Of the points 3, 4 and 5 within 1.5 of the middle of [3, 5] the last is beyond 5 clips. Their
    # reaches are (0, 2), (1, 1) and (2, 0), and they say (1, 1), (1, 1) and (5, 5).
    found = [weigh([[3, 5]], 5, 7, count)["boundary"].item() for count in (True, False)]
    assert found == pytest.approx([(1 + 0 + 4) / 3, (1 + 0) / 2])
    other = weigh([[3, 5]], 5, 7, True), weigh([[3, 5]], 5, 7, False)
    assert other[0]["classification"] == other[1]["classification"]


def test_attention_that_is_all_but_certain_costs_what_its_logarithm_says():
    sure = torch.tensor([[1e-9, 1 - 2.0**-24, 0.5]])
    seen = weigh(
        [[0, 1]], 3, 3, False, labels=torch.tensor([[1.0, 0, 0]]), attention=sure,
        other_attention=sure, other_saliency=torch.zeros(1, 3), genuine=torch.tensor([False]),
    )  # fmt: skip
    own = -(torch.tensor(1e-9).log() + torch.tensor(2.0**-24).log() + torch.tensor(0.5).log()) / 3
    margins = 2 * 0.2 * 2  # of the scores and of the attention, which are one clip against itself
    torch.testing.assert_close(seen["saliency"], own + margins)
    certain = torch.tensor([[0.0, 1.0, 1.0]], requires_grad=True)
    loss = weigh(
        [[0, 1]], 3, 3, False, attention=certain, other_attention=certain,
        other_saliency=torch.zeros(1, 3), genuine=torch.tensor([True]),
    )["saliency"]  # fmt: skip
    loss.backward()
    assert loss.isfinite()
    assert certain.grad.isfinite().all()


def test_pairs_of_one_video_are_ranked_by_their_scores_and_not_by_their_attention():
    """As FlashVTG does, for which they are no negatives of each other."""
    from model.objective.highlights import rank_contrast

    mask, pairs = torch.ones(2, 3) > 0, torch.zeros(2, 1, dtype=torch.int64)
    labels = torch.tensor([[3.0, 0, 0], [0, 0, 5]])
    none, every = torch.zeros(2) > 0, torch.ones(2) > 0
    criterion, scores = PyramidCriterion(PyramidLossConfig(attention=1.0)), torch.rand(2, 3)

    def loss(saliency, attention):
        own = Points(
            reach=torch.zeros(0), points=torch.zeros(0), places=mask, clips=torch.zeros(0),
            sentences=torch.zeros(0), attention=attention, other_saliency=torch.rand(2, 3),
            other_attention=torch.rand(2, 3), genuine=none,
        )  # fmt: skip
        given = Prediction(
            logits=torch.zeros(0), spans=torch.zeros(0), saliency=saliency, queries=torch.zeros(0),
            own=own,
        )  # fmt: skip
        return criterion._saliency(given, labels, mask, (pairs, pairs, every))

    same = torch.full((2, 3), 0.5)
    margins, fits = 2 * 0.4, torch.tensor(2.0).log()
    expected = margins + fits + rank_contrast(scores, labels, mask, every)
    torch.testing.assert_close(loss(scores, same), expected)


def test_scores_that_are_shifted_or_stretched_together_cost_the_same_and_learn_nothing_of_it():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 5, generator=generator, requires_grad=True)
    labels, places = torch.randint(0, 13, (3, 5), generator=generator), torch.ones(3, 5) > 0
    loss = label_loss(scores, labels.float(), places)
    torch.testing.assert_close(label_loss(7 * scores - 2, labels.float(), places), loss)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.abs().max() > 1e-3
    assert abs(gradient.sum().item()) < 1e-6
    assert abs((gradient * scores).sum().item()) < 1e-6
