"""The rates of a step, the groups of the weights, and what makes a run repeat itself bit by bit."""

import os

import pytest
import torch

from model.config import SDSTConfig
from model.sdst.sdst import SDST
from trainer.config import OptimConfig
from trainer.main import main
from trainer.training.optimization import make_optimizer, rate, set_rates

MODEL = SDSTConfig(
    video_width=12, text_width=10, layers=(-1, -2), width=32, heads=4, queries=5, points=2
)


def test_the_rate_rises_over_the_warm_up_and_drops_where_it_is_told_to():
    config = OptimConfig(warmup=4, schedule="step", drop_at=3)
    assert [rate(step, 0.0, 9, config) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate(100, 2.99, 9, config) == 1.0
    assert rate(100, 3.0, 9, config) == pytest.approx(0.1)


def test_a_cosine_ends_at_nothing_and_a_constant_rate_stays():
    cosine, constant = (OptimConfig(warmup=0, schedule=name) for name in ("cosine", "constant"))
    halves = [rate(1, epoch, 8, cosine) for epoch in (0.0, 4.0, 8.0, 9.0)]
    assert halves == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert rate(1, 8.0, 8, constant) == 1.0


def test_offsets_learn_slower_and_only_matrices_decay():
    model = SDST(MODEL)
    optimizer = make_optimizer(model, OptimConfig(lr=0.1, slow=0.5, warmup=2, weight_decay=0.3))
    set_rates(optimizer, 0, 0.0, 1, OptimConfig(warmup=2))
    slow = {id(parameter) for parameter in model.slow_parameters()}
    assert slow
    seen = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["lr"] == pytest.approx(0.1 * (0.5 if id(parameter) in slow else 1) / 2)
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)
            seen += parameter.numel()
    assert seen == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_deterministic_run_refuses_other_kernels_and_repeats_itself(
    command, tmp_path, monkeypatch
):
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", "")
    try:
        for name in ("first", "second"):
            assert main(command(name=name, epochs=1, deterministic="true")) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    for file in ("model/model.safetensors", "predictions.jsonl"):
        first, second = (tmp_path / "runs" / name / file for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
