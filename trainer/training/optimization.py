"""How do the weights move: optimizer, parameter groups, learning rate as a function of the step?"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from model.interface import GroundingModel
from trainer.config import OptimConfig
from trainer.training.averaging import keep_averages


def make_optimizer(model: GroundingModel, config: OptimConfig) -> torch.optim.Optimizer:
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
        return torch.optim.AdamW(settings, lr=config.lr, fused=True)
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ImportError(
            "optim.kernel apex needs NVIDIA apex (not the package of that name on PyPI): "
            "pip install --no-build-isolation git+https://github.com/NVIDIA/apex"
        ) from error
    return FusedAdam(settings, lr=config.lr, adam_w_mode=True)  # type: ignore[no-any-return]


def step_if_finite(optimizer: torch.optim.Optimizer, prepared: Any, norm: Tensor) -> None:
    """Do a step by `prepared`, which is around `optimizer`, unless the gradient's norm is not
    finite: then weights, moments, counts and averages stay as they are.

    PyTorch's fused optimizers take that decision on the device, as they take a GradScaler's; for
    apex's it is read on the host.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        prepared.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    elif torch.isfinite(norm):
        prepared.step()


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
