"""A released checkpoint becomes a model here: the same outputs, or one line."""

import argparse
import json
import os
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.import_checkpoint import main
from launch.import_features import main as import_features
from tests.model.pyramid.test_goldens import Recording, close, seconds
from trainer.inference.pretrained import load_pretrained
from trainer.main import main as train

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens"
KINDS = ("moment_detr", "qd_detr", "flashvtg", "r2_tuning")


def released(kind: str) -> dict[str, torch.Tensor]:
    tensors = load_file(GOLDENS / kind / "small.safetensors")
    return {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}


def write(path: Path, kind: str, **others: object) -> Path:
    weights = "state_dict" if kind == "r2_tuning" else "model"
    torch.save({weights: released(kind), "epoch": 7} | others, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_finds_its_place(tmp_path, kind, capsys):
    options = argparse.Namespace(nheads=4, max_v_l=75, lr=1e-4, dset_name="hl")
    path = write(tmp_path / "best.ckpt", kind, opt=options, optimizer={"state": {}})
    out = tmp_path / "model"
    assert main([str(path), "--kind", kind, "--heads", "4", "--output", str(out)]) == 0
    model, export = load_pretrained(out)
    count = sum(tensor.numel() for tensor in released(kind).values())
    ignored = sum(
        tensor.numel()
        for name, tensor in released(kind).items()
        if name.startswith(("txt_position_embed", "loss."))
    )
    assert sum(p.numel() for p in model.parameters()) == count - ignored
    assert export.model.heads == 4
    assert "released checkpoint best.ckpt" in export.provenance["origin"]
    assert "numbers" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["moment_detr", "qd_detr"])
def test_it_answers_as_the_original_did(tmp_path, kind):
    path = write(tmp_path / "best.ckpt", kind, opt=argparse.Namespace(nheads=4))
    assert main([str(path), "--kind", kind, "--output", str(tmp_path / "m")]) == 0
    model, _ = load_pretrained(tmp_path / "m")
    recorded = load_file(GOLDENS / kind / "small.safetensors")
    video_mask, text_mask = (recorded[f"input.src_{x}_mask"].bool() for x in ("vid", "txt"))
    prediction = model(
        recorded["input.src_vid"][..., None, :-2], video_mask,
        recorded["input.src_txt"][..., None, :], text_mask,
    )  # fmt: skip
    prefix = "fixed." if kind == "qd_detr" else ""
    theirs = recorded[f"{prefix}output.pred_spans"]
    torch.testing.assert_close(prediction.spans[-1], theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["flashvtg", "r2_tuning"])
def test_its_windows_and_saliency_are_those_that_the_original_evaluated(tmp_path, kind):
    recording = Recording(kind)
    path = write(tmp_path / "best.ckpt", kind, opt=argparse.Namespace(nheads=4))
    patches = recording.facts["config"].get("patches", 50)
    line = [str(path), f"--kind={kind}", "--heads=4", f"--patches={patches}"]
    assert main([*line, f"--output={tmp_path / 'm'}"]) == 0
    prediction = load_pretrained(tmp_path / "m")[0](*recording.inputs())
    for row, clips in enumerate(recording.facts["video_lengths"]):
        close(seconds(prediction, row, clips), recording[f"eval.{row}.boundary"])
        close(prediction.saliency[row, :clips], recording[f"eval.{row}.saliency"])


@pytest.mark.parametrize(
    ("release", "first"), [("official", "slowfast"), ("lighthouse", "clip-b32")]
)
def test_the_order_of_the_streams_is_kept(tmp_path, release, first):
    path = write(tmp_path / "best.ckpt", "qd_detr", opt=argparse.Namespace(nheads=4))
    out = tmp_path / "m"
    assert main([str(path), "--kind=qd_detr", f"--release={release}", f"--output={out}"]) == 0
    _, export = load_pretrained(out)
    streams = export.features.options["video"]["streams"]
    assert streams[0]["name"] == first
    assert first in export.provenance["features"].partition(", ")[2].partition(" + ")[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("easydict.EasyDict", "moment_detr"), ("nncore.utils.config.CfgNode", "flashvtg")],
)
def test_options_of_a_class_that_is_not_installed_are_read(tmp_path, monkeypatch, name, kind):
    """Lighthouse's options are one, FlashVTG's hold one."""
    module, _, called = name.rpartition(".")

    class Options(dict):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            self[name] = value

    Options.__module__, Options.__name__, Options.__qualname__ = module, called, called
    options = Options()
    options.nheads = 4
    options.cfg = Options(model=Options(strides=(1, 2)))
    given = options if kind == "moment_detr" else argparse.Namespace(nheads=4, cfg=options)
    with monkeypatch.context() as patched:
        for parent in (module.split(".")[:depth] for depth in (1, 2, 3)):
            holds = types.SimpleNamespace(**{called: Options})
            patched.setitem(sys.modules, ".".join(parent), holds)
        path = write(tmp_path / "best.ckpt", kind, opt=given)
    assert main([str(path), "--kind", kind, "--output", str(tmp_path / "m")]) == 0
    assert load_pretrained(tmp_path / "m")[1].model.heads == 4


@pytest.mark.parametrize(
    ("option", "value"),
    [("use_txt_pos", True), ("pre_norm", True), ("span_loss_type", "ce"), ("n_input_proj", 3)],
)
def test_options_that_change_what_is_computed_are_refused(tmp_path, capsys, option, value):
    options = argparse.Namespace(nheads=4, **{option: value})
    path = write(tmp_path / "best.ckpt", "moment_detr", opt=options)
    assert main([str(path), "--kind=moment_detr", f"--output={tmp_path / 'm'}"]) == 2
    error = capsys.readouterr().err
    assert f"was trained with {option} " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_what_options_say_of_the_features_is_kept(tmp_path):
    options = argparse.Namespace(
        nheads=4, max_v_l=-1, ctx_mode="video", no_norm_vfeat=True, clip_length=1
    )
    path = write(tmp_path / "best.ckpt", "moment_detr", opt=options)
    assert main([str(path), "--kind=moment_detr", f"--output={tmp_path / 'm'}"]) == 0
    model, export = load_pretrained(tmp_path / "m")
    assert (model.config.endpoints, model.config.video_width) == (False, 22)
    assert export.max_clips > 10_000
    assert export.features.clip_length == 1.0
    assert not any(stream["l2"] for stream in export.features.options["video"]["streams"])
    assert export.features.options["text"]["streams"][0]["l2"]


@pytest.mark.parametrize(("release", "sound"), [("official", 10), ("lighthouse", 8)])
def test_end_points_stand_where_a_model_with_sound_read_them(tmp_path, release, sound):
    """Behind the frames, and in the official release behind the sound, too."""
    options = argparse.Namespace(nheads=4, v_feat_dim=22 - sound, a_feat_dim=sound)
    path = write(tmp_path / "best.ckpt", "qd_detr", opt=options)
    flags = ["--kind=qd_detr", f"--release={release}", f"--output={tmp_path / 'm'}"]
    assert main([str(path), *flags]) == 0
    model, export = load_pretrained(tmp_path / "m")
    assert export.features.options["video"]["streams"][2]["name"] == "pann"
    frames, heard = torch.randn(1, 5, 20 - sound), torch.randn(1, 5, 8)
    start = torch.arange(5) / 5
    ends = torch.stack((start, start + 1 / 5), -1)[None]
    parts = [frames, ends, heard] + ([ends] if release == "official" else [])
    state, first = released("qd_detr"), "input_vid_proj.0."
    gain, bias = (state[f"{first}LayerNorm.{name}"] for name in ("weight", "bias"))
    x = torch.nn.functional.layer_norm(torch.cat(parts, -1), (22,), gain, bias)
    linear = (state[f"{first}net.1.{name}"] for name in ("weight", "bias"))
    theirs = torch.nn.functional.linear(x, *linear).relu()
    found = []
    model.video.reduce.register_forward_hook(lambda *of: found.append(of[2]))
    model(
        torch.cat((frames, heard), -1)[:, :, None], torch.ones(1, 5) > 0,
        torch.randn(1, 3, 1, 12), torch.ones(1, 3) > 0,
    )  # fmt: skip
    close(found[0], theirs)


def test_columns_that_do_not_add_up_are_named(tmp_path, capsys):
    options = argparse.Namespace(nheads=4, v_feat_dim=18, a_feat_dim=8)
    path = write(tmp_path / "best.ckpt", "qd_detr", opt=options)
    assert main([str(path), "--kind=qd_detr", f"--output={tmp_path / 'm'}"]) == 2
    assert "reads 22 columns, not v_feat_dim 18 + a_feat_dim 8" in capsys.readouterr().err


def test_sound_that_a_pyramid_has_no_place_for_is_one_line(tmp_path, capsys):
    width = len(released("flashvtg")["input_vid_proj.0.LayerNorm.weight"])
    for video, sound, said in (
        (width - 4, 4, "reads sound, which is imported of the DETRs alone"),
        (width - 4, 3, f"reads {width} columns, not v_feat_dim"),
    ):
        options = argparse.Namespace(nheads=4, v_feat_dim=video, a_feat_dim=sound)
        path = write(tmp_path / "best.ckpt", "flashvtg", opt=options)
        for more in ([], ["--features=pann"]):
            line = [str(path), "--kind=flashvtg", *more, f"--output={tmp_path / 'm'}"]
            assert main(line) == 2
            assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_score_heads_may_have_several_convolutions(tmp_path):
    state, recording = released("flashvtg"), Recording("flashvtg")
    identity = torch.zeros(32, 32, 1, 5)
    identity[:, :, 0, 2] = torch.eye(32)
    for head in ("class_head", "conf_head"):  # changes nothing behind a ReLU
        state |= {f"{head}.convs.1.weight": identity, f"{head}.convs.1.bias": torch.zeros(32)}
    torch.save({"model": state, "opt": argparse.Namespace(nheads=4)}, tmp_path / "best.ckpt")
    line = [str(tmp_path / "best.ckpt"), "--kind=flashvtg", f"--output={tmp_path / 'm'}"]
    assert main(line) == 0
    model = load_pretrained(tmp_path / "m")[0]
    assert model.config.score_convolutions == 2
    prediction = model(*recording.inputs())
    for row, clips in enumerate(recording.facts["video_lengths"]):
        close(seconds(prediction, row, clips), recording[f"eval.{row}.boundary"])


def test_r2_tuning_of_a_single_layer_has_no_gate(tmp_path):
    state = released("r2_tuning")
    del state["adapter.gate"]
    state["adapter.scale"] = state["adapter.scale"][:1]
    torch.save({"state_dict": state}, tmp_path / "best.pth")
    line = [str(tmp_path / "best.pth"), "--kind=r2_tuning", "--heads=4", "--patches=5"]
    assert main([*line, f"--output={tmp_path / 'm'}"]) == 0
    assert load_pretrained(tmp_path / "m")[0].config.layers == (-1,)


NEVER = os.path.join(tempfile.gettempdir(), f"never{os.getpid()}")
"""The folder that is there once a file's code ran."""


class Harmful:
    def __reduce__(self):
        return (os.mkdir, (NEVER,))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda c: c["model"].pop("class_embed.bias"), "qd_detr", "other weights than a qd_detr"),
        (lambda c: c["model"].update(extra=torch.ones(1)), "qd_detr", "unknown weights extra"),
        (lambda c: None, "moment_detr", "is --kind right?"),
        (lambda c: None, "flashvtg", "unknown weights"),
        (lambda c: c.update(model=3), "qd_detr", "holds no weights under model or state_dict"),
        (
            lambda c: c.update(opt=Harmful()),
            "qd_detr",
            "plain values (it holds a 'posix.mkdir')",
        ),
        (
            lambda c: c["model"].update({"global_rep_pos": torch.full((32,), float("nan"))}),
            "qd_detr",
            "not finite",
        ),
    ],
)
def test_another_file_is_one_line_and_leaves_nothing(tmp_path, capsys, change, kind, message):
    path = write(tmp_path / "best.ckpt", "qd_detr", opt=argparse.Namespace(nheads=4))
    content = torch.load(path, weights_only=False)  # written above: its options are an object
    change(content)
    torch.save(content, path)
    out = tmp_path / "m"
    assert main([str(path), "--kind", kind, "--output", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert not os.path.exists(NEVER)


def test_it_is_scored_on_imported_features_and_on_no_others(tmp_path, capsys):
    features = GOLDENS / "features_moment_detr" / "small"
    path = write(tmp_path / "best.ckpt", "qd_detr", opt=argparse.Namespace(nheads=4))
    small = {"data.selection": "null", "runs": tmp_path / "runs", "name": "scored"}
    config = ["--config", str(ROOT / "configs" / "qvhighlights" / "qd_detr.yaml")]
    flags = [*config, *(f"--{key}={value}" for key, value in small.items())]
    codes = []
    for preset, release in (("moment-detr", "official"), ("moment-detr", "lighthouse")):
        out = tmp_path / release
        main([str(path), "--kind=qd_detr", f"--release={release}", f"--output={out}"])
        held = tmp_path / f"features-{release}"
        import_features([
            f"--features={features}", f"--annotations={features / 'annotations.jsonl'}",
            f"--output={held}", f"--preset={preset}",
        ])  # fmt: skip
        codes.append(
            train([*flags, f"--data.report={held}", f"--checkpoint={out}", "--eval", "--dump"])
        )
    assert codes == [0, 2]
    assert "slowfast + clip-b32, not clip-b32 + slowfast" in capsys.readouterr().err
    dumped = tmp_path / "runs" / "scored" / "evaluation" / "features-official"
    assert len((dumped / "predictions.jsonl").read_text().splitlines()) == 2


def test_features_of_another_order_are_refused_where_they_are_used(tmp_path):
    path = write(tmp_path / "best.ckpt", "qd_detr", opt=argparse.Namespace(nheads=4))
    found = []
    for release in ("official", "lighthouse"):
        out = tmp_path / release
        main([str(path), "--kind=qd_detr", f"--release={release}", f"--output={out}"])
        found.append(load_pretrained(out)[1].features)
    [difference] = [d for d in found[0].differences(found[1]) if d.startswith("video streams")]
    assert "slowfast" in difference
    measured = json.loads(json.dumps(found[0].options))
    for stream, width in zip(measured["video"]["streams"], (14, 6), strict=True):
        stream["width"] = width
    held = type(found[0])(**vars(found[0]) | {"options": measured})
    assert held.differences(found[0]) == []
