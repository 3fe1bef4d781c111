"""What holds for every kind of model: results of a pair are its own, and all parts learn."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from model.config import ModelConfig
from model.interface import GroundingModel, Prediction
from model.kinds import KINDS, build, build_objective

SMALL: dict[str, dict[str, Any]] = {
    "sdst": {"kind": "sdst", "queries": 6, "layers": (-1, -2), "roi_bins": 4},
    "moment_detr": {"kind": "moment_detr", "queries": 6, "feed_forward": 64},
    "qd_detr": {"kind": "qd_detr", "queries": 6, "feed_forward": 64},
    "pyramid-flash": {"kind": "pyramid", "feed_forward": 64, "dummies": 3, "encoder_layers": 1},
    "pyramid-recurrent": {
        "kind": "pyramid", "encoder": "recurrent", "layers": (-1, -2), "patches": 3,
        "feed_forward": 64,
    },
}  # fmt: skip
CLIPS, WORDS = [13, 9, 1], [4, 1, 3]


def small(name: str, **changes: Any) -> GroundingModel:
    """A small model of a kind, its weights moved so that every part has an effect."""
    values = {
        "video_width": 12, "text_width": 10, "width": 32, "heads": 4, "input_dropout": 0.0,
        "dropout": 0.0,
    }  # fmt: skip
    values |= SMALL[name] | changes
    config = KINDS[values["kind"]].config
    torch.manual_seed(0)
    model = build(
        config(
            **{field.name: values[field.name] for field in fields(config) if field.name in values}
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def draw(clips: list[int], words: list[int], seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs whose padding holds noise."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(len(clips), max(clips), 2, 12, generator=generator)
    text = torch.randn(len(words), max(words), 2, 10, generator=generator)
    masks = [torch.arange(max(n)) < torch.tensor(n)[:, None] for n in (clips, words)]
    return video, masks[0], text, masks[1]


def targets(video_mask: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    batch = len(video_mask)
    saliency = torch.randint(0, 13, video_mask.shape, generator=generator) / 12
    return {
        "windows": torch.tensor([[0.5, 0.4], [0.2, 0.2]]).expand(batch, 2, 2),
        "window_mask": torch.tensor([[True, True]] + [[True, False]] * (batch - 1)),
        "saliency": saliency * video_mask,
        "video_mask": video_mask,
        "draw": torch.rand(batch, generator=generator),
    }


def padded(inputs: tuple[Tensor, ...], clips: int, words: int) -> tuple[Tensor, ...]:
    """The same pairs with more padding, noise again."""
    grown = []
    for x, more in zip(inputs, (clips, clips, words, words), strict=True):
        shape = (len(x), more, *x.shape[2:])
        extra = torch.zeros(shape, dtype=x.dtype) if x.dtype == torch.bool else torch.randn(shape)
        grown.append(torch.cat((x, extra), 1))
    return tuple(grown)


def found(prediction: Prediction, row: int, clips: int) -> tuple[Tensor, Tensor, Tensor]:
    """Spans (n, 2) and scores (n,) of the real columns, saliency of the real clips."""
    valid = prediction.valid
    real = slice(None) if valid is None else valid[row]
    scores = prediction.scores()[row][real]
    return prediction.spans[-1, row][real], scores, prediction.saliency[row, :clips]


@pytest.fixture(params=list(SMALL))
def name(request) -> str:
    return request.param


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_pair_gives_in_a_batch_what_it_gives_alone(name):
    model, inputs = small(name).eval(), draw(CLIPS, WORDS)
    together = model(*inputs)
    for row, (clips, words) in enumerate(zip(CLIPS, WORDS, strict=True)):
        video, video_mask, text, text_mask = (x[[row]] for x in inputs)
        alone = model(
            video[:, :clips], video_mask[:, :clips], text[:, :words], text_mask[:, :words]
        )
        close(found(alone, 0, clips), found(together, row, clips))


def test_padding_changes_neither_predictions_nor_losses_nor_gradients(name):
    model, inputs = small(name).train(), draw(CLIPS, WORDS)
    results, gradients = [], []
    for given in (inputs, padded(inputs, 3, 2)):
        prediction = model(*given)
        wanted = targets(inputs[1])
        missing = given[1].shape[1] - inputs[1].shape[1]
        for key in ("saliency", "video_mask"):
            wanted[key] = torch.nn.functional.pad(wanted[key], (0, missing))
        more = 3 * (given is not inputs)  # windows
        wanted["windows"] = torch.nn.functional.pad(wanted["windows"], (0, 0, 0, more), value=0.7)
        wanted["window_mask"] = torch.nn.functional.pad(wanted["window_mask"], (0, more))
        total, losses = objective(model)(prediction, **wanted)
        model.zero_grad()
        total.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        results.append([found(prediction, row, clips) for row, clips in enumerate(CLIPS)])
        results.append(losses)
    close(results[2], results[0])
    close(results[3], results[1])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def objective(model: GroundingModel) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    return build_objective(model.config, KINDS[model.config.kind].loss())


@pytest.mark.parametrize("clips", [[13, 9, 5], [1, 1, 1]], ids=["some clips", "one clip"])
def test_every_parameter_has_a_finite_gradient_or_ddp_would_wait_for_it(name, clips):
    model, inputs = small(name).train(), draw(clips, [1, 1, 1])
    total, _ = objective(model)(model(*inputs), **targets(inputs[1]))
    total.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name


def test_pairs_without_windows_or_highlights_teach_silence(name):
    model, inputs = small(name).train(), draw(CLIPS, WORDS)
    wanted = targets(inputs[1])
    wanted["window_mask"] = wanted["window_mask"] & False
    wanted["saliency"] = wanted["saliency"] * 0
    prediction = model(*inputs)
    prediction.logits.retain_grad()
    total, _ = objective(model)(prediction, **wanted)
    total.backward()
    assert total.isfinite()
    assert (prediction.logits.grad >= 0).all()
    real = prediction.valid
    real = torch.ones_like(prediction.logits[-1]) > 0 if real is None else real
    assert (prediction.logits.grad[-1][real] > 0).all()


def test_losses_are_in_full_precision_whatever_the_model_is_computed_in(name):
    model, inputs = small(name).train(), draw(CLIPS, WORDS)
    prediction, wanted = model(*inputs), targets(inputs[1])
    expected = objective(model)(prediction, **wanted)
    with torch.autocast("cpu", torch.bfloat16):
        actual = objective(model)(prediction, **wanted)
    assert actual[0].dtype == torch.float32
    assert torch.equal(actual[0], expected[0])
    assert actual[1] == expected[1]


def test_a_batch_without_windows_may_leave_out_their_column(name):
    model, inputs = small(name).train(), draw(CLIPS, WORDS)
    wanted = targets(inputs[1])
    prediction, masked = model(*inputs), wanted["window_mask"] & False
    close(
        objective(model)(
            prediction,
            **wanted | {"windows": wanted["windows"][:, :0], "window_mask": masked[:, :0]},
        ),
        objective(model)(prediction, **wanted | {"window_mask": masked}),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_model_is_one_graph(name):
    model, inputs = small(name), draw(CLIPS, WORDS)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for mode in (True, False):
        model.train(mode)
        expected, actual = model(*inputs), compiled(*inputs)
        close(actual.spans, expected.spans)
        close(actual.scores(), expected.scores())
        close(actual.saliency, expected.saliency)


def test_a_kind_s_configuration_is_refused_with_the_field_and_the_mend(name):
    values = SMALL[name]
    for field, value in (("heads", 0), ("input_dropout", 1.0), ("layers", ()), ("width", 33)):
        with pytest.raises(ValueError, match=f"^{field} is .*: make it "):
            KINDS[values["kind"]].config(**values | {field: value})


def test_models_that_differ_are_told_apart_whatever_computes_them(name):
    config = small(name).config
    assert config.differences(config) == []
    kernels: ModelConfig = type(config)(**vars(config) | {"attention_backend": "flash"})
    assert kernels.differences(config) == []
    assert kernels.portable() == config
    wider = type(config)(**vars(config) | {"width": 64})
    assert wider.differences(config) == ["width"]


@pytest.mark.parametrize("name", SMALL)
def test_a_prediction_lists_all_of_its_tensors(name):
    prediction = small(name).train()(*draw([5, 7], [3, 2]))
    held = [*prediction, *(prediction.own or ())]
    expected = [id(each) for each in held if isinstance(each, Tensor)]
    assert [id(each) for each in prediction.tensors()] == expected
    assert len(expected) > 3
