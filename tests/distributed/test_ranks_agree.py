"""Two ranks, DDP or ZeRO, end with the weights of one; a run changes its ranks as it goes on."""

import json
import signal
from collections import Counter

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIGTERM = int(signal.SIGTERM)


def check_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("zero", [None, 1, 2, 3])
def test_two_ranks_end_with_the_weights_and_scores_of_one(ranks, flags, zero):
    if zero:
        pytest.importorskip("deepspeed")
    assert ranks.run(flags(name="one"))[0] == [0]
    codes, outputs = ranks.run(flags(name="two"), world=2, zero=zero)
    assert codes == [0, 0], outputs
    assert (f"DEEPSPEED ZeRO {zero}" if zero else "MULTI_CPU") in outputs[0]
    check_same(ranks.weights("two"), ranks.weights("one"), 1e-5)
    one, two = (
        json.loads((ranks.folder / name / "metrics.json").read_text()) for name in ("one", "two")
    )
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-3)
    assert two["baselines"] == one["baselines"]


def test_a_run_goes_on_with_other_ranks_after_being_stopped(ranks, flags):
    """1 process, then 2, then ZeRO 3, then 1 again; SIGTERM reaches one rank only."""
    pytest.importorskip("deepspeed")
    assert ranks.run(flags(name="whole"))[0] == [0]
    attempts = [
        ({"world": 1}, "0:4"),
        ({"world": 2}, "1:10"),
        ({"world": 2, "zero": 3}, "0:15"),
        ({"world": 1}, None),
    ]
    for options, at in attempts:
        signals = {"SIGNAL": f"{at}:{SIGTERM}"} if at else {}
        codes, outputs = ranks.run(flags(name="moved"), **options, **signals)
        assert set(codes) == ({75} if at else {0}), outputs
    whole, moved = ranks.records("whole"), ranks.records("moved")
    assert whole.keys() == moved.keys() == set(range(1, 25))
    for step, record in whole.items():
        assert moved[step]["loss"] == pytest.approx(record["loss"], abs=1e-4), step
    check_same(ranks.weights("moved"), ranks.weights("whole"), 1e-5)
    assert Counter(ranks.pairs("moved")) == Counter(ranks.pairs("whole"))


def test_bf16_and_parts_of_a_batch_train_under_zero_as_under_ddp(ranks, flags):
    pytest.importorskip("deepspeed")
    more = {"precision": "bf16", "optim.accumulate": 2, "epochs": 1}
    for name, options in {"ddp": {}, "zero": {"zero": 2}}.items():
        codes, outputs = ranks.run(flags(name=name, **more), world=2, **options)
        assert codes == [0, 0], outputs
    for step, record in ranks.records("ddp").items():
        assert ranks.records("zero")[step]["loss"] == pytest.approx(record["loss"], abs=1e-4)
