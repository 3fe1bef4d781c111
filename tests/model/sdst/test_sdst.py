"""The model as a whole: what predictions depend on, and what they must not depend on."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from launch.parameters import parameter_table
from model.config import LossConfig, SDSTConfig
from model.objective.losses import Criterion
from model.sdst.sdst import SDST

ATTENTION = ("rdsa", "deformable", "deformable_pure_init", "cross")


def compare(actual, expected, tolerance=1e-5):
    """Two predictions agree wherever the shorter one has clips."""
    clips = min(actual.saliency.shape[1], expected.saliency.shape[1])
    torch.testing.assert_close(actual.logits, expected.logits, atol=tolerance, rtol=0)
    torch.testing.assert_close(actual.spans, expected.spans, atol=tolerance, rtol=0)
    torch.testing.assert_close(actual.scores(), expected.scores(), atol=tolerance, rtol=0)
    torch.testing.assert_close(
        actual.saliency[:, :clips], expected.saliency[:, :clips], atol=tolerance, rtol=0
    )


def row(prediction, index):
    """The prediction of one pair, still batched."""
    return prediction._replace(
        logits=prediction.logits[:, [index]],
        spans=prediction.spans[:, [index]],
        actionness=prediction.actionness[[index]],
        saliency=prediction.saliency[[index]],
    )


@pytest.mark.parametrize("attention", ATTENTION)
@torch.no_grad()
def test_padding_and_batch_composition_do_not_change_predictions(small_model, inputs, attention):
    model = small_model(sparse_attention=attention).eval()
    clips, tokens = [9, 1, 33, 17], [3, 1, 5, 2]
    batch = inputs(clips, tokens)
    together = model(*batch)
    for pair, (length, words) in enumerate(zip(clips, tokens, strict=True)):
        video, video_mask, text, text_mask = batch.rows([pair])
        alone = model(
            video[:, :length], video_mask[:, :length], text[:, :words], text_mask[:, :words]
        )
        compare(row(together, pair), alone)


@torch.no_grad()
def test_the_order_of_pairs_in_a_batch_does_not_matter(small_model, inputs):
    model = small_model().eval()
    batch = inputs([9, 4, 12], [3, 6, 5])
    order = [2, 0, 1]
    prediction, permuted = model(*batch), model(*batch.rows(order))
    for position, pair in enumerate(order):
        compare(row(permuted, position), row(prediction, pair))


@pytest.mark.parametrize("windows", [0, 1, 9])
@pytest.mark.parametrize("attention", ATTENTION)
def test_one_clip_one_token_and_any_number_of_windows_train(
    small_model, inputs, attention, windows
):
    model = small_model(sparse_attention=attention)
    batch = inputs([1, 1], [1, 1])
    total, losses = Criterion(LossConfig())(
        model(*batch),
        torch.rand(2, windows, 2),
        torch.ones(2, windows, dtype=torch.bool),
        torch.ones(2, 1) if windows else torch.zeros(2, 1),
        batch.video_mask,
    )
    total.backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("layers", [(-1,), (-1, -2), (0, 1, 1)])
def test_every_parameter_learns(small_model, inputs, attention, layers):
    model = small_model(sparse_attention=attention, layers=layers)
    batch = inputs([8, 5], [4, 3])
    prediction = model(*batch)
    windows, mask = torch.tensor([[[0.5, 0.4]], [[0.3, 0.2]]]), torch.ones(2, 1, dtype=torch.bool)
    total, _ = Criterion(LossConfig())(
        prediction, windows, mask, torch.rand(2, 8), batch.video_mask
    )
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            # The key bias moves all scores of a softmax alike and truly has no gradient.
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("supervise", ["all", "last"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
def test_one_to_five_layers_predict_after_each_step_and_all_of_them_learn(
    small_model, inputs, layers, supervise
):
    batch = inputs([8, 6], [3, 5], layers=layers)
    model = small_model(layers=tuple(range(-1, -1 - layers, -1)))
    prediction = model(*batch)
    assert prediction.spans.shape == (layers, 2, 6, 2)
    assert prediction.own.clips.shape == (layers, 2, 8, 32)
    windows, mask = torch.tensor([[[0.5, 0.4]], [[0.3, 0.2]]]), torch.ones(2, 1, dtype=torch.bool)
    total, _ = Criterion(LossConfig(supervise=supervise))(
        prediction, windows, mask, torch.rand(2, 8), batch.video_mask
    )
    total.backward()
    assert len(model.dense.gates) == layers - 1
    assert all(gate != 0 for gate in (model.dense.gates.grad if layers > 1 else []))


@torch.no_grad()
def test_a_repeated_layer_is_the_same_as_equal_layers(small_model, inputs):
    once = inputs([7, 5], [3, 4], layers=1)
    thrice = once._replace(video=once.video.repeat(1, 1, 3, 1), text=once.text.repeat(1, 1, 3, 1))
    repeated = small_model(layers=(-1, -1, -1)).eval()
    stacked = small_model(layers=(0, 1, 2)).eval()
    compare(repeated(*once), stacked(*thrice))


@torch.no_grad()
def test_the_list_of_layers_sets_the_order_of_the_steps(small_model, inputs):
    batch = inputs([7, 5], [3, 4])
    swapped = batch._replace(video=batch.video.flip(2), text=batch.text.flip(2))
    deep_first, shallow_first = (small_model(layers=x).eval() for x in ((-1, -2), (0, 1)))
    compare(deep_first(*batch), shallow_first(*swapped))
    assert not torch.allclose(deep_first(*batch).spans, shallow_first(*batch).spans)


def test_a_layer_that_is_not_stored_is_named(small_model, inputs):
    with pytest.raises(ValueError, match=r"layers holds -3 but the features have 2 layers"):
        small_model(layers=(-1, -3))(*inputs([4], [2]))


@torch.no_grad()
def test_fresh_queries_expect_one_percent_relevance_and_an_eighth_of_the_video(small_config):
    torch.manual_seed(0)
    model = SDST(small_config(queries=200)).eval()
    reference = model.reference(model.queries.weight).sigmoid()  # (M, 2)
    assert torch.allclose(reference[:, 1], torch.tensor(0.1192), atol=1e-4)
    assert reference[:, 0].min() < 0.1
    assert reference[:, 0].max() > 0.9
    zero = torch.zeros(1, 32)
    assert torch.allclose(model.classify(zero).sigmoid(), torch.tensor(0.01))
    assert torch.equal(model.span(torch.randn(5, 32)), torch.zeros(5, 2))


@torch.no_grad()
def test_without_self_attention_a_query_does_not_see_the_others(small_model, inputs):
    batch = inputs([8, 6], [3, 5])
    for seen in (True, False):
        model = small_model(query_self_attention=seen).eval()
        before = model(*batch)
        model.queries.weight[1:] += 1
        after = model(*batch)
        assert torch.allclose(before.spans[:, :, 0], after.spans[:, :, 0], atol=1e-6) != seen


def test_query_dropout_leaves_queries_out_in_training_only(small_model, inputs):
    model = small_model(query_dropout=0.34)
    batch = inputs([8, 6], [3, 5])
    prediction = model(*batch)
    assert prediction.spans.shape == (2, 2, 4, 2)
    assert all(len(set(chosen.tolist())) == 4 for chosen in prediction.queries)
    assert model.eval()(*batch).spans.shape == (2, 2, 6, 2)


def test_usage_counts_the_learned_query_of_every_best_span(random_prediction):
    prediction = random_prediction()._replace(
        logits=torch.tensor([[[0.0, 9.0], [9.0, 0.0]]]),
        actionness=None,
        queries=torch.tensor([[4, 2], [2, 0]]),
    )
    assert torch.equal(prediction.usage(5), torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]))


def test_actionness_teaches_the_clips_but_not_the_spans(small_model, inputs):
    model = small_model()
    prediction = model(*inputs([8, 6], [3, 5]))
    prediction.actionness.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.span.parameters())
    assert model.video.output.weight.grad.any()


def test_the_score_of_a_window_is_relevance_times_actionness(small_model, inputs):
    prediction = small_model()(*inputs([8, 6], [3, 5]))
    relevance = 1 / (1 + torch.exp(-prediction.logits[-1]))
    actionness = 1 / (1 + torch.exp(-prediction.actionness))
    torch.testing.assert_close(prediction.scores(), relevance * actionness)


def test_without_actionness_the_score_is_the_relevance(small_model, inputs):
    model = small_model(actionness=False)
    prediction = model(*inputs([8, 6], [3, 5]))
    assert prediction.actionness is None
    assert torch.equal(prediction.scores(), prediction.logits[-1].sigmoid())


def test_references_are_detached_between_steps(small_model, inputs):
    model = small_model(sparse_attention="cross")  # no other way from a reference to a later span
    prediction = model(*inputs([8, 6], [3, 5]))
    prediction.spans[1].sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.reference.parameters())


@pytest.mark.parametrize("attention", ATTENTION)
def test_spans_and_scores_stay_float32_in_bfloat16(small_model, inputs, attention):
    model = small_model(sparse_attention=attention).eval()
    batch = inputs([8, 6], [3, 5])
    exact = model(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(*batch)
    low = model.bfloat16()(*batch)
    for prediction in (mixed, low):
        assert prediction.spans.dtype == torch.float32
        assert prediction.logits.dtype == torch.float32
        torch.testing.assert_close(prediction.spans, exact.spans, atol=0.1, rtol=0)


def test_half_precision_features_are_accepted(small_model, inputs):
    model = small_model().eval()
    batch = inputs([8, 6], [3, 5])
    half = batch._replace(video=batch.video.half(), text=batch.text.half())
    compare(model(*half), model(*batch), tolerance=1e-2)


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_host_reads_nothing_in_a_step_but_the_costs_of_the_matching(
    small_model, inputs, attention
):
    """Fake tensors have no numbers: reading any fails. The assignment, which does read, is an
    operator that only says its shape here; `test_matching` counts its copies."""
    with FakeTensorMode():
        model = small_model(sparse_attention=attention, query_dropout=0.5)
        batch = inputs([8, 6], [3, 5])
        windows, saliency, draw = torch.rand(2, 2, 2), torch.rand(2, 8), torch.rand(2)
        real = torch.ones(2, 2, dtype=torch.bool)
        criterion = Criterion(LossConfig())
        total, _ = criterion(model(*batch), windows, real, saliency, batch.video_mask, draw)
        total.backward()
        assert all(p.grad is not None for p in model.parameters())
        with pytest.raises(DataDependentOutputException):
            total.item()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("attention", ["rdsa", "cross"])
def test_model_matching_losses_and_backward_compile_without_graph_breaks(
    small_model, inputs, attention
):
    model = small_model(sparse_attention=attention, layers=(-1, -2, -1), query_dropout=0.5)
    criterion, batch = Criterion(LossConfig()), inputs([8, 6], [3, 5])
    windows, real = torch.rand(2, 2, 2), torch.tensor([[True, True], [True, False]])
    saliency, draw = torch.rand(2, 8), torch.rand(2)

    def loss():
        return criterion(model(*batch), windows, real, saliency, batch.video_mask, draw)[0]

    results = []
    for step in (torch.compile(loss, fullgraph=True, backend="aot_eager"), loss):
        torch.manual_seed(0)  # the queries that are left out
        model.zero_grad()
        total = step()
        total.backward()
        results.append([total.detach(), *(p.grad.clone() for p in model.parameters())])
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@torch.no_grad()
def test_compiled_predictions_are_the_eager_ones(small_model, inputs):
    model = small_model(layers=(-1,)).eval()  # each step more is as long again to compile
    batch = inputs([8, 6], [3, 5])
    compare(torch.compile(model, fullgraph=True)(*batch), model(*batch))


def test_the_published_size_is_met_within_five_percent():
    model = SDST(SDSTConfig())
    count = sum(p.numel() for p in model.parameters())
    assert abs(count / 4.1e6 - 1) < 0.05
    assert sum(n for _, n in parameter_table(model)) == count
    without = SDST(SDSTConfig(actionness=False))
    assert abs(sum(p.numel() for p in without.parameters()) / 3.2e6 - 1) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100}, "width is 100: make it a multiple of 2"),
        ({"layers": ()}, "layers is"),
        ({"query_dropout": 1.0}, "query_dropout is 1.0"),
        ({"points": 0}, "points is 0: make it at least 1"),
    ],
)
def test_impossible_configurations_name_the_field_and_the_mend(changes, message):
    with pytest.raises(ValueError, match=message):
        SDSTConfig(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"video": b.video[0]}, r"of float32, expected floats \(B, L, K, Dv\)"),
        (lambda b: {"text": b.text.long()}, r"of int64, expected floats \(B, T, K, Dt\)"),
        (lambda b: {"video": b.video[..., :5]}, r"but the model's video_width is 12"),
        (lambda b: {"video_mask": b.video_mask.float()}, r"video_mask is \(2, 9\) of float32, exp"),
        (lambda b: {"text_mask": b.text_mask.int()}, r"text_mask is \(2, 5\) of int32, expected"),
        (lambda b: {"text_mask": b.text_mask[:, :2]}, r"text_mask is \(2, 2\) of bool, but text"),
        (lambda b: {"video_mask": b.video_mask[0]}, r"video_mask is \(9,\) of bool, but video"),
        (
            lambda b: {"text": b.text[:1], "text_mask": b.text_mask[:1]},
            "video has 2 rows and text 1",
        ),
    ],
)
def test_what_is_no_batch_is_refused_by_its_name(small_model, inputs, change, message):
    batch = inputs([9, 4], [3, 5])
    model = small_model().eval()
    given = dict(zip(("video", "video_mask", "text", "text_mask"), batch, strict=True))
    model(**given)
    with pytest.raises(ValueError, match=message):
        model(**given | change(batch))
