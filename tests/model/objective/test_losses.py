"""Every loss against a version that follows its definition one number at a time."""

import math
from dataclasses import asdict
from operator import attrgetter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import LossConfig, LossWeights
from model.objective.losses import Criterion, actionness_loss, focal_loss
from model.objective.matching import match
from model.spans import iou, to_edges

SEED = st.integers(0, 2**31)


def draw_targets(B=3, L=7, N=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(1, L + 1, (B, 1), generator=generator)
    return {
        "windows": torch.rand(B, N, 2, generator=generator) * 0.5 + 0.2,
        "window_mask": torch.rand(B, N, generator=generator) < 0.7,
        "saliency": torch.randint(0, 4, (B, L), generator=generator) / 3,
        "video_mask": torch.arange(L) < length,
        "draw": torch.rand(B, generator=generator),
    }


@settings(deadline=None)
@given(st.floats(-8, 8), st.booleans(), st.floats(0, 1), st.sampled_from([0.0, 1.0, 2.0]))
def test_focal_loss_is_its_formula(logit, positive, alpha, gamma):
    p = 1 / (1 + math.exp(-logit))
    right, weight = (p, alpha) if positive else (1 - p, 1 - alpha)
    expected = -weight * (1 - right) ** gamma * math.log(right)
    actual = focal_loss(
        torch.tensor(logit, dtype=torch.float64), torch.tensor(positive), alpha, gamma
    )
    assert actual.item() == pytest.approx(expected, abs=1e-6)


def test_focal_loss_of_extreme_logits_has_finite_gradients():
    logits = torch.tensor([-1e4, 1e4, -90.0, 90.0], requires_grad=True)
    focal_loss(logits, torch.tensor([True, False, True, False]), 0.25, 2.0).sum().backward()
    assert logits.grad.isfinite().all()


@settings(deadline=None, max_examples=30)
@given(seed=SEED)
def test_set_losses_sum_matched_pairs_over_all_steps_per_segment(random_prediction, seed):
    prediction, targets = random_prediction(seed), draw_targets(seed=seed)
    config = LossConfig()
    _, losses = Criterion(config)(prediction, **targets)
    assigned = match(
        prediction.logits,
        prediction.spans,
        targets["windows"],
        targets["window_mask"],
        config.matching,
    )
    focal = distance = overlap = 0.0
    for s, b, m in torch.cartesian_prod(*(torch.arange(n) for n in assigned.shape)).tolist():
        n = assigned[s, b, m]
        logit, span = prediction.logits[s, b, m], prediction.spans[s, b, m]
        focal += focal_loss(logit, n >= 0, config.alpha, config.gamma).item()
        if n >= 0:
            window = targets["windows"][b, n]
            distance += (span - window).abs().sum().item()
            overlap += 1 - iou(to_edges(span), to_edges(window)).item()
    segments = max(1, int(targets["window_mask"].sum()))
    assert losses["classification"].item() == pytest.approx(focal / segments, rel=1e-4, abs=1e-5)
    assert losses["l1"].item() == pytest.approx(distance / segments, rel=1e-4, abs=1e-5)
    assert losses["iou"].item() == pytest.approx(overlap / segments, rel=1e-4, abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(seed=SEED)
def test_actionness_is_held_to_the_best_overlap_in_its_own_video(random_prediction, seed):
    prediction, targets = random_prediction(seed), draw_targets(seed=seed)
    spans = prediction.spans[-1]
    gaps = []
    for b, m in torch.cartesian_prod(torch.arange(3), torch.arange(5)).tolist():
        best = 0.0
        for n in range(2):
            if targets["window_mask"][b, n]:
                window = to_edges(targets["windows"][b, n])
                best = max(best, iou(to_edges(spans[b, m]), window).item())
        gaps.append(abs(prediction.actionness[b, m].sigmoid().item() - best))
    actual = actionness_loss(
        prediction.actionness, spans, targets["windows"], targets["window_mask"]
    )
    assert actual.item() == pytest.approx(sum(gaps) / len(gaps), abs=1e-5)


def slow_log_softmax(chosen, others):
    """log of exp(chosen) over the sum of exp of `others`, which include it."""
    return chosen - math.log(sum(math.exp(x) for x in others))


@settings(deadline=None, max_examples=30)
@given(seed=SEED)
def test_highlight_loss_contrasts_a_positive_clip_with_clips_of_lower_saliency(
    random_prediction, seed
):
    prediction, targets = random_prediction(seed), draw_targets(seed=seed)
    _, losses = Criterion(LossConfig(temperature=0.5))(prediction, **targets)
    similarity = (prediction.saliency / 0.5).tolist()
    saliency, mask = targets["saliency"].tolist(), targets["video_mask"].tolist()
    chosen = {}
    for b in range(3):
        positive = [i for i in range(7) if mask[b][i] and saliency[b][i] > 0]
        if positive:
            chosen[b] = positive[int(targets["draw"][b].item() * len(positive))]

    def allowed(b, i):
        return mask[b][i] and saliency[b][i] <= saliency[b][chosen[b]]

    row = column = 0.0
    for b, clip in chosen.items():
        clips = [similarity[b][i] for i in range(7) if allowed(b, i)]
        pairs = [similarity[other][clip] for other in chosen if allowed(other, clip)]
        row -= slow_log_softmax(similarity[b][clip], clips)
        column -= slow_log_softmax(similarity[b][clip], pairs)
    expected = (row + column) / max(1, len(chosen))
    assert losses["saliency"].item() == pytest.approx(expected, abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(seed=SEED)
def test_alignment_pulls_a_positive_clip_to_its_sentence_over_pairs_and_layers(
    random_prediction, seed
):
    prediction, targets = random_prediction(seed), draw_targets(seed=seed)
    _, losses = Criterion(LossConfig(temperature=0.5))(prediction, **targets)
    chosen = {}
    for b in range(3):
        positive = [
            i for i in range(7) if targets["video_mask"][b, i] and targets["saliency"][b, i] > 0
        ]
        if positive:
            chosen[b] = positive[int(targets["draw"][b].item() * len(positive))]

    def similarity(u, b, v, c):
        """Clip of layer u, pair b with the sentence of layer v, pair c."""
        clip, sentence = prediction.own.clips[u, b, chosen[b]], prediction.own.sentences[v, c]
        return torch.cosine_similarity(clip, sentence, dim=0).item() / 0.5

    batch = layers = 0.0
    for b in chosen:
        for u in range(2):
            own = similarity(u, b, u, b)
            batch -= slow_log_softmax(own, [similarity(u, b, u, c) for c in chosen])
            batch -= slow_log_softmax(own, [similarity(u, c, u, b) for c in chosen])
            layers -= slow_log_softmax(own, [similarity(u, b, v, b) for v in range(2)])
            layers -= slow_log_softmax(own, [similarity(v, b, u, b) for v in range(2)])
    count = 2 * 2 * max(1, len(chosen))  # layers, directions, pairs
    assert losses["alignment_batch"].item() == pytest.approx(batch / count, abs=1e-4)
    assert losses["alignment_layers"].item() == pytest.approx(layers / count, abs=1e-4)


def test_the_total_is_the_weighted_sum_of_every_term(random_prediction):
    weights = LossWeights(**{name: 0.5 + i for i, name in enumerate(asdict(LossWeights()))})
    total, losses = Criterion(LossConfig(weights=weights))(random_prediction(), **draw_targets())
    assert losses.keys() == asdict(weights).keys()
    expected = sum(asdict(weights)[name] * loss for name, loss in losses.items())
    assert torch.allclose(total, expected)


def test_a_term_whose_name_has_no_weight_is_not_dropped_silently(random_prediction, monkeypatch):
    criterion = Criterion(LossConfig())
    monkeypatch.setattr(criterion, "_highlights", lambda *_: {"salience": torch.tensor(1.0)})
    with pytest.raises(AssertionError, match="salience"):
        criterion(random_prediction(), **draw_targets())


def test_every_term_has_a_gradient_of_its_own(random_prediction):
    reached = {
        "classification": "logits", "l1": "spans", "iou": "spans", "actionness": "actionness",
        "saliency": "saliency", "alignment_batch": "own.clips",
        "alignment_layers": "own.sentences",
    }  # fmt: skip
    for name, field in reached.items():
        prediction = random_prediction()
        _, losses = Criterion(LossConfig())(prediction, **draw_targets())
        losses[name].backward()
        assert attrgetter(field)(prediction).grad.abs().sum() > 0, name


def test_supervising_the_last_step_leaves_the_others_alone(random_prediction):
    prediction = random_prediction()
    total, _ = Criterion(LossConfig(supervise="last"))(prediction, **draw_targets())
    total.backward()
    assert not prediction.logits.grad[0].any()
    assert not prediction.spans.grad[0].any()
    assert prediction.logits.grad[1].any()
    assert prediction.spans.grad[1].any()


def test_pairs_without_windows_or_highlights_only_silence_the_queries(random_prediction):
    prediction, targets = random_prediction(), draw_targets()
    targets["window_mask"] = targets["window_mask"] & False
    targets["saliency"] = targets["saliency"] * 0
    _, losses = Criterion(LossConfig())(prediction, **targets)
    silent = ("l1", "iou", "saliency", "alignment_batch", "alignment_layers")
    assert all(losses[name] == 0 for name in silent)
    losses["classification"].backward()
    assert (prediction.logits.grad > 0).all()


def test_without_an_actionness_head_its_term_is_zero(random_prediction):
    _, losses = Criterion(LossConfig())(
        random_prediction()._replace(actionness=None), **draw_targets()
    )
    assert losses["actionness"] == 0


def test_losses_are_float32_in_bfloat16(random_prediction):
    prediction, targets = random_prediction(), draw_targets()
    low = prediction._replace(own=prediction.own._replace(clips=prediction.own.clips.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        total, losses = Criterion(LossConfig())(low, **targets)
    exact, _ = Criterion(LossConfig())(prediction, **targets)
    assert total.dtype == torch.float32
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert torch.allclose(total, exact, rtol=1e-2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LossWeights(l1=-1), "l1 is -1: make it 0 or more"),
        (lambda: LossConfig(temperature=0), "temperature is 0: make it positive"),
        (lambda: LossConfig(alpha=2), "alpha is 2: make it between 0 and 1"),
    ],
)
def test_impossible_weights_name_the_field_and_the_mend(build, message):
    with pytest.raises(ValueError, match=message):
        build()
