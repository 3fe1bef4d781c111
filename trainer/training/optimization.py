"""How do the weights move: optimizer, parameter groups, learning rate as a function of the step?"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from model.sdst.sdst import SDST
from trainer.training.averaging import keep_averages


@dataclass(frozen=True)
class OptimConfig:
    """Defaults are the schedule of R2-Tuning, which SDST's authors build on.

    Attributes:
        lr: peak learning rate
        slow: factor on the learning rate of the sampling offsets and references (TadTR)
        weight_decay: AdamW's decay of matrices; biases, norms and scalars are not decayed
        warmup: optimizer steps of linear warm-up
        schedule: what follows the warm-up
        drop_at: epoch after which "step" multiplies the rate by 0.1
        clip_norm: largest norm of the whole gradient, 0 to leave it
        accumulate: parts that a batch is taken in, one after the other, where it does not fit the
            memory at once; the batch of a step stays data.batch_size pairs
        averaging: decay of the average of the weights that is scored and exported, e.g. 0.999;
            0 scores and exports the weights themselves
        skip_not_finite: steps of a run that may be left out because their gradient is not finite,
            before the run stops; 0 stops at the first
        kernel: "apex" takes NVIDIA's FusedAdam, an error where it is not installed
    """

    lr: float = 2.5e-4
    slow: float = 0.1
    weight_decay: float = 1e-4
    warmup: int = 500
    schedule: Literal["constant", "step", "cosine"] = "step"
    drop_at: int = 20
    clip_norm: float = 35.0
    accumulate: int = 1
    averaging: float = 0.0
    skip_not_finite: int = 0
    kernel: Literal["torch", "apex"] = "torch"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip_norm < 0 or self.warmup < 0:
            raise ValueError(
                "optim.lr must be positive, optim.clip_norm and optim.warmup not negative"
            )
        if self.accumulate < 1 or self.skip_not_finite < 0:
            raise ValueError(
                "optim.accumulate must be at least 1, optim.skip_not_finite not negative"
            )
        if not 0 <= self.averaging < 1:
            raise ValueError(f"optim.averaging {self.averaging} must be in [0, 1)")


def make_optimizer(model: SDST, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over four groups: (slow or not) x (decayed or not); each keeps its `peak` rate.

    With `averaging` it also keeps averages of the weights: see `averaging.py`.
    """
    slow = {id(parameter) for parameter in model.slow_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in slow, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "peak": config.lr * (config.slow if is_slow else 1),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (is_slow, decayed), parameters in groups.items()
    ]
    optimizer = _adamw(settings, config)
    if config.averaging:
        keep_averages(optimizer)
    return optimizer


def _adamw(settings: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    if config.kernel == "torch":
        return torch.optim.AdamW(settings, lr=config.lr, fused=torch.cuda.is_available())
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ImportError(
            "optim.kernel apex needs NVIDIA apex (not the package of that name on PyPI): "
            "pip install --no-build-isolation git+https://github.com/NVIDIA/apex"
        ) from error
    return FusedAdam(settings, lr=config.lr, adam_w_mode=True)  # type: ignore[no-any-return]


def rate(step: int, epoch: float, epochs: int, config: OptimConfig) -> float:
    """The factor on the peak rate at an optimizer step (counted from 0).

    A pure function, so resuming needs no scheduler state and the world size plays no part.
    `epoch` is how many epochs the step lies from the beginning, with its fraction.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "step":
        return 0.1 if epoch >= config.drop_at else 1.0
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
    return 1.0


def averaging(step: int, config: OptimConfig) -> float:
    """The decay of the average at an optimizer step: smaller at first, so that it forgets the
    random weights of the beginning, (1 + step) / (10 + step) until that reaches the decay."""
    return min(config.averaging, (1 + step) / (10 + step))


def set_rates(
    optimizer: torch.optim.Optimizer, step: int, epoch: float, epochs: int, config: OptimConfig
) -> None:
    """Prepare every group for the optimizer step `step`: see `rate` and `averaging`."""
    factor, decay = rate(step, epoch, epochs, config), averaging(step, config)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
        group["averaging"] = decay
