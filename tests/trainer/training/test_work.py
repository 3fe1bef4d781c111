import torch

from model.config import SDSTConfig
from trainer.training.work import flops_per_pair, measure_peak

SMALL = SDSTConfig(video_width=32, text_width=48, width=16, heads=2, queries=3, layers=(-1,))


def test_more_clips_and_wider_features_are_more_work():
    base = flops_per_pair(SMALL, 20, 5)
    assert base < flops_per_pair(SMALL, 40, 5) < 4 * base
    wider = SDSTConfig(video_width=64, text_width=48, width=16, heads=2, queries=3, layers=(-1,))
    # The first projection of 20 clips, forward, and backward for its weights.
    assert flops_per_pair(wider, 20, 5) - base == 2 * 2 * 20 * 32 * 16


def test_counting_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    flops_per_pair(SMALL, 21, 6)  # not counted before
    assert torch.equal(before, torch.get_rng_state())


def test_a_device_has_a_rate():
    assert measure_peak(torch.device("cpu"), torch.float32) > 1e8
