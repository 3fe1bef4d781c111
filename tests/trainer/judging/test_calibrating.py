"""A calibration is of the whole split, on however many ranks it is passed over."""

import threading
from contextlib import nullcontext
from itertools import chain
from types import SimpleNamespace

import pytest
import torch

from data_pipeline.annotations import Annotation
from data_pipeline.stream.batches import PairBatch
from model.kinds import KINDS, build
from trainer.judging import calibrating
from trainer.judging.calibrating import calibrate

PAIRS, CLIPS, WORDS = 12, 6, 4
SAID = torch.arange(1, PAIRS + 1) - torch.tensor([0] * 11 + [6])  # the last says what 6 says


def whole_batch() -> PairBatch:
    """Every other sentence is absent; the last pair stands in for one that is not there."""
    generator = torch.Generator().manual_seed(0)
    present = torch.arange(PAIRS) % 2 == 0
    sentences = torch.stack((SAID, SAID.roll(1)), 1)
    video = torch.randn(PAIRS, CLIPS, 2, 12, generator=generator)
    text = torch.randn(PAIRS, WORDS, 2, 10, generator=generator)
    return PairBatch(
        video=video,
        video_mask=torch.ones(PAIRS, CLIPS, dtype=torch.bool),
        text=text,
        text_mask=torch.ones(PAIRS, WORDS, dtype=torch.bool),
        windows=torch.zeros(PAIRS, 1, 2),
        window_mask=present[:, None],
        saliency=torch.zeros(PAIRS, CLIPS),
        span=torch.full((PAIRS,), 2.0 * CLIPS),
        present=present.to(torch.int8),
        sentence=SAID,
        sentences=sentences,
        repeated=torch.arange(PAIRS) == PAIRS - 1,
        annotations=[
            Annotation(
                n, f"a {n}", f"v{n}", 2.0 * CLIPS, ((2.0, 8.0),) if n % 2 == 0 or n == 11 else ()
            )
            for n in range(PAIRS)
        ],
    )


def rows_of(batch: PairBatch, rank: int, world: int) -> PairBatch:
    some = batch.map_tensors(lambda x: x[rank::world])
    some.annotations = batch.annotations[rank::world]
    return some


@pytest.fixture
def calibrated(monkeypatch):
    """`calibrated(world)`: the calibration of every one of so many ranks, which are threads."""
    torch.manual_seed(0)
    config = KINDS["moment_detr"].config(
        video_width=12, text_width=10, width=32, heads=4, layers=(-1,), queries=6, feed_forward=64,
        existence=True,
    )  # fmt: skip
    model = build(config).eval()

    def run(world):
        here, meeting = threading.local(), threading.Barrier(world)
        shared, found = {}, [None] * world

        def everyone(value):
            shared[here.rank] = value
            meeting.wait(60)
            values = [shared[rank] for rank in range(world)]
            meeting.wait(60)
            return values

        def rank_main(rank):
            here.rank = rank
            accelerator = SimpleNamespace(
                device=torch.device("cpu"), process_index=rank, num_processes=world,
                autocast=nullcontext, gather=lambda x: torch.cat(everyone(x)),
            )  # fmt: skip
            batch = rows_of(whole_batch(), rank, world)
            found[rank] = calibrate(model, [batch], accelerator, "dev")

        def flat(rows):
            return list(chain.from_iterable(everyone(rows)))

        monkeypatch.setattr(calibrating, "gather_object", flat)
        threads = [threading.Thread(target=rank_main, args=(rank,)) for rank in range(world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return run


@pytest.mark.parametrize("few", [1, 30])
@pytest.mark.parametrize("world", [2, 3])
def test_several_ranks_calibrate_as_one(calibrated, monkeypatch, few, world):
    """With the annotated absent sentences alone, and with those of other videos beside them."""
    monkeypatch.setattr(calibrating, "FEW", few)
    [one] = calibrated(1)
    made = few > 1
    assert one.fitted.startswith("dev: 6 present, 5 absent")
    assert ("by another video's sentence" in one.fitted) == made
    assert one.existence_scale != 1
    for each in calibrated(world):
        assert each.fitted == one.fitted
        for name in (
            "existence_scale", "existence_best", "existence_offset", "window_scale",
            "window_offset", "threshold", "threshold_of_stretches", "threshold_of_search",
        ):  # fmt: skip
            expected = pytest.approx(getattr(one, name), rel=1e-3, abs=1e-4)
            assert getattr(each, name) == expected, name


def test_what_stands_in_or_has_no_other_sentence_is_not_fitted(calibrated, monkeypatch):
    """Best windows, pairs and windows are those of what is there."""
    fitted, best = [], []
    monkeypatch.setattr(calibrating, "fit", lambda *given: fitted.append(given))
    really = calibrating.decode

    def decode(*given):
        decoded = really(*given)
        best.extend(decoded.windows[..., 2].max(1).tolist())
        return decoded

    monkeypatch.setattr(calibrating, "decode", decode)
    calibrated(1)
    logits, confidences, present, windows, right, what = fitted.pop()
    assert len(logits) == len(present) == 11 + 11
    assert set(confidences.tolist()) <= set(best)
    assert len(windows) == len(right) == 6 * 6  # of six queries, none of what stands in
    alone = torch.ones(PAIRS, dtype=torch.bool)
    monkeypatch.setattr(
        calibrating,
        "other_sentences",
        lambda batch, _: (batch.text, batch.text_mask, ~alone.numpy()),
    )
    calibrated(1)
    assert len(fitted.pop()[0]) == 11
    assert what.endswith("11 absent by another video's sentence")
