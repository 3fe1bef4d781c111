"""Are Moment-DETR and QD-DETR what their originals compute, on recorded weights and inputs?"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config.detr import DETRLossConfig, MomentDETRConfig, QDDETRConfig
from model.detr.original import from_original
from model.interface import Prediction
from model.kinds import build
from model.objective.detr import DETRCriterion, matching_cost
from model.objective.matching import assign

GOLDENS = Path(__file__).parents[2] / "goldens"
RECORDINGS = [("moment_detr", ""), ("qd_detr", "fixed."), ("qd_detr", "equal.")]


class Recording:
    """One of a golden's recordings: tensors by name, those of this recording first."""

    def __init__(self, kind: str, prefix: str) -> None:
        self.kind, self.prefix = kind, prefix
        self.tensors = load_file(GOLDENS / kind / "small.safetensors")
        self.facts: dict[str, Any] = json.loads((GOLDENS / kind / "small.json").read_text())

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors.get(self.prefix + name, self.tensors.get(name))

    def state(self) -> dict[str, Tensor]:
        return {k.removeprefix("state."): v for k, v in self.tensors.items() if k[:6] == "state."}

    def model(self) -> torch.nn.Module:
        given = self.facts["config"]
        schema = MomentDETRConfig if self.kind == "moment_detr" else QDDETRConfig
        config = schema(
            video_width=given["v_feat_dim"] - 2, text_width=given["t_feat_dim"],
            width=given["hidden_dim"], heads=given["nheads"], encoder_layers=given["enc_layers"],
            decoder_layers=given["dec_layers"], feed_forward=given["dim_feedforward"],
            queries=given["num_queries"], input_dropout=0.0, dropout=0.0,
        )  # fmt: skip
        model = build(config)
        model.load_state_dict(from_original(self.state(), self.kind))
        return model

    def inputs(self, rows: Any = slice(None)) -> tuple[Tensor, ...]:
        video_mask, text_mask = (self[f"input.src_{x}_mask"].bool() for x in ("vid", "txt"))
        video = self["input.src_vid"][..., None, :-2]  # our model appends the end points itself
        text = self["input.src_txt"][..., None, :]
        return video[rows], video_mask[rows], text[rows], text_mask[rows]

    def windows(self) -> tuple[Tensor, Tensor]:
        lists = [self[f"target.spans.{b}"] for b in range(len(self.facts["video_lengths"]))]
        windows = torch.zeros(len(lists), max(map(len, lists)), 2)
        for row, spans in zip(windows, lists, strict=True):
            row[: len(spans)] = spans
        lengths = torch.tensor([len(spans) for spans in lists])
        return windows, torch.arange(windows.shape[1]) < lengths[:, None]

    def losses(self, prediction: Prediction) -> tuple[Tensor, dict[str, Tensor]]:
        video_mask = self["input.src_vid_mask"].bool()
        labels = self["target.saliency_all_labels"]
        better, worse = (self[f"target.saliency_{x}_labels"] for x in ("pos", "neg"))
        valid = torch.ones(len(video_mask), dtype=torch.bool)
        labels = torch.zeros_like(video_mask) if labels is None else labels
        return DETRCriterion(DETRLossConfig()).weigh(
            prediction, *self.windows(), labels, video_mask, better, worse, valid
        )


@pytest.fixture(params=RECORDINGS, ids=lambda each: "-".join(filter(None, each)).rstrip("."))
def recording(request) -> Recording:
    return Recording(*request.param)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_outputs_are_the_recorded_ones(recording):
    prediction = recording.model().train()(*recording.inputs())
    mask = recording["input.src_vid_mask"].bool()
    for layer, name in enumerate(("output.aux_outputs.0.", "output.")):
        close(prediction.spans[layer], recording[f"{name}pred_spans"])
        logits = recording[f"{name}pred_logits"]
        close(prediction.logits[layer], logits[..., 0] - logits[..., 1])
    close(prediction.saliency[mask], recording["output.saliency_scores"][mask])
    if recording.kind == "qd_detr":
        theirs = recording["output.saliency_scores_neg"]
        close(prediction.own.saliency[mask], theirs[mask])


def test_the_same_queries_answer_for_the_same_windows(recording):
    prediction = recording.model()(*recording.inputs())
    windows, window_mask = recording.windows()
    costs = matching_cost(prediction.logits, prediction.spans, windows, DETRLossConfig().matching)
    matched = assign(costs, window_mask)
    for layer, name in enumerate(("aux_0", "final")):
        pairs, queries = (matched[layer] >= 0).nonzero().unbind(1)
        assert torch.equal(pairs, recording[f"match.{name}.batch"])
        assert torch.equal(queries, recording[f"match.{name}.pred"])
        assert torch.equal(matched[layer][pairs, queries], recording[f"match.{name}.target"])


def test_losses_are_the_recorded_ones(recording):
    total, losses = recording.losses(recording.model().train()(*recording.inputs()))
    for name in ("span", "giou", "label"):
        close(losses[name], recording[f"loss.loss_{name}"] + recording[f"loss.loss_{name}_0"])
    close(losses["saliency"], recording["loss.loss_saliency"])
    close(total, recording["loss.total"])


def test_losses_of_a_layer_alone_are_the_recorded_ones(recording):
    prediction = recording.model().train()(*recording.inputs())
    first = prediction._replace(logits=prediction.logits[:1], spans=prediction.spans[:1])
    _, losses = recording.losses(first)
    for name in ("span", "giou", "label"):
        close(losses[name], recording[f"loss.loss_{name}_0"])


def test_gradients_are_the_recorded_ones(recording):
    model = recording.model().train()
    recording.losses(model(*recording.inputs()))[0].backward()
    total = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    torch.testing.assert_close(total, recording["grad_norm_total"], atol=1e-5, rtol=1e-3)
    if f"{recording.prefix}grad_norm.class_embed.bias" not in recording.tensors:
        return  # of the defective batch alone
    ours = {name: p.grad for name, p in model.named_parameters()}
    for name, tensor in recording.state().items():
        if name in recording.facts["no_grad"]:
            continue
        parts = from_original({name: tensor}, recording.kind)
        norm = torch.stack([ours[part].square().sum() for part in parts]).sum().sqrt()
        theirs = recording[f"grad_norm.{name}"]
        torch.testing.assert_close(norm, theirs, atol=1e-5, rtol=1e-3, msg=name)


def test_a_pair_alone_gives_what_it_gives_in_the_batch(recording):
    model = recording.model().eval()
    together = model(*recording.inputs())
    for row, (clips, words) in enumerate(
        zip(recording.facts["video_lengths"], recording.facts["text_lengths"], strict=True)
    ):
        video, video_mask, text, text_mask = recording.inputs([row])
        if recording.prefix == "equal.":
            clips, words = int(video_mask.sum()), int(text_mask.sum())
        alone = model(
            video[:, :clips], video_mask[:, :clips], text[:, :words], text_mask[:, :words]
        )
        close(alone.spans, together.spans[:, [row]])
        close(alone.logits, together.logits[:, [row]])
        close(alone.saliency, together.saliency[[row], :clips])


def test_without_its_switches_qd_detr_is_moment_detr():
    recording = Recording("moment_detr", "")
    model = recording.model()
    values = {k: v for k, v in vars(model.config).items() if k != "kind"}
    plain = build(QDDETRConfig(**values))
    plain.load_state_dict(model.state_dict())
    ours, theirs = plain.train()(*recording.inputs()), model.train()(*recording.inputs())
    assert torch.equal(ours.spans, theirs.spans)
    assert torch.equal(ours.saliency, theirs.saliency)
