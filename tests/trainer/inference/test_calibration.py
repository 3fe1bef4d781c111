"""Probabilities of a model's outputs: fitted, kept with the model, and used wherever it answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from model.config.detr import MomentDETRConfig
from model.kinds import build
from tests.trainer.inference.test_predict import CONFIG, FakeEncoder, described
from trainer.cli import dump_config
from trainer.inference import predict
from trainer.inference.calibration import (
    LOOKS,
    Calibration,
    best_threshold,
    fit,
    mean_odds,
    surest,
    threshold_over_many,
)
from trainer.inference.decode import Decoded
from trainer.inference.grounding import LISTED, Grounding
from trainer.inference.long_video import Stretch, merge_existence, stretch_starts
from trainer.inference.model_card import model_card
from trainer.inference.predict import Grounder
from trainer.inference.pretrained import load_pretrained
from trainer.judging.calibrating import overlap
from trainer.training.checkpoints import export


def alike(logits):
    return np.full(len(logits), 0.5)


NOBODY = np.array([]), np.array([], dtype=bool)


def test_what_is_too_sure_of_itself_is_made_as_sure_as_it_may_be():
    random = np.random.default_rng(0)
    logits = 4 * random.normal(size=20_000)
    present = random.random(20_000) < expit(0.5 * logits - 1)
    confidences = expit(logits)
    found = fit(logits, alike(logits), present, confidences, present, "here")
    assert found.window_scale == pytest.approx(0.5, abs=0.03)
    assert found.window_offset == pytest.approx(-1, abs=0.06)
    assert found.existence_scale == pytest.approx(0.5, abs=0.03)
    scores = found.scores(confidences[:, None], np.ones(20_000))[:, 0]
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (scores >= low) & (scores < low + 0.2)
        assert present[inside].mean() == pytest.approx(scores[inside].mean(), abs=0.03)


def test_present_and_absent_count_alike_however_many_there_are():
    logits = np.array([1.0] * 90 + [-1.0] * 10 + [-1.0] * 900 + [1.0] * 100)
    present = np.arange(1100) < 100
    found = fit(logits, alike(logits), present, *NOBODY, "here")
    assert found.existence(np.array([1.0, -1.0]), np.array([0.5, 0.5])) == pytest.approx(
        [0.9, 0.1], abs=0.01
    )


def test_what_is_told_apart_without_an_error_has_a_finite_scale():
    logits = np.array([-3.0, -2.0, 2.0, 3.0])
    found = fit(logits, alike(logits), logits > 0, expit(logits), logits > 0, "here")
    assert 0 < found.existence_scale < 5
    assert found.threshold == 0.5


@pytest.mark.parametrize("present", [[True] * 3, [False] * 3, []])
def test_what_is_all_of_one_kind_stays_as_it_is(present):
    logits = np.linspace(-1, 1, len(present))
    found = fit(logits, alike(logits), np.array(present, dtype=bool), *NOBODY, "here")
    assert found == Calibration(fitted="here")


def test_the_best_window_tells_what_the_head_alone_does_not():
    random = np.random.default_rng(0)
    logits, odds = random.normal(size=(2, 5000))
    present = random.random(5000) < expit(2 * logits + odds)
    found = fit(logits, expit(odds), present, *NOBODY, "here")
    assert found.existence_scale == pytest.approx(2, abs=0.2)
    assert found.existence_best == pytest.approx(1, abs=0.15)
    against = fit(logits, expit(-odds), present, *NOBODY, "here")
    assert against.existence_best == 0  # more of a confidence never makes less of existence


def test_windows_keep_their_order_and_none_gets_a_score_from_nothing():
    calibration = Calibration(window_scale=0.3, window_offset=2.0)
    confidences = np.array([[1.0, 0.9, 0.5, 1e-9, 0.0]])
    [scores] = calibration.scores(confidences, np.array([0.8]))
    assert (np.diff(scores) < 0).all()
    assert scores[0] < 0.8
    assert scores[-1] == 0


@pytest.mark.parametrize("power", [-8, -20])
def test_confidences_that_are_tiny_are_made_as_sure_as_those_that_are_not(power):
    random = np.random.default_rng(0)
    logits = random.normal(size=5000)
    right = random.random(5000) < expit(2 * logits)
    confidences = 10.0**power * np.exp(logits)
    found = fit(np.zeros(5000), confidences, right, confidences, right, "here")
    scores = found.scores(confidences[:, None], np.ones(5000))[:, 0]
    assert (np.argsort(scores) == np.argsort(confidences)).all()
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (scores >= low) & (scores < low + 0.2)
        assert right[inside].mean() == pytest.approx(scores[inside].mean(), abs=0.05)
    assert found.existence_best == pytest.approx(2, abs=0.2)


def slowly(probabilities, present):
    """The greatest sum of the shares that are right, over all thresholds."""
    best = -1.0
    for threshold in [0.0, *probabilities, 1.0 + 1e-9]:
        said = probabilities >= threshold
        best = max(best, said[present].mean() + (~said[~present]).mean())
    return best


@pytest.mark.parametrize("seed", range(10))
def test_the_threshold_leaves_the_fewest_wrong(seed):
    random = np.random.default_rng(seed)
    present = np.array([True, False, *(random.random(40) < 0.3)])
    probabilities = np.round(random.random(42) / 2 + present / 3, 2)
    said = probabilities >= best_threshold(probabilities, present)
    reached = said[present].mean() + (~said[~present]).mean()
    assert reached == pytest.approx(slowly(probabilities, present))


@pytest.mark.parametrize(
    "odd",
    [{"existence_scale": 0.0}, {"window_scale": -1.0}, {"threshold": 2.0},
     {"threshold_of_search": -0.1}, {"threshold_of_stretches": 1.1},
     {"window_offset": float("nan")}, {"existence_offset": float("inf")}],
)  # fmt: skip
def test_a_calibration_that_is_none_is_refused(odd):
    with pytest.raises(ValueError, match="calibration"):
        Calibration(**odd)


@pytest.mark.parametrize("of_looks", [surest, mean_odds])
def test_the_threshold_over_many_looks_is_chosen_for_many(of_looks):
    """A video that does not show it is as sure as 0.9 in one of a hundred, and so is any of 20 in
    about one search of six; one that does is nearly always surer."""
    random = np.random.default_rng(0)
    absent = np.where(random.random(5000) < 0.01, 0.9, 0.02)
    present = np.where(random.random(500) < 0.95, 0.999, 0.9)
    probabilities = np.concatenate((absent, present))
    is_there = np.arange(5500) >= 5000
    assert 0.02 < best_threshold(probabilities, is_there) < 0.9
    many = threshold_over_many(probabilities, is_there, of_looks)
    looks = random.choice(absent, (4000, LOOKS))
    rejected = of_looks(looks) < many
    looks[:, 0] = random.choice(present, 4000)
    kept = of_looks(looks) >= many
    assert rejected.mean() > 0.99  # 0.82 if one look as sure as 0.9 were enough
    assert kept.mean() == pytest.approx(0.95, abs=0.03)
    assert threshold_over_many(probabilities, np.zeros(5500, bool), of_looks) == 0.5


def test_the_order_of_the_pairs_does_not_change_a_calibration():
    random = np.random.default_rng(0)
    logits, present = random.normal(size=60), np.arange(60) < 20
    order = random.permutation(60)
    one, other = (
        fit(logits[o], alike(logits), present[o], *NOBODY, "") for o in (np.arange(60), order)
    )
    assert other.threshold_of_search == pytest.approx(one.threshold_of_search, abs=1e-6)
    assert other.threshold_of_stretches == pytest.approx(one.threshold_of_stretches, abs=1e-6)
    assert one.threshold_of_search < one.threshold_of_stretches
    existence = one.existence(logits, alike(logits))
    assert one.threshold_of_search == threshold_over_many(existence, present, mean_odds)
    assert one.threshold_of_stretches == threshold_over_many(existence, present, surest)


def test_the_mean_of_odds_is_that_of_any_number_of_looks():
    assert mean_odds(np.array([[0.5, 0.75], [0.0, 0.0]])) == pytest.approx([2 / 3, 0])
    assert mean_odds(np.array([0.7])) == pytest.approx(0.7)
    assert mean_odds(np.array([1.0] + [0.0] * 99)) > 0.99


def test_the_overlap_of_windows_is_that_with_the_true_one_that_fits_best():
    annotation = Annotation(1, "a", "v", 20.0, ((8.0, 4.0), (10.0, 12.0)))
    windows = np.array([[4.0, 8.0, 0.9], [11.0, 13.0, 0.1], [0.0, 1.0, 0.1]])
    assert overlap(windows, annotation).tolist() == pytest.approx([1, 1 / 3, 0])


JUDGING = replace(CONFIG, existence=True)


@pytest.fixture
def judging(tmp_path, monkeypatch):
    """A folder with a model that judges existence, and its grounder."""
    monkeypatch.setattr(predict, "FeatureEncoder", FakeEncoder)
    torch.manual_seed(0)
    calibration = Calibration(0.2, 0.1, 0.5, 1.5, 0.25, 0.4, 0.7, 0.8, "here")
    told = replace(described(), model=JUDGING, calibration=calibration)
    export(tmp_path / "model", build(JUDGING), dump_config(told))
    return tmp_path, Grounder.from_pretrained(tmp_path)


def test_a_calibration_is_kept_with_its_model_and_seals_it(judging):
    folder, grounder = judging
    assert grounder.export.calibration == Calibration(
        0.2, 0.1, 0.5, 1.5, 0.25, 0.4, 0.7, 0.8, "here"
    )
    path = folder / "model" / "config.yaml"
    path.write_text(path.read_text().replace("threshold: 0.4", "threshold: 0.1"))
    with pytest.raises(InputError, match="its calibration is not what it was written with"):
        load_pretrained(folder)
    path.write_text(path.read_text().replace("threshold: 0.1", "threshold: 4"))
    with pytest.raises(InputError, match=r"config.yaml: .*threshold 4"):
        load_pretrained(folder)


def test_a_video_s_scores_are_calibrated_and_those_of_a_model_that_does_not_judge_are_not(judging):
    _, grounder = judging
    model = build(CONFIG)
    model.load_state_dict(grounder.model.state_dict(), strict=False)
    plain = Grounder(model, FakeEncoder(), described(), "cpu")
    found, raw = (each.predict("20.mp4", "a dog")[0] for each in (grounder, plain))
    assert raw.existence is None
    assert found.least == 0.4
    calibration = grounder.export.calibration
    expected = [
        found.existence * expit(1.5 * logit(confidence) + 0.25) for _, _, confidence in raw.windows
    ]
    assert [score for *_, score in found.windows] == pytest.approx(expected, rel=1e-4)
    assert calibration.existence(np.zeros(1), np.array([0.25]))[0] == pytest.approx(
        expit(0.5 + 0.1 * logit(0.25))
    )


def test_windows_of_a_model_that_does_not_judge_existence_are_calibrated_by_themselves():
    confidences = np.array([[0.9, 1e-7, 0.0]])
    windows = np.concatenate((np.ones((1, 3, 2)), confidences[..., None]), -1)
    found = Decoded(windows, np.ones((1, 3), bool), [], None)
    raw, nothing = Calibration().comparable(found)
    assert nothing is None
    assert raw is windows  # what was never calibrated stays what it is, to the last bit
    judged = Calibration().comparable(replace(found, existence=np.zeros(1)))
    assert judged[1] == pytest.approx([0.5])
    assert judged[0][0, 0, 2] == pytest.approx(0.45)
    told, nothing = Calibration(window_scale=0.5, window_offset=2.0).comparable(found)
    assert nothing is None
    expected = [*expit(0.5 * logit(confidences[0, :2]) + 2.0), 0.0]
    assert told[0, :, 2] == pytest.approx(expected)
    assert (told[..., :2] == 1).all()


def test_a_card_says_whose_network_it_is_and_from_where_on_something_is_not_found(judging):
    folder, grounder = judging
    card = model_card("tiny", grounder.export, folder)
    assert "SDST (Sparse-Dense Side-Tuner" in card
    assert "not found below a probability of 0.40, chosen on here." in card
    other = replace(described(), model=MomentDETRConfig(video_width=8, text_width=6))
    card = model_card("other", other, None)
    assert "Moment-DETR (Lei et al." in card
    assert "SDST" not in card.partition("```")[0].partition("# other")[2]
    assert "does not judge\n  existence" in card
    assert "are no probabilities" in card
    told = replace(other, calibration=Calibration(fitted="dev: 12 windows"))
    assert "right where the video shows it (dev: 12 windows)." in model_card("other", told, None)
    uncalibrated = replace(grounder.export, calibration=Calibration())
    assert "0.50, which was not calibrated." in model_card("tiny", uncalibrated, None)


def test_a_long_video_is_as_sure_as_its_surest_stretch(judging):
    _, grounder = judging
    long = grounder.encode("200.mp4")
    found = grounder.predict(long, "a dog")[0]
    size = grounder.export.max_clips
    parts = [
        grounder.predict(replace(long, features=part, duration=2.0 * size), "a dog")[0]
        for start in stretch_starts(len(long.features), size)
        for part in [long.features[start : start + size]]
    ]
    assert found.existence == pytest.approx(max(part.existence for part in parts), rel=1e-5)
    assert (found.least, parts[0].least) == (0.7, 0.4)
    assert len(parts) > 2


def test_what_judges_no_stretch_judges_no_video():
    stretches = [Stretch(0.0, 1.0, np.zeros((0, 3)), np.zeros(1), e) for e in (0.2, 0.7, 0.1)]
    assert merge_existence(stretches) == 0.7
    assert merge_existence([replace(each, existence=None) for each in stretches]) is None


WINDOWS = ((1.0, 3.0, 0.9), (0.0, 6.0, 0.2), (5.0, 6.0, 0.0049))


def grounding(**changes):
    return Grounding("a dog", 6.0, 2.0, WINDOWS, np.zeros(3, np.float32), **changes)


def test_windows_of_score_zero_are_not_listed():
    assert grounding().listed == WINDOWS[:2]
    assert grounding(threshold=0.5).listed == WINDOWS[:1]
    assert grounding(threshold=0.0).listed == WINDOWS[:2]
    assert grounding().not_found == ""
    assert LISTED == 0.005


def test_what_the_video_does_not_show_is_not_found_whatever_its_windows():
    absent = grounding(existence=0.3, least=0.4)
    assert absent.listed == ()
    assert absent.guess == WINDOWS[:2]
    assert replace(absent, windows=WINDOWS[2:]).guess == WINDOWS[2:]  # one at least
    assert absent.not_found == "not found: 30.0% sure that the video shows it"
    assert absent.to_row()["found"] is False
    assert absent.to_row()["windows"] == []
    assert "guess" not in absent.to_row()
    assert absent.to_row(guess=True)["guess"][0] == [1.0, 3.0, 0.9]
    assert grounding(existence=0.4, least=0.4).listed == WINDOWS[:2]
    assert grounding(existence=0.4, least=0.4).to_row()["existence"] == 0.4


def test_without_a_judgement_it_is_not_found_where_no_window_has_the_score():
    unsure = grounding(threshold=0.95)
    assert unsure.not_found == "not found: no window with a score of 0.95 or more"
    assert unsure.to_row()["found"] is False
    assert "existence" not in unsure.to_row()
