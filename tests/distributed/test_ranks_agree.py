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


@pytest.mark.parametrize(
    ("file", "got"),
    [
        ("cpu", "DDP, gloo"),
        ("zero1", "DeepSpeed ZeRO 1, gloo"),
        ("zero2", "DeepSpeed ZeRO 2, gloo"),
        ("zero3", "DeepSpeed ZeRO 3, gloo"),
    ],
)
def test_two_ranks_end_with_the_weights_and_scores_of_one(ranks, alone, flags, file, got):
    if "zero" in file:
        pytest.importorskip("deepspeed")
    codes, outputs = ranks.run(flags(name="two"), world=2, file=file)
    assert codes == [0, 0], outputs
    assert got in outputs[0]
    check_same(ranks.weights("two"), alone.weights("whole"), 1e-5)
    one, two = (
        json.loads((run / "metrics.json").read_text())
        for run in (alone.folder / "whole", ranks.folder / "two")
    )
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-3)
    assert two["baselines"] == one["baselines"]


QD_DETR = {
    "model.kind": "qd_detr",
    "model.layers": "[-1]",
    "model.feed_forward": 64,
    "model.existence": "true",
}


@pytest.mark.parametrize("file", ["cpu", "zero1", "zero2", "zero3"])
def test_another_kind_of_model_ends_on_two_ranks_as_on_one(ranks, flags, file):
    """QD-DETR, whose negative pairs are of other ranks; stopped in the middle under ZeRO 2.

    A slow sine of the clips' places is nearly the same for all of them, so that the weights of the
    keys that read it are like a bias of the keys: see `Ranks.weights`.
    """
    if "zero" in file:
        pytest.importorskip("deepspeed")
    given = QD_DETR | {"epochs": 2, "eval.every": 2}
    assert ranks.run(flags(name="one", **given))[0] == [0]
    if file == "zero2":
        line = flags(name="two", **given)
        codes, outputs = ranks.run(line, world=2, file=file, SIGNAL=f"1:7:{SIGTERM}")
        assert codes == [75, 75], outputs
    codes, outputs = ranks.run(flags(name="two", **given), world=2, file=file)
    assert codes == [0, 0], outputs
    one, two = (
        {k: v for k, v in ranks.weights(name).items() if "key_place" not in k}
        for name in ("one", "two")
    )
    check_same(two, one, 1e-4)
    losses = [[r["loss"] for r in ranks.records(name).values()] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def test_a_run_goes_on_with_other_ranks_after_being_stopped(ranks, alone, flags):
    """1 process, then 2, then ZeRO 3, then 1 again. SIGTERM reaches one rank only, and the first
    time all processes of the rank, its loader's workers among them."""
    pytest.importorskip("deepspeed")
    attempts = [
        ({"data.workers": 2}, {"SIGNAL": f"0:4:{-SIGTERM}"}),
        ({}, {"world": 2, "file": "ddp", "SIGNAL": f"1:10:{SIGTERM}"}),
        ({}, {"world": 2, "file": "zero3", "SIGNAL": f"0:15:{SIGTERM}"}),
        ({}, {}),
    ]
    for changes, options in attempts:
        codes, outputs = ranks.run(flags(name="moved", **changes), **options)
        assert set(codes) == ({75} if "SIGNAL" in options else {0}), outputs
    whole, moved = alone.records("whole"), ranks.records("moved")
    assert whole.keys() == moved.keys() == set(range(1, 25))
    for step, record in whole.items():
        assert moved[step]["loss"] == pytest.approx(record["loss"], abs=1e-4), step
    check_same(ranks.weights("moved"), alone.weights("whole"), 1e-5)
    assert Counter(ranks.pairs("moved")) == Counter(alone.pairs("whole"))


def test_bf16_and_parts_of_a_batch_train_under_zero_as_under_ddp(ranks, flags):
    """A step whose gradient is not finite is left out, too, and the pair at fault is named.

    ZeRO 3 has a linear layer of its own, which rounds to bf16 once more, before the bias.
    """
    pytest.importorskip("deepspeed")
    more = {"precision": "bf16", "optim.accumulate": 2, "epochs": 1, "optim.skip_not_finite": 1}
    steps = {}
    for file in ("ddp", "zero2", "zero3"):
        codes, outputs = ranks.run(flags(name=file, **more), world=2, file=file, SPOIL="1:3")
        assert codes == [0, 0], outputs
        [[qid, *_]] = [r["qids"] for r in ranks.noted(file) if r["step"] == 3 and r["rank"] == 1]
        assert "step 3: the gradient is not finite" in outputs[0]
        assert qid in outputs[0]
        steps[file] = [record["loss"] for record in ranks.records(file).values()]
    assert len(steps["ddp"]) == 6
    assert steps["zero2"] == pytest.approx(steps["ddp"], abs=1e-4, nan_ok=True)
    assert steps["zero3"] == pytest.approx(steps["ddp"], rel=2e-3, nan_ok=True)
