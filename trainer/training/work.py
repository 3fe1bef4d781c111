"""How much arithmetic is a training pair, and how much could this device do in the same time?"""

import time
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import ModelConfig
from model.kinds import build


@cache
def flops_per_pair(config: ModelConfig, clips: int, tokens: int) -> float:
    """Floating-point operations, forward and backward, of one pair of `clips` and `tokens`.

    Counts matrix products and convolutions of the model in its plain PyTorch form; the losses, the
    optimizer and everything elementwise are left out. Draws nothing from the random state.
    """
    layers = max(layer + 1 if layer >= 0 else -layer for layer in config.layers)
    with torch.random.fork_rng(devices=[]):
        model = build(config.portable())
        with FlopCounterMode(display=False) as counter:
            prediction = model(
                torch.zeros(1, clips, layers, config.video_width),
                torch.ones(1, clips, dtype=torch.bool),
                torch.zeros(1, tokens, layers, config.text_width),
                torch.ones(1, tokens, dtype=torch.bool),
            )
            outputs = [x for x in prediction.tensors() if x.requires_grad]
            torch.autograd.backward([x.sum() for x in outputs])
    return float(counter.get_total_flops())


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of large matrix products on `device`, best of several.

    What this process can reach with the threads it has, not the maker's figure.
    """
    size, rounds = (8192, 5) if device.type == "cuda" else (1024, 3)
    # A GPU multiplies constants faster than numbers; the generator is not the one of training.
    draw = torch.Generator(device).manual_seed(0)
    a = torch.rand(size, size, device=device, dtype=dtype, generator=draw)
    seconds = []
    for _ in range(rounds + 1):  # the first one warms up
        begin = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds[1:])
