"""What does one clip cost InternVideo2-1B? Time and memory at full size, with random weights.

python tests/benchmarks/bench_internvideo2.py [--device cuda --batch 8 --compile true]
"""

import resource
import sys
import time
from typing import Literal

import jsonargparse
import torch

from model.backbones.internvideo2 import InternVideo2
from model.config import Backend, InternVideo2Config

TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def measure(
    batch: int = 1,
    frames: int = 4,
    repeats: int = 1,
    device: str = "cpu",
    arithmetic: Literal["bfloat16", "float32"] = "bfloat16",
    compile: bool = False,
    attention: Backend = "sdpa",
) -> None:
    """Print the seconds that five layers of a clip take, and the memory.

    Processor time is what to go by on a machine that does other work too.

    Args:
        batch: clips encoded at once
        frames: frames of a clip
        repeats: timed runs, after one that is not timed if there are several
        device: cpu or cuda
        arithmetic: floating-point type of the weights
        compile: use torch.compile
        attention: backend of model/layers/attention.py
    """
    start = time.perf_counter()
    with torch.device("meta"):
        encoder = InternVideo2(InternVideo2Config(compile=compile, attention=attention))
        shapes = {key: value.shape for key, value in encoder.state_dict().items()}
    encoder.load_official(
        {
            key: torch.empty(shape, dtype=TYPES[arithmetic], device=device).normal_(std=0.02)
            for key, shape in shapes.items()
        }
    )
    count = sum(parameter.numel() for parameter in encoder.parameters())
    print(f"{count / 1e9:.3f} B parameters in {arithmetic}, made in {seconds(start):.1f} s")
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads")

    video = torch.randn(batch, 3, frames, 224, 224, device=device)
    layers = [-5, -4, -3, -2, -1]
    if repeats > 1:
        encoder(video, layers)
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        features = encoder(video, layers)
        assert features.isfinite().all()  # also waits for the device
    clips = repeats * batch
    print(f"layers {layers} of clips of {frames} frames, {batch} at once:")
    print(f"{seconds(start) / clips:.4f} s a clip")
    print(f"{(time.process_time() - busy) / clips:.4f} s of processor time a clip")
    if device != "cpu":
        print(f"peak device memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    print(f"peak resident memory {peak:.2f} GiB")


def seconds(since: float) -> float:
    return time.perf_counter() - since


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(measure))
