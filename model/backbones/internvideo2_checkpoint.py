"""Which of the keys of InternVideo2's published stage-2 checkpoint belong to which encoder?"""

from collections.abc import Mapping

from torch import Tensor, nn

from model.backbones import load_exactly

PARTS = {"vision_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head", "temp"}
"""What the multi-modal checkpoint is made of: the first word of its keys."""

UNUSED_VISION = (
    "clip_decoder.",
    "final_clip_decoder.",
    "clip_pos_embed",
    "img_pos_embed",  # of single images; a clip of one frame is interpolated like any other
    "clip_img_pos_embed",
)
"""Weights of the vision tower that only its training had a use for, by the start of their keys."""


def take_part(
    state_dict: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], list[str], str]:
    """The weights under `prefix`, without it; the keys of other parts; and the prefix they had.

    Weights among which no key has the prefix are taken for that part alone: their prefix is "".
    Raises ValueError for a key of no known part.
    """
    if not any(key.startswith(prefix) for key in state_dict):
        return dict(state_dict), [], ""
    others = [key for key in state_dict if not key.startswith(prefix)]
    unexpected = [key for key in others if key.split(".")[0] not in PARTS]
    if unexpected:
        raise ValueError(f"unexpected keys in the checkpoint: {', '.join(unexpected[:5])}")
    part = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    return part, others, prefix


def joint_width_in(state_dict: Mapping[str, Tensor], name: str) -> int | None:
    """Width of the space that the projection `name` leads to; None where it is not there."""
    weight = state_dict.get(f"{name}.weight")
    return None if weight is None or weight.dim() != 2 else len(weight)


def take_projection(
    state_dict: Mapping[str, Tensor], name: str, width: int
) -> tuple[nn.Linear | None, list[str]]:
    """The projection `name` of vectors of `width` into the joint space, and its keys.

    None where the weights have none. Raises ValueError for one of another shape.
    """
    keys = [key for key in state_dict if key.startswith(f"{name}.")]
    joint = joint_width_in(state_dict, name)
    if joint is None:
        return None, []
    projection = nn.Linear(width, joint, device="meta")
    load_exactly(projection, {key.removeprefix(f"{name}."): state_dict[key] for key in keys})
    return projection.requires_grad_(False), keys
