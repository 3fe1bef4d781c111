"""What is an average of the weights over the steps, and where is it kept?

In the optimizer, as one more state of each parameter beside Adam's moments. So it is made from the
fp32 master weights, cut up among the ranks as ZeRO cuts the moments, and it is saved, restored and
put together with them: no copy of the model, no traffic, no case of its own.
"""

from typing import Any

import torch
from torch import Tensor

AVERAGE = "average"


def keep_averages(optimizer: torch.optim.Optimizer) -> None:
    """Let every step of `optimizer` move the averages by the `averaging` of each parameter group.

    An average begins as the weights after the first step. A step that is left out moves none (see
    `step_if_finite`). See `averaging` in `optimization.py`.
    """
    optimizer.register_step_post_hook(_move)


@torch.no_grad()
def _move(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    left_out = getattr(optimizer, "found_inf", None)
    for group in optimizer.param_groups:
        share: float | Tensor = 1 - group["averaging"]
        if left_out is not None:
            share = share * (1 - left_out)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimizer.state[parameter]
            if AVERAGE in state:
                state[AVERAGE].lerp_(parameter, share)
            else:
                state[AVERAGE] = parameter.detach().clone()
