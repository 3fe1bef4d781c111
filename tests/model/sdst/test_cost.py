"""What the model costs, in multiplications: linear in clips and queries but for self-attention."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

WIDTH, STEPS, BATCH = 32, 2, 2  # of the small model


def flops(small_model, inputs, clips: int = 16, queries: int = 8, backward: bool = True, **changes):
    model = small_model(queries=queries, **changes)
    batch = inputs([clips] * BATCH, [4] * BATCH)
    with FlopCounterMode(display=False) as counter:
        prediction = model(*batch)
        if backward:
            (prediction.spans.sum() + prediction.actionness.sum()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("axis", ["clips", "queries"])
def test_cost_grows_linearly_but_for_the_self_attention(small_model, inputs, axis):
    one, two, three = (flops(small_model, inputs, **{axis: size}) for size in (32, 64, 96))
    # Scores and mixtures: 2 multiply-adds of width F per pair of tokens, forward and twice back.
    square = BATCH * STEPS * 3 * 4 * WIDTH * 32**2
    assert three - 2 * two + one == 2 * square


def test_a_layer_that_repeats_is_projected_once(small_model, inputs):
    once = flops(small_model, inputs, layers=(-1,), backward=False)
    twice = flops(small_model, inputs, layers=(-1, -1), backward=False)
    other = flops(small_model, inputs, layers=(-1, -2), backward=False)
    # Features of 16 clips and 4 tokens to F, the text's keys and values for two streams, pooling.
    clips, tokens = (12 + WIDTH) * WIDTH, (10 + WIDTH + 4 * WIDTH + 1) * WIDTH
    assert other - twice == 2 * BATCH * (16 * clips + 4 * tokens)
    assert twice < 2 * once
