"""Does a GPU compute what a processor does, with every kernel made for it?"""

import warnings
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from model.config import LossConfig
from model.objective.losses import Criterion
from tests.model.backbones.test_internvideo2 import SMALL, build, clips
from tests.model.layers.test_deformable_triton import COMPARE, python
from tests.model.objective.test_matching_triton import COMPARE as MATCH

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.timeout(300),
]
ATTENTION = ("rdsa", "deformable", "cross")


@pytest.fixture
def training_step(small_model, inputs):
    """A model on a device, its loss and its gradients, in float32 or under bf16 autocast."""

    def make(device="cuda", bf16=False, compiled=False, matching="scipy", **changes):
        model = small_model(**changes).to(device)
        batch = type(inputs([1], [1]))(*(x.to(device) for x in inputs([40, 9, 25], [3, 7, 5])))
        generator = torch.Generator().manual_seed(1)
        windows = torch.rand(3, 2, 2, generator=generator).mul(0.4).add(0.1).to(device)
        real = torch.tensor([[True, True], [True, False], [False, False]], device=device)
        saliency = torch.rand(3, 40, generator=generator).sub(0.5).to(device)
        draw = torch.rand(3, generator=generator).to(device)
        criterion = Criterion(LossConfig(matching_kernel=matching))

        def loss():
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                prediction = model(*batch)
            return criterion(prediction, windows, real, saliency, batch.video_mask, draw)[0]

        run = torch.compile(loss, fullgraph=True) if compiled else loss

        def step():
            model.zero_grad()
            total = run()
            total.backward()
            return [total.detach().cpu(), *(p.grad.cpu() for p in model.parameters())]

        return step

    return make


def test_triton_equals_the_reference() -> None:
    python(f"import torch; torch.set_default_device('cuda'){COMPARE}", TRITON_INTERPRET="0")


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("sampling", ["torch", "triton"])
def test_loss_and_gradients_are_those_of_a_processor(training_step, attention, sampling):
    exact = training_step("cpu", sparse_attention=attention)()
    on_gpu = training_step(sparse_attention=attention, deformable_kernel=sampling)()
    torch.testing.assert_close(on_gpu, exact, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("sampling", ["torch", "triton"])
def test_the_compiled_step_is_the_eager_one(training_step, sampling):
    step = training_step(compiled=True, deformable_kernel=sampling)
    eager = training_step(deformable_kernel=sampling)
    torch.testing.assert_close(step(), eager(), atol=1e-4, rtol=1e-3)


def test_bfloat16_stays_near_float32(training_step):
    half, exact = training_step(bf16=True)()[0], training_step()()[0]
    torch.testing.assert_close(half, exact, atol=0, rtol=0.05)


def test_matching_finds_scipys_optimum() -> None:
    python(f"DEVICE = 'cuda'{MATCH}", TRITON_INTERPRET="0")


@pytest.mark.parametrize("compiled", [False, True])
def test_matching_on_the_device_gives_the_same_loss_and_gradients(training_step, compiled):
    ours = training_step(matching="triton", compiled=compiled)()
    torch.testing.assert_close(ours, training_step()(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("matching", "allowed"), [("scipy", 1), ("triton", 0)])
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_step_copies_to_the_host_only_for_scipys_matching(
    training_step, attention, matching, allowed
):
    """Losses and gradients stay where they are."""
    make = training_step(
        sparse_attention=attention, query_dropout=0.3, bf16=True, matching=matching
    )
    make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler, about its own options
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            results = make()
    copies = [event for event in profiler.events() if "DtoH" in event.name]
    assert len(copies) - len(results) == allowed  # the step's results are read here besides


def test_deterministic_steps_repeat_bit_for_bit(training_step, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        for sampling in ("torch", "triton"):
            step = training_step(deformable_kernel=sampling)
            assert all(map(torch.equal, step(), step()))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_video_encoder_computes_what_it_computes_on_a_processor(compiled):
    exact = build()(clips(), [-3, -1])
    encoder = build(replace(SMALL, compile=compiled))
    on_gpu = encoder.cuda()(clips().cuda(), [-3, -1]).cpu()
    torch.testing.assert_close(on_gpu, exact, atol=1e-4, rtol=1e-3)
    half = encoder.bfloat16()(clips().cuda(), [-3, -1]).cpu().float()
    assert torch.nn.functional.cosine_similarity(half, exact, dim=-1).min() > 0.99
