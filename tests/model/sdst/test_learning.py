"""The model and its losses together can learn what they are shown."""

import torch

from model.config import LossConfig
from model.objective.losses import Criterion
from model.spans import iou, to_edges


def test_eight_random_pairs_are_learned_by_heart_within_300_steps(small_model):
    torch.manual_seed(0)
    B, L, T, K = 8, 20, 6, 2
    model = small_model(width=64, queries=10)
    video, text = torch.randn(B, L, K, 12), torch.randn(B, T, K, 10)
    clip_mask, token_mask = torch.ones(B, L) > 0, torch.ones(B, T) > 0
    start, width = torch.rand(B) * 0.5, torch.rand(B) * 0.4 + 0.1
    windows = torch.stack((start + width / 2, width), -1)[:, None]  # (B, 1, 2)
    instants = (torch.arange(L) + 0.5) / L
    saliency = (instants > start[:, None]) & (instants < (start + width)[:, None])

    criterion = Criterion(LossConfig())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(300):
        prediction = model(video, clip_mask, text, token_mask)
        best = prediction.scores().argmax(1)
        chosen = prediction.spans[-1, torch.arange(B), best].detach()
        overlap = iou(to_edges(chosen), to_edges(windows[:, 0]))
        if (overlap >= 0.7).all():  # R1@0.7 is 100
            return
        total, _ = criterion(prediction, windows, torch.ones(B, 1) > 0, saliency.float(), clip_mask)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    raise AssertionError(f"best overlaps after 300 steps: {overlap.tolist()}")
