"""Two ranks with half the batch each must learn exactly what one rank with all of it learns.

Run as a program, this file is one of the ranks.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from model.config import LossConfig, LossWeights
from model.interface import Sentences
from model.kinds import KINDS, build, build_objective
from model.objective import ranks
from model.objective.ranks import next_sentences

PAIRS = 6
CLIPS = torch.tensor([4, 9, 7, 12, 3, 12])  # the longest of the two halves differ
WORDS = torch.tensor([5, 3, 1, 4, 2, 3])


OWN = {
    "sdst": {"layers": (-1, -2), "queries": 6, "roi_bins": 4},
    "moment_detr": {"queries": 6, "feed_forward": 64},
    "qd_detr": {"queries": 6, "feed_forward": 64},
    "pyramid": {"feed_forward": 64, "dummies": 3, "encoder_layers": 1, "text_to_video_layers": 2},
    "pyramid with a recurrent encoder": {
        "encoder": "recurrent", "layers": (-1, -2), "feed_forward": 64,
    },
}  # fmt: skip
JUDGED = "moment_detr that judges existence"


def learn(kind, rows, wrap):
    """Losses and gradients of the given rows of a fixed batch, padded to their own longest."""
    torch.manual_seed(0)
    judged, own, kind = kind == JUDGED, OWN.get(kind), kind.partition(" ")[0]
    config = KINDS[kind].config(
        video_width=12, text_width=10, width=32, heads=4, input_dropout=0.0, dropout=0.0,
        existence=judged, **(own or OWN[kind]),
    )  # fmt: skip
    model = build(config)
    with torch.no_grad():  # away from the zero initialisations, so that every part has a gradient
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    video, text = torch.randn(PAIRS, 12, 2, 12), torch.randn(PAIRS, 5, 2, 10)
    windows = torch.rand(PAIRS, 3, 2) * 0.5 + 0.2
    window_mask = torch.arange(3) < torch.tensor([3, 0, 1, 2, 2, 1])[:, None]
    saliency = torch.randint(0, 4, (PAIRS, 12)) / 3
    saliency[2] = 0  # a pair without highlights, so that the halves count differently many
    draw = torch.rand(PAIRS)
    longest = int(CLIPS.max() if judged else CLIPS[rows].max())
    told = {}
    if judged:  # the last two are about one video, the fourth says what the first does
        present = torch.tensor([1, 0, -1, 1, 1, 1], dtype=torch.int8)[rows]
        said = torch.tensor([1, 2, 3, 1, 5, 6])
        own = torch.stack((said, torch.tensor([0, 0, 0, 0, 6, 5])), 1)[rows]
        told = {"sentences": Sentences(present, said[rows], own)}
    clip_mask = torch.arange(longest) < CLIPS[rows][:, None]
    wrapped = wrap(model)  # held on to: DDP averages during the backward pass
    word_mask = torch.arange(5) < WORDS[rows][:, None]
    # All ranks pad sentences alike: `next_sentences` asks for it.
    words = int(WORDS.max()) if config.needs_negatives else int(WORDS[rows].max())
    sentences = text[rows, :words], word_mask[:, :words]
    others = next_sentences(*sentences) if config.needs_negatives else {}
    prediction = wrapped(video[rows, :longest], clip_mask, *sentences, **others)
    weights = LossWeights(saliency=1, alignment_batch=1, alignment_layers=1)
    loss = LossConfig(weights=weights) if kind == "sdst" else KINDS[kind].loss()
    total, losses = build_objective(config, loss)(
        prediction, windows[rows], window_mask[rows], saliency[rows, :longest], clip_mask,
        draw[rows], **told,
    )  # fmt: skip
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def run_rank(kind, rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    # Row i of rank r of W is row r + W i of the global batch.
    losses, gradients = learn(kind, slice(rank, None, 2), DistributedDataParallel)
    for loss in losses.values():
        dist.all_reduce(loss)
    if rank == 0:
        torch.save({"losses": losses, "gradients": gradients}, f"{folder}/result.pt")
    dist.barrier()
    os._exit(0)  # threads of the group that still run would abort an ordinary end now and then


@pytest.mark.parametrize("rank", range(3))
def test_negatives_of_a_rank_are_the_next_pairs_sentences_in_the_global_batch(monkeypatch, rank):
    text, mask = torch.arange(6.0)[:, None], torch.arange(6)[:, None] % 2 > 0  # row i is pair i
    monkeypatch.setattr(ranks, "world_size", lambda: 3)
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: rank)
    # Row i of rank r is row r + 3 i of the global batch.
    given = iter([torch.cat([x[r::3] for r in range(3)]) for x in (text, mask)])
    monkeypatch.setattr(ranks, "gather", lambda x: next(given))
    other = ranks.next_sentences(text[rank::3], mask[rank::3])
    assert torch.equal(other["other_text"], text.roll(-1, 0)[rank::3])
    assert torch.equal(other["other_text_mask"], mask.roll(-1, 0)[rank::3])


def test_one_rank_leaves_the_choice_of_negatives_to_the_model():
    assert ranks.next_sentences(torch.zeros(2, 1), torch.ones(2, 1) > 0) == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [*OWN, JUDGED])
def test_two_ranks_with_half_the_batch_each_learn_what_one_rank_learns(tmp_path, kind):
    root = Path(__file__).parents[3]
    processes = [
        subprocess.Popen([sys.executable, __file__, kind, str(rank), str(tmp_path)], cwd=root,
                         env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [process.wait(timeout=250) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    losses, gradients = learn(kind, slice(None), lambda model: model)
    for name, loss in losses.items():
        torch.testing.assert_close(result["losses"][name] / 2, loss, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            result["gradients"][name], gradient, atol=1e-5, rtol=1e-5, msg=name
        )


if __name__ == "__main__":
    run_rank(sys.argv[1], int(sys.argv[2]), sys.argv[3])
