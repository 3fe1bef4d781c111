"""Are our contrastive terms those of R2-Tuning, on outputs and losses that its code recorded?"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.objective.contrastive import alignment, sampled_nce

RECORDED = Path(__file__).parents[2] / "goldens" / "r2_tuning" / "small.safetensors"
SCALE, WEIGHT, LAYERS = 1 / 0.07, 0.1, 3  # of the recorded configuration


@pytest.fixture(scope="module")
def recorded():
    return load_file(RECORDED)


def close(ours, theirs):
    torch.testing.assert_close(WEIGHT * ours, theirs, atol=2e-5, rtol=1e-4)


def test_both_alignment_terms_are_the_recorded_ones(recorded):
    positive = recorded["target.pos_clip"][:, 0]  # (B,)
    pairs = torch.arange(len(positive))
    clips = [recorded[f"output.coll_v.{layer}"][pairs, positive] for layer in range(LAYERS)]
    sentences = [recorded[f"output.coll_q.{layer}"][:, 0] for layer in range(LAYERS)]
    batch, layers = alignment(
        torch.stack(clips), torch.stack(sentences), torch.ones_like(positive, dtype=bool), SCALE
    )
    close(batch, recorded["loss.loss_video_cal"])
    close(layers, recorded["loss.loss_layer_cal"])


def test_the_highlight_term_is_the_recorded_one(recorded):
    similarity = torch.cosine_similarity(
        recorded["output.video_emb"], recorded["output.query_emb"], dim=-1
    )  # (B, L)
    positive = recorded["target.pos_clip"][:, 0]
    every = torch.ones_like(positive, dtype=bool)
    mask = recorded["output.video_msk"].bool()
    loss = sampled_nce(similarity, recorded["target.saliency"], mask, positive, every, SCALE)
    close(loss, recorded["loss.loss_sal"])
