"""Two ranks with half the batch each must learn exactly what one rank with all of it learns.

Run as a program, this file is one of the ranks.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from model.config import LossConfig, LossWeights, SDSTConfig
from model.objective.losses import Criterion
from model.sdst.sdst import SDST

PAIRS = 6
CLIPS = torch.tensor([4, 9, 7, 12, 3, 12])  # the longest of the two halves differ


def learn(rows, wrap):
    """Losses and gradients of the given rows of a fixed batch, padded to their own longest."""
    torch.manual_seed(0)
    config = SDSTConfig(
        video_width=12, text_width=10, layers=(-1, -2), width=32, heads=4, queries=6,
        input_dropout=0.0, dropout=0.0, roi_bins=4,
    )  # fmt: skip
    model = SDST(config)
    with torch.no_grad():  # away from the zero initialisations, so that every part has a gradient
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    video, text = torch.randn(PAIRS, 12, 2, 12), torch.randn(PAIRS, 5, 2, 10)
    windows = torch.rand(PAIRS, 3, 2) * 0.5 + 0.2
    window_mask = torch.arange(3) < torch.tensor([3, 0, 1, 2, 2, 1])[:, None]
    saliency = torch.randint(0, 4, (PAIRS, 12)) / 3
    saliency[2] = 0  # a pair without highlights, so that the halves count differently many
    draw = torch.rand(PAIRS)
    longest = int(CLIPS[rows].max())
    clip_mask = torch.arange(longest) < CLIPS[rows][:, None]
    wrapped = wrap(model)  # held on to: DDP averages during the backward pass
    prediction = wrapped(
        video[rows, :longest], clip_mask, text[rows], torch.ones(len(draw[rows]), 5) > 0
    )
    weights = LossWeights(saliency=1, alignment_batch=1, alignment_layers=1)
    total, losses = Criterion(LossConfig(weights=weights))(
        prediction, windows[rows], window_mask[rows], saliency[rows, :longest], clip_mask,
        draw[rows],
    )  # fmt: skip
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def run_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    half = PAIRS // 2
    losses, gradients = learn(slice(rank * half, (rank + 1) * half), DistributedDataParallel)
    for loss in losses.values():
        dist.all_reduce(loss)
    if rank == 0:
        torch.save({"losses": losses, "gradients": gradients}, f"{folder}/result.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_ranks_with_half_the_batch_each_learn_what_one_rank_learns(tmp_path):
    root = Path(__file__).parents[3]
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], cwd=root,
                         env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [rank.wait(timeout=250) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    losses, gradients = learn(slice(None), lambda model: model)
    for name, loss in losses.items():
        torch.testing.assert_close(result["losses"][name] / 2, loss, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            result["gradients"][name], gradient, atol=1e-5, rtol=1e-5, msg=name
        )


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
