"""Is the pyramid what FlashVTG and R2-Tuning compute, on recorded weights and inputs?

Of FlashVTG only its evaluation, one pair at a time, is free of its tiled mask: its losses are held
against the recorded outputs. R2-Tuning's batch is met with `see_padding`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config.pyramid import PyramidConfig, PyramidLossConfig, PyramidWeights
from model.interface import Prediction
from model.kinds import build
from model.objective.pyramid import PyramidCriterion, in_clips, targets
from model.pyramid.original import from_original
from model.pyramid.pyramid import Points
from model.spans import to_edges

GOLDENS = Path(__file__).parents[2] / "goldens"
R2_WEIGHTS = PyramidWeights(
    classification=1.0, boundary=0.2, contrast=0.1, saliency=0.0, label=0.0
)  # fmt: skip


class Recording:
    """The tensors and facts of a golden."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors = load_file(GOLDENS / name / "small.safetensors")
        self.facts: dict[str, Any] = json.loads((GOLDENS / name / "small.json").read_text())

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def config(self) -> PyramidConfig:
        given = self.facts["config"]
        none = {"input_dropout": 0.0, "dropout": 0.0}
        if self.name == "flashvtg":
            return PyramidConfig(
                video_width=given["v_feat_dim"] - 2, text_width=given["t_feat_dim"],
                width=given["hidden_dim"], heads=given["nheads"],
                feed_forward=given["dim_feedforward"], text_to_video_layers=given["t2v_layers"],
                encoder_layers=given["enc_layers"], dummies=given["num_dummies"],
                dummy_layers=given["dummy_layers"], strides=tuple(given["strides"]),
                score_kernel=given["kernel_size"], score_layers=given["num_mlp_layers"], **none,
            )  # fmt: skip
        return PyramidConfig(
            encoder="recurrent", layers=tuple(range(-1, -1 - given["k"], -1)),
            patches=given["patches"], video_width=given["patches"] * given["video_in"],
            text_width=given["text_in"], width=given["dims"], heads=given["heads"],
            feed_forward=given["ratio"] * given["dims"], strides=tuple(given["strides"]), **none,
        )  # fmt: skip

    def model(self, **changes: Any) -> torch.nn.Module:
        state = {k.removeprefix("state."): v for k, v in self.tensors.items() if k[:6] == "state."}
        model = build(replace(self.config(), **changes))
        model.load_state_dict(from_original(state, self.name))
        return model

    def inputs(self) -> tuple[Tensor, ...]:
        if self.name == "flashvtg":
            video_mask, text_mask = (self[f"input.src_{x}_mask"].bool() for x in ("vid", "txt"))
            return (
                self["input.src_vid"][..., None, :-2], video_mask,
                self["input.src_txt"][..., None, :], text_mask,
            )  # fmt: skip
        video, text = self["input.video"], self["input.query"]
        masks = video[..., 0].isfinite(), text[..., 0].isfinite()
        layers = self.facts["layers_given"]
        video, text = (
            x.masked_fill(~x.isfinite(), 0.0).unflatten(-1, (layers, -1)) for x in (video, text)
        )
        return video, masks[0], text, masks[1]

    def windows(self) -> tuple[Tensor, Tensor]:
        """In centre and width of each video, as batches hold them."""
        lists = [torch.tensor(each, dtype=torch.float32) for each in self.facts["windows"]]
        windows = torch.zeros(len(lists), max(map(len, lists)), 2)
        for row, seconds, clips in zip(windows, lists, self.facts["video_lengths"], strict=True):
            start, end = (seconds / (2 * clips)).unbind(1)
            row[: len(seconds)] = torch.stack(((start + end) / 2, end - start), 1)
        lengths = torch.tensor([len(each) for each in lists])
        return windows, torch.arange(windows.shape[1]) < lengths[:, None]


@pytest.fixture(scope="module", params=["flashvtg", "r2_tuning"])
def recording(request) -> Recording:
    return Recording(request.param)


@pytest.fixture(scope="module")
def r2() -> Recording:
    return Recording("r2_tuning")


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def seconds(prediction: Prediction, row: int, clips: int) -> Tensor:
    """(n, 3) real windows of a row in seconds, best first."""
    edges = to_edges(prediction.spans[-1, row]) * clips * 2
    rows = torch.cat((edges, prediction.scores()[row, :, None]), 1)[prediction.valid[row]]
    return rows[rows[:, 2].argsort(descending=True, stable=True)]


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch"])
def test_evaluation_is_the_recorded_one(recording, together):
    model, inputs = recording.model().eval(), recording.inputs()
    batch = model(*inputs)
    lengths = zip(recording.facts["video_lengths"], recording.facts["text_lengths"], strict=True)
    for pair, (clips, words) in enumerate(lengths):
        video, video_mask, text, text_mask = (x[[pair]] for x in inputs)
        alone = model(
            video[:, :clips], video_mask[:, :clips], text[:, :words], text_mask[:, :words]
        )
        prediction, row = (batch, pair) if together else (alone, 0)
        close(seconds(prediction, row, clips), recording[f"eval.{pair}.boundary"])
        close(prediction.saliency[row, :clips], recording[f"eval.{pair}.saliency"])
        if recording.name == "flashvtg":
            theirs = recording[f"eval.{pair}.t2vattnvalues"][0]
            close(prediction.own.attention[row, :clips], theirs)
            close(prediction.own.sentences[row], recording["output.query_emb"][pair, 0])


def test_the_same_points_answer_for_the_same_windows(recording):
    windows, window_mask = recording.windows()
    mask = recording["output.video_msk"].bool()
    edges = in_clips(windows, mask)
    positive, reach = targets(recording["output.point"], edges, window_mask, 1.5)
    assert torch.equal(positive.float(), recording["match.cls_target"])
    close(reach * positive[..., None], recording["match.reg_target"])


def test_flashvtg_s_losses_are_those_of_the_recorded_outputs():
    recording = Recording("flashvtg")
    mask = recording["output.video_msk"].bool()
    every = torch.ones(len(mask), dtype=torch.bool)
    own = Points(
        reach=recording["output.out_coord"], points=recording["output.point"],
        places=torch.ones_like(mask), clips=recording["output.video_emb"],
        sentences=recording["output.query_emb"][:, 0],
        attention=recording["output.t2vattnvalues"],
        other_saliency=recording["output.saliency_scores_neg"],
        other_attention=recording["output.t2vattnvalues_neg"],
        genuine=recording["output.real_neg_mask"],
    )  # fmt: skip
    logits = recording["output.out_class"][None, ..., 0]
    prediction = Prediction(
        logits=logits, spans=torch.zeros(*logits.shape, 2), own=own,
        saliency=recording["output.saliency_scores"], queries=torch.zeros(logits.shape[1:]),
        valid=torch.cat([recording[f"output.pymid_msk.{p}"] for p in range(4)], 1).bool(),
    )  # fmt: skip
    better, worse = (recording[f"target.saliency_{x}_labels"] for x in ("pos", "neg"))
    total, losses = PyramidCriterion(PyramidLossConfig()).weigh(
        prediction, *recording.windows(), recording["target.saliency_all_labels"], mask,
        better[:, 0], every, better, worse, every,
    )  # fmt: skip
    names = {
        "classification": "cls", "boundary": "reg", "contrast": "sal",
        "saliency": "saliency", "label": "label",
    }  # fmt: skip
    for ours, theirs in names.items():
        close(losses[ours], recording[f"loss.loss_{theirs}"])
    close(total, recording["loss.total"])


def r2_losses(r2: Recording, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
    mask = r2["output.video_msk"].bool()
    every, clip = torch.ones(len(mask), dtype=torch.bool), r2["target.pos_clip"][:, 0]
    return PyramidCriterion(PyramidLossConfig(weights=R2_WEIGHTS)).weigh(
        prediction, *r2.windows(), r2["target.saliency"], mask,
        clip, every, clip[:, None], clip[:, None], every,
    )  # fmt: skip


def test_r2_tuning_s_batch_is_the_recorded_one(r2):
    prediction = r2.model(see_padding=True).train()(*r2.inputs())
    close(prediction.logits[0], r2["output.out_class"][..., 0])
    close(prediction.own.reach, r2["output.out_coord"])
    close(prediction.own.clips, r2["output.video_emb"])
    close(prediction.own.sentences, r2["output.query_emb"][:, 0])
    close(prediction.own.points, r2["output.point"])
    levels = torch.cat([r2[f"output.pymid_msk.{p}"] for p in range(4)], 1).bool()
    assert torch.equal(prediction.valid, levels)
    for step in range(r2.facts["config"]["k"]):
        close(prediction.own.layer_clips[step], r2[f"output.coll_v.{step}"])
        close(prediction.own.layer_sentences[step], r2[f"output.coll_q.{step}"][:, 0])


def test_r2_tuning_s_losses_are_the_recorded_ones(r2):
    total, losses = r2_losses(r2, r2.model(see_padding=True).train()(*r2.inputs()))
    names = {
        "classification": "cls", "boundary": "reg", "contrast": "sal",
        "alignment_batch": "video_cal", "alignment_layers": "layer_cal",
    }  # fmt: skip
    for ours, theirs in names.items():
        close(getattr(R2_WEIGHTS, ours) * losses[ours], r2[f"loss.loss_{theirs}"])
    close(total, r2["loss.total"])


def test_r2_tuning_s_gradients_are_the_recorded_ones(r2):
    model = r2.model(see_padding=True).train()
    r2_losses(r2, model(*r2.inputs()))[0].backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    recorded = [name for name in r2.tensors if name.startswith("grad_norm.")]
    assert len(recorded) == len(ours)
    for name in recorded:
        plain = name.removeprefix("grad_norm.")
        (part,) = from_original({plain: r2[f"state.{plain}"]}, "r2_tuning")
        torch.testing.assert_close(ours[part].norm(), r2[name], atol=1e-5, rtol=1e-3, msg=name)
