"""Are the defaults of every kind the published settings, and what is refused?"""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from model.kinds import KINDS, build

COMMON = {
    "width": 256, "heads": 8, "input_dropout": 0.5, "dropout": 0.1, "endpoints": True,
    "existence": False, "attention_backend": "sdpa",
}  # fmt: skip
DETR = COMMON | {
    "video_width": 2816, "text_width": 512, "layers": (-1,), "encoder_layers": 2,
    "decoder_layers": 2, "feed_forward": 1024, "queries": 10, "endpoint_copies": 1,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "sdst": COMMON | {
        "kind": "sdst", "video_width": 768, "text_width": 1024, "layers": (-1, -2, -3, -4),
        "points": 4, "queries": 30, "feed_forward_ratio": 4, "sparse_attention": "rdsa",
        "query_self_attention": True, "query_dropout": 0.0, "actionness": True, "roi_bins": 16,
        "roi_scale": 1.5, "deformable_kernel": "torch", "norm_kernel": "torch",
    },
    "moment_detr": DETR | {
        "kind": "moment_detr", "text_to_video_layers": 0, "anchors": False, "negatives": False,
    },
    "qd_detr": DETR | {
        "kind": "qd_detr", "text_to_video_layers": 2, "anchors": True, "negatives": True,
    },
    "pyramid": COMMON | {
        "kind": "pyramid", "video_width": 768, "text_width": 4096, "layers": (-1,),
        "encoder": "flash", "feed_forward": 1024, "text_to_video_layers": 6, "encoder_layers": 3,
        "dummies": 40, "dummy_layers": 2, "patches": 1, "strides": (1, 2, 4, 8),
        "score_kernel": 5, "score_convolutions": 1, "score_layers": 5, "negatives": True,
        "see_padding": False,
    },
}  # fmt: skip
DETR_LOSS = {
    "weights": {"span": 10.0, "giou": 1.0, "label": 4.0, "saliency": 1.0},
    "matching": {"span": 10.0, "giou": 1.0, "label": 4.0},
    "matching_kernel": "scipy", "no_moment": 0.1, "margin": 0.2, "levels": 12, "existence": 1.0,
}  # fmt: skip
LOSSES: dict[str, dict[str, Any]] = {
    "sdst": {
        "weights": {
            "classification": 2.0, "l1": 5.0, "iou": 2.0, "actionness": 4.0, "saliency": 0.1,
            "alignment_batch": 0.1, "alignment_layers": 0.1,
        },
        "matching": {"classification": 6.0, "l1": 5.0, "iou": 2.0, "alpha": 0.25, "gamma": 2.0},
        "matching_kernel": "scipy", "supervise": "all", "alpha": 0.25, "gamma": 2.0,
        "temperature": 0.07, "existence": 1.0,
    },
    "moment_detr": DETR_LOSS,
    "qd_detr": DETR_LOSS,
    "pyramid": {
        "weights": {
            "classification": 5.0, "boundary": 1.0, "contrast": 0.1, "saliency": 0.8,
            "label": 4.0, "alignment_batch": 0.1, "alignment_layers": 0.1,
        },
        "radius": 1.5, "temperature": 0.07, "attention": 1.0, "margin": 0.2, "levels": 12,
        "existence": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_nothing_is_said_of_is_the_published_one(kind):
    assert asdict(KINDS[kind].config()) == MODELS[kind]
    assert asdict(KINDS[kind].loss()) == LOSSES[kind]


@pytest.mark.parametrize(("kind", "millions"), [("moment_detr", 4.8), ("qd_detr", 7.6)])
def test_it_has_as_many_parameters_as_its_original(kind, millions):
    with torch.device("meta"):
        model = build(KINDS[kind].config())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


WEIGHTS = [(kind, "weights", name) for kind in LOSSES for name in LOSSES[kind]["weights"]]
COUNTS = {
    "sdst": ["video_width", "text_width", "heads", "points", "queries", "feed_forward_ratio",
             "roi_bins"],
    "moment_detr": ["video_width", "text_width", "heads", "queries", "feed_forward",
                    "encoder_layers", "decoder_layers"],
    "pyramid": ["video_width", "text_width", "heads", "feed_forward", "dummies", "patches",
                "text_to_video_layers", "encoder_layers", "dummy_layers", "score_layers"],
}  # fmt: skip
POSITIVE = [("sdst", "loss", "temperature"), ("pyramid", "loss", "temperature"),
            ("pyramid", "loss", "radius"), ("sdst", "config", "roi_scale")]  # fmt: skip
NOT_NEGATIVE = [
    *WEIGHTS,
    *(("sdst", "matching", name) for name in ("classification", "l1", "iou", "gamma", "alpha")),
    *(("sdst", "loss", name) for name in ("existence", "alpha")),
    *(("moment_detr", "loss", name) for name in ("existence", "no_moment", "margin")),
    *(("pyramid", "loss", name) for name in ("attention", "margin")),
    *((kind, "config", name) for kind in COUNTS for name in ("input_dropout", "dropout")),
    ("sdst", "config", "query_dropout"),
    ("moment_detr", "config", "text_to_video_layers"),
]  # fmt: skip
AT_LEAST_ONE = [(kind, "config", name) for kind in COUNTS for name in COUNTS[kind]]
AT_LEAST_ONE += [("moment_detr", "loss", "levels"), ("pyramid", "loss", "levels")]


def schema(kind: str, part: str) -> Any:
    """The dataclass of a kind's configuration, objective, or a part of the objective."""
    if part in ("config", "loss"):
        return getattr(KINDS[kind], part)
    return type(getattr(KINDS[kind].loss(), part))


@pytest.mark.parametrize(
    ("where", "least", "refused"),
    [
        *((where, 1e-6, 0.0) for where in POSITIVE),
        *((where, 0, -1e-6) for where in NOT_NEGATIVE),
        *((where, 1, 0) for where in AT_LEAST_ONE),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_the_least_value_is_taken_and_one_below_is_refused_by_its_name(where, least, refused):
    kind, part, name = where
    assert getattr(schema(kind, part)(**{name: least}), name) == least
    with pytest.raises(ValueError, match=rf"^{name} is {refused}: make it "):
        schema(kind, part)(**{name: refused})


@pytest.mark.parametrize(
    ("kind", "part", "name", "most", "refused"),
    [
        ("sdst", "loss", "alpha", 1.0, 1.001),
        ("sdst", "matching", "alpha", 1.0, 1.001),
        *((kind, "config", "dropout", 0.999, 1.0) for kind in COUNTS),
        *((kind, "config", "queries", 1 << 16, (1 << 16) + 1) for kind in ("sdst", "qd_detr")),
        ("sdst", "config", "layers", (-1,) * 64, (-1,) * 65),
    ],
)
def test_the_largest_value_is_taken_and_one_above_is_refused_by_its_name(
    kind, part, name, most, refused
):
    assert getattr(schema(kind, part)(**{name: most}), name) == most
    with pytest.raises(ValueError, match=f"^{name} is .*: make it "):
        schema(kind, part)(**{name: refused})
