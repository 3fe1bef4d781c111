import torch

from trainer.config import OptimConfig
from trainer.training.optimization import averaging
from trainer.training.randomness import draw_pairs, seed_step


def test_a_pair_draws_the_same_number_on_any_rank():
    whole = draw_pairs(3, 7, rank=0, world=1, pairs=12)
    for world in (2, 3, 4):
        ranks = [draw_pairs(3, 7, rank, world, 12) for rank in range(world)]
        assert torch.equal(torch.stack(ranks, dim=1).flatten(), whole)


def test_steps_ranks_and_seeds_draw_different_numbers_and_the_same_ones_again():
    def draw(*key):
        seed_step(*key)
        return torch.rand(4).tolist()

    keys = [(seed, step, rank) for seed in (0, 1) for step in (0, 1) for rank in (0, 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert draw(0, 1, 1) == draw(0, 1, 1)


def test_the_average_forgets_fast_at_first_and_slowly_later():
    config = OptimConfig(averaging=0.99)
    decays = [averaging(step, config) for step in range(2000)]
    assert decays[0] == 0.1
    assert decays == sorted(decays)
    assert decays[-1] == 0.99
