"""A whole training step: what the host reads of it, and what a bad gradient moves."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from data_pipeline.annotations import Annotation
from data_pipeline.stream.batches import PairBatch
from model.config import LossConfig, SDSTConfig
from model.config.detr import DETRLossConfig, MomentDETRConfig, QDDETRConfig
from model.config.pyramid import PyramidConfig, PyramidLossConfig
from model.kinds import build, build_objective
from trainer.config import Config, OptimConfig
from trainer.training.averaging import AVERAGE
from trainer.training.checkpoints import State
from trainer.training.divergence import Faults
from trainer.training.loop import train_epoch
from trainer.training.meter import Meter
from trainer.training.optimization import make_optimizer, set_rates, step_if_finite
from trainer.training.preemption import StopSignals
from trainer.training.sharding import Learner

SHAPE = {"video_width": 12, "text_width": 10, "width": 32, "heads": 4}
SMALL = {
    "sdst": (SDSTConfig(**SHAPE, layers=(-1, -2), queries=6, query_dropout=0.5), LossConfig),
    "moment_detr": (MomentDETRConfig(**SHAPE, queries=6, feed_forward=64), DETRLossConfig),
    "qd_detr": (QDDETRConfig(**SHAPE, queries=6, feed_forward=64), DETRLossConfig),
    "pyramid": (PyramidConfig(**SHAPE, feed_forward=64, encoder_layers=1), PyramidLossConfig),
}


def batch(pairs=4, clips=9, tokens=5, layers=2):
    rows = [Annotation(f"q{row}", "", "v", 2.0 * clips, None) for row in range(pairs)]
    return PairBatch(
        video=torch.randn(pairs, clips, layers, 12).half(),
        video_mask=torch.ones(pairs, clips, dtype=torch.bool),
        text=torch.randn(pairs, tokens, layers, 10).half(),
        text_mask=torch.ones(pairs, tokens, dtype=torch.bool),
        windows=torch.rand(pairs, 2, 2),
        window_mask=torch.ones(pairs, 2, dtype=torch.bool),
        saliency=torch.rand(pairs, clips),
        span=torch.full((pairs,), 2.0 * clips),
        repeated=torch.zeros(pairs, dtype=torch.bool),
        present=torch.ones(pairs, dtype=torch.int8),
        sentence=torch.arange(pairs),
        sentences=torch.arange(pairs)[:, None],
        annotations=rows,
    )


class Operators(TorchDispatchMode):
    """The names of the operators that run while it is entered."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function))
        return function(*args, **(kwargs or {}))


def train_fake(kind, matching=None, **optim):
    """Three steps of the trainer's own loop on tensors without numbers: faults and operators."""
    config, loss = SMALL[kind]
    given = {"matching_kernel": matching} if matching else {}
    config = Config(model=config, loss=loss(**given), optim=OptimConfig(**optim))
    accelerator = Accelerator(
        cpu=True,
        device_placement=False,  # fake tensors cannot be swapped
        gradient_accumulation_steps=config.optim.accumulate,
    )
    with FakeTensorMode(), Operators() as operators:
        model = build(config.model)
        learner = Learner(accelerator, model, make_optimizer(model, config.optim))
        state = State()
        faults = Faults(accelerator, state, 0)
        train_epoch(
            learner,
            build_objective(config.model, config.loss),
            [batch() for _ in range(3)],
            accelerator,
            StopSignals(accelerator, 30, workers=False),
            config,
            state,
            3,
            Meter(1.0, 1.0),
            faults,
            lambda: None,
        )
    assert state.step == 3
    return faults, operators.names


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sdst", {"matching": "triton"}),
        ("sdst", {"matching": "triton", "averaging": 0.9, "accumulate": 2, "clip_norm": 0.0}),
        ("moment_detr", {"matching": "triton"}),
        ("qd_detr", {"matching": "triton"}),
        ("pyramid", {}),
    ],
)
def test_the_host_reads_nothing_of_a_step_until_its_record(kind, options, monkeypatch):
    """Model, matching, losses, backward, clipping, optimizer, averages, meter and faults: reading
    any number of a fake tensor fails, as settling the faults then does. The matching on the device
    is an operator, whose inside `test_matching_triton` looks at."""
    if "matching" in options:  # it is asked on a CPU here
        kernel = pytest.importorskip("model.objective.matching_triton")
        monkeypatch.setattr(kernel, "INTERPRETED", True)
    faults, operators = train_fake(kind, **options)
    assert "aten._fused_adamw_.default" in operators
    assert "sdst.assign.default" not in operators  # which does read
    assert ("sdst.assign_on_device.default" in operators) == (kind != "pyramid")
    with pytest.raises(DataDependentOutputException):
        faults.settle()


def test_scipys_matching_is_what_is_left_of_it_by_default():
    _, operators = train_fake("sdst")
    assert "sdst.assign.default" in operators


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing_and_counts_for_nothing(bad):
    torch.manual_seed(0)
    config = OptimConfig(averaging=0.9, warmup=0)
    model = build(SMALL["sdst"][0])
    optimizer = make_optimizer(model, config)

    def step(number, norm):
        set_rates(optimizer, number, 0.0, 1, config)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, norm)
        step_if_finite(optimizer, optimizer, torch.tensor(norm))

    def held():
        return copy.deepcopy([[p.detach(), optimizer.state[p]] for p in model.parameters()])

    step(0, 0.5)
    step(1, 0.5)  # from here on the average is not the weights
    before = held()
    assert float(before[0][1]["step"]) == 2
    step(2, bad)
    after = held()
    for (weight, states), (now, states_now) in zip(before, after, strict=True):
        assert torch.equal(weight, now)
        assert states.keys() == states_now.keys() == {"step", "exp_avg", "exp_avg_sq", AVERAGE}
        assert all(torch.equal(states[key], states_now[key]) for key in states)
    step(3, 0.5)
    assert float(held()[0][1]["step"]) == 3
    assert not torch.equal(held()[0][0], after[0][0])
    assert not torch.equal(held()[0][1][AVERAGE], after[0][1][AVERAGE])


def test_a_batch_says_how_much_of_it_is_padding():
    from trainer.training.loop import padding

    mask = torch.tensor([[True, True, False, False], [True, False, False, False]])
    assert padding(mask) == pytest.approx(5 / 8)
