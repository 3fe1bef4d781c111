"""Moment-DETR's and QD-DETR's released weights under our names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.originals import PROJECTIONS, Rule, layer_rules, numbered, translate

ANCHOR_LAYER = {
    "sa_qcontent_proj": "own.query",
    "sa_qpos_proj": "own.query_place",
    "sa_kcontent_proj": "own.key",
    "sa_kpos_proj": "own.key_place",
    "sa_v_proj": "own.value",
    r"self_attn\.out_proj": "own.output",
    "ca_qcontent_proj": "memory.query",
    "ca_qpos_proj": "memory.query_place",
    "ca_qpos_sine_proj": "memory.query_code",
    "ca_kcontent_proj": "memory.key",
    "ca_kpos_proj": "memory.key_place",
    "ca_v_proj": "memory.value",
    r"cross_attn\.out_proj": "memory.output",
}

COMMON: list[Rule] = [
    *PROJECTIONS,
    (r"class_embed\.(\w+)", r"classify.0.\1"),
    *numbered("span_embed", "span", 3),
    *layer_rules(r"transformer\.encoder\.layers", "encoder.layers"),
    (r"transformer\.decoder\.norm\.(\w+)", r"decoder.norm.\1"),
    (r"transformer\.decoder\.layers\.(\d+)\.linear1\.(\w+)", r"decoder.layers.\1.transition.0.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.linear2\.(\w+)", r"decoder.layers.\1.transition.3.\2"),
    *(
        (
            rf"transformer\.decoder\.layers\.(\d+)\.norm{number + 1}\.(\w+)",
            rf"decoder.layers.\1.norms.{number}.\2",
        )
        for number in range(3)
    ),
    # Positions of words and contrastive alignment: stored, and used by nothing that is released.
    (r"(txt_position_embed|contrastive_align_projection_\w+)\..+", ""),
]

MOMENT_DETR: list[Rule] = [
    *COMMON,
    (r"query_embed\.weight", "decoder.queries.weight"),
    (r"saliency_proj\.(\w+)", r"saliency.score.0.\1"),
    *(
        rule
        for theirs, ours in (("self_attn", "query"), ("multihead_attn", "memory"))
        for rule in (
            (
                rf"transformer\.decoder\.layers\.(\d+)\.{theirs}\.in_proj_(\w+)",
                rf"decoder.layers.\1.{ours}_attention.{{qkv}}.\2",
            ),
            (
                rf"transformer\.decoder\.layers\.(\d+)\.{theirs}\.out_proj\.(\w+)",
                rf"decoder.layers.\1.{ours}_attention.output.\2",
            ),
        )
    ),
]

QD_DETR: list[Rule] = [
    *COMMON,
    *layer_rules(r"transformer\.t2v_encoder\.layers", "encoder.text_to_video"),
    (r"query_embed\.weight", "decoder.anchors.weight"),
    (r"global_rep_token", "encoder.token"),
    (r"global_rep_pos", "encoder.token_position"),
    (r"saliency_proj1\.(\w+)", r"saliency.clip.0.\1"),
    (r"saliency_proj2\.(\w+)", r"saliency.token.0.\1"),
    *numbered(r"transformer\.decoder\.bbox_embed", "decoder.refine", 3),
    *numbered(r"transformer\.decoder\.query_scale", "decoder.scale", 2),
    *numbered(r"transformer\.decoder\.ref_anchor_head", "decoder.spread", 2),
    *numbered(r"transformer\.decoder\.ref_point_head", "decoder.place", 2),
    (
        r"transformer\.decoder\.layers\.(\d+)\.activation\.weight",
        r"decoder.layers.\1.transition.1.weight",
    ),
    *(
        (
            rf"transformer\.decoder\.layers\.(\d+)\.{theirs}\.(\w+)",
            rf"decoder.layers.\1.{ours}.\2",
        )
        for theirs, ours in ANCHOR_LAYER.items()
    ),
]


def from_original(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The weights of `kind`, moment_detr or qd_detr, under our names.

    Raises ValueError for weights that these models do not have.
    """
    return translate(state, MOMENT_DETR if kind == "moment_detr" else QD_DETR)


def arranged(
    weights: Mapping[str, Tensor], endpoints: bool, sound: int, again: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights with the columns of the video in our order, and what the configuration says of
    these.

    Where the originals read `sound` columns of sound, the end points stand before it, and with
    `again` behind it once more; here they stand behind all. Raises ValueError for fewer columns.
    """
    names = [f"video.reduce.{name}" for name in ("0.weight", "0.bias", "2.weight")]
    width, ends = len(weights[names[0]]), 2 if endpoints else 0
    copies = 2 if endpoints and sound and again else 1
    more = ends * (copies - 1)
    sizes = [width - sound - ends, ends, sound - more, more]
    if min(sizes) < 0 or width == ends * copies:
        raise ValueError(f"has {width} columns of video, {sound} of them of sound")
    frames, before, heard, behind = torch.split(torch.arange(width), sizes)
    order = torch.cat((frames, heard, before, behind))
    columns = {
        "video_width": width - ends * copies, "endpoints": endpoints, "endpoint_copies": copies,
    }  # fmt: skip
    return {**weights, **{name: weights[name][..., order] for name in names}}, columns
