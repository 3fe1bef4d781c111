"""How is a peer's checkpoint read as ours: the same tensors under other names."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

Rule = tuple[str, str]
"""A pattern of whole names, and what it becomes. Where the new name holds `{qkv}` the tensor is the
rows of queries, keys and values, one after the other; one that is empty leaves the tensor out."""


def translate(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The tensors under our names; the first rule that fits a name decides.

    Raises ValueError with the names that no rule fits.
    """
    found: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        for pattern, ours in rules:
            if fit := re.fullmatch(pattern, name):
                new = fit.expand(ours)
                if "{qkv}" in new:
                    parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
                    found |= {new.replace("{qkv}", part): rows for part, rows in parts}
                elif new:
                    found[new] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise ValueError(f"unknown weights {', '.join(unknown[:3])}{more}")
    return found


def numbered(theirs: str, ours: str, layers: int) -> list[Rule]:
    """Rules of an MLP's Linear layers, between which ours counts the ReLUs."""
    return [
        (rf"{theirs}\.layers\.{number}\.(\w+)", rf"{ours}.{2 * number}.\1")
        for number in range(layers)
    ]


# Of the layers that the DETR family's originals share; weight or bias comes after.
TRANSFORMER_LAYER = [
    (r"self_attn\.in_proj_(\w+)", r"attention.{qkv}"),
    (r"self_attn\.out_proj\.(\w+)", r"attention.output"),
    (r"linear1\.(\w+)", r"transition.0"),
    (r"activation\.(\w+)", r"transition.1"),
    (r"linear2\.(\w+)", r"transition.3"),
    (r"norm1\.(\w+)", r"first_norm"),
    (r"norm2\.(\w+)", r"second_norm"),
]


def layer_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of numbered transformer layers, `theirs`.N and `ours`.N."""
    return [
        (rf"{theirs}\.(\d+)\.{pattern}", rf"{ours}.\1.{new}.\2")
        for pattern, new in TRANSFORMER_LAYER
    ]


PROJECTIONS: list[Rule] = [
    rule
    for theirs, ours in (("vid", "video"), ("txt", "text"))
    for rule in (
        (rf"input_{theirs}_proj\.0\.LayerNorm\.(\w+)", rf"{ours}.reduce.0.\1"),
        (rf"input_{theirs}_proj\.0\.net\.1\.(\w+)", rf"{ours}.reduce.2.\1"),
        (rf"input_{theirs}_proj\.1\.LayerNorm\.(\w+)", rf"{ours}.refine.0.\1"),
        (rf"input_{theirs}_proj\.1\.net\.1\.(\w+)", rf"{ours}.refine.2.\1"),
    )
]
"""Of the two input projections."""
