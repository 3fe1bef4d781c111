"""FlashVTG's and R2-Tuning's released weights under our names."""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.originals import PROJECTIONS, Rule, layer_rules, numbered, translate

COMMON: list[Rule] = [
    (r"coef", "boundaries.scale"),
    (r"coord_head\.module\.1\.(\w+)", r"boundaries.reach.layers.0.\1"),
    (r"coord_head\.module\.3\.(\w+)", r"boundaries.reach.layers.1.\1"),
    (r"pooling\.att\.weight", "pooling.score.weight"),
    *(
        rule
        for step in range(8)
        for rule in (
            (
                rf"pyramid\.blocks\.(\d+)\.{5 * step + 1}\.(\w+)",
                rf"pyramid.levels.\1.{step}.merge.\2",
            ),
            (
                rf"pyramid\.blocks\.(\d+)\.{5 * step + 3}\.(\w+)",
                rf"pyramid.levels.\1.{step}.norm.\2",
            ),
        )
    ),
]

FLASHVTG: list[Rule] = [
    *COMMON,
    *PROJECTIONS,
    (r"token_type_embeddings\.weight", "encoder.kinds.weight"),
    (r"dummy_rep_token", "encoder.dummies"),
    (r"dummy_rep_pos", "encoder.dummy_positions"),
    *layer_rules(r"txtproj_encoder\.layers", "encoder.dummy_layers"),
    (
        r"transformer\.t2v_encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)",
        r"encoder.text_to_video.\1.output.\2",
    ),
    *layer_rules(r"transformer\.t2v_encoder\.layers", "encoder.text_to_video"),
    *layer_rules(r"transformer\.encoder\.layers", "encoder.layers"),
    (r"saliency_proj1\.(\w+)", r"clip_saliency.0.\1"),
    (r"saliency_proj2\.(\w+)", r"video_saliency.0.\1"),
    *(
        rule
        for theirs, ours in (("class_head", "classify"), ("conf_head", "confide"))
        for rule in (
            (rf"{theirs}\.convs\.(\d+)\.(\w+)", rf"scores.{ours}.mix.layers.\1.\2"),
            *numbered(rf"{theirs}\.fc", f"scores.{ours}.score", 16),
        )
    ),
    (r"x", "scores.mix"),
    (r"txt_position_embed\..+", ""),  # stored, used by nothing
]

R2_TUNING: list[Rule] = [
    *COMMON,
    *(
        (rf"adapter\.{theirs}_map\.{number}\.(\w+)", rf"encoder.{ours}.{part}.\1")
        for theirs, ours in (("video", "video"), ("query", "text"))
        for number, part in ((0, "reduce.0"), (2, "reduce.2"), (4, "refine.0"), (6, "refine.2"))
    ),
    (r"adapter\.q_map\.(\w+)", r"encoder.word_query.\1"),
    (r"adapter\.v_map\.(\w+)", r"encoder.patch_key.\1"),
    (r"adapter\.(scale|gate)", r"encoder.\1"),
    *(
        (rf"adapter\.tem\.{theirs}_att\.{part}\.(\w+)", rf"encoder.{ours}_attention.{new}.\1")
        for theirs, ours in (("cross", "word"), ("self", "clip"))
        for part, new in (("q", "query"), ("k", "key"), ("v", "value"), ("m", "output"))
    ),
    *(
        (rf"adapter\.tem\.{name}_norm\.(\w+)", rf"encoder.norms.{number}.\1")
        for number, name in enumerate(("cross_att", "self_att", "ffn"))
    ),
    (r"adapter\.tem\.ffn\.mapping\.0\.(\w+)", r"encoder.transition.0.\1"),
    (r"adapter\.tem\.ffn\.mapping\.2\.(\w+)", r"encoder.transition.3.\1"),
    (r"class_head\.module\.1\.(\w+)", r"scores.classify.layers.0.\1"),
    (r"class_head\.module\.3\.(\w+)", r"scores.classify.layers.1.\1"),
    (r"loss\._loss_sal\.scale", ""),  # of the objective
    (r"clip\..+", ""),  # the frozen towers
]


def from_original(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The weights of `kind`, flashvtg or r2_tuning, under our names.

    Raises ValueError for weights that these models do not have.
    """
    found = translate(state, FLASHVTG if kind == "flashvtg" else R2_TUNING)
    scale = found.get("encoder.scale")
    if scale is not None and len(scale) == 1:  # R2-Tuning stores no gate for a single layer
        found.setdefault("encoder.gate", scale.new_zeros(0))
    # FlashVTG convolves images of height 1.
    return {
        name: torch.squeeze(tensor, 2) if name.endswith("weight") and tensor.ndim == 4 else tensor
        for name, tensor in found.items()
    }
