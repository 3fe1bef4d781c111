"""What is an average of the weights over the steps, and where is it kept?

In the optimizer, as one more state of each parameter beside Adam's moments. So it is made from the
fp32 master weights, cut up among the ranks as ZeRO cuts the moments, and it is saved, restored and
put together with them: no copy of the model, no traffic, no case of its own.
"""

from typing import Any

import torch

AVERAGE = "average"


def keep_averages(optimizer: torch.optim.Optimizer) -> None:
    """Let every step of `optimizer` move the averages by the `averaging` of each parameter group.

    An average begins as the weights after the first step. See `averaging` in `optimization.py`.
    """
    optimizer.register_step_post_hook(_move)


@torch.no_grad()
def _move(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimizer.state[parameter]
            if AVERAGE in state:
                state[AVERAGE].lerp_(parameter, 1 - group["averaging"])
            else:
                state[AVERAGE] = parameter.detach().clone()
