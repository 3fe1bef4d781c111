"""What does another model's released checkpoint hold: weights, and options of its training?"""

import argparse
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import InputError
from data_pipeline.untrusted import shown

WEIGHTS = ("model", "state_dict")
"""Where the originals keep their weights."""

LONGEST = 100
"""Letters of an option that is a text, at most."""

AS_BUILT = {
    "use_txt_pos": False,
    "pre_norm": False,
    "span_loss_type": "l1",
    "n_input_proj": 2,
    "position_embedding": "sine",
}
"""Options that would change what is computed, and the one value of each that is built here."""

Option = bool | int | float | str


@dataclass(frozen=True)
class Released:
    """Weights by their original names, and plain options of sane size by theirs."""

    weights: Mapping[str, Tensor]
    options: Mapping[str, Option]

    def count(self, name: str, default: int) -> int:
        """An option that is a whole number above 0."""
        value = self.options.get(name)
        return value if type(value) is int and value > 0 else default

    @property
    def endpoints(self) -> bool:
        """Whether clips come with their end points; those that released it call these tef."""
        return "tef" in str(self.options.get("ctx_mode", "video_tef"))

    @property
    def sound(self) -> int:
        """Columns of sound in a model's input, behind the video's; ValueError where the options do
        not add up to the columns that there are."""
        sound, video = self.count("a_feat_dim", 0), self.count("v_feat_dim", 0)
        norm = self.weights.get("input_vid_proj.0.LayerNorm.weight")
        width = 0 if norm is None else len(norm)
        if video == width:  # it was not used
            return 0
        if sound and video and sound + video != width:
            raise ValueError(f"reads {width} columns, not v_feat_dim {video} + a_feat_dim {sound}")
        return sound

    @property
    def most_clips(self) -> int:
        """Of a video in training, -1 there for all."""
        return 2**16 if self.options.get("max_v_l") == -1 else self.count("max_v_l", 75)

    @property
    def clip_length(self) -> float | None:
        """Seconds."""
        value = self.options.get("clip_length")
        if isinstance(value, int | float) and 0 < value < 2**20:
            return float(value)
        return None

    def normalises(self, what: str) -> bool:
        """Whether features of `what`, v or t, had length 1."""
        return self.options.get(f"no_norm_{what}feat") is not True


def read_released(path: Path) -> Released:
    """Raises InputError for a file that is not there, that holds more than tensors and plain
    values, or was trained with options that are not built here."""
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; download it from its authors' page")
    stand_ins: list[Any] = [
        argparse.Namespace,
        # Dictionaries with attributes, in which Lighthouse and FlashVTG keep their options.
        *((OrderedDict, f"{module}.EasyDict") for module in ("easydict", "easydict.easydict")),
        *((OrderedDict, f"nncore.utils.config.{name}") for name in ("CfgNode", "Config")),
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle or zip trips
        raise InputError(
            f"{path}: not a checkpoint of tensors and plain values ({_cause(error)}); "
            "download it again"
        ) from error
    held = content if isinstance(content, dict) else {}
    state = next((held[name] for name in WEIGHTS if isinstance(held.get(name), dict)), None)
    if not state or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()
    ):
        raise InputError(f"{path}: holds no weights under {' or '.join(WEIGHTS)}; is it released?")
    if not all(value.isfinite().all() for value in state.values()):
        raise InputError(f"{path}: holds weights that are not finite; download it again")
    options = _plain(held.get("opt"))
    for name, built in AS_BUILT.items():
        if (found := options.get(name, built)) != built:
            raise InputError(
                f"{path}: was trained with {name} {shown(found)}; only {built} can be imported"
            )
    weights = {name.removeprefix("module."): value for name, value in state.items()}
    return Released(weights, options)


def _plain(options: object) -> dict[str, Option]:
    values = options if isinstance(options, dict) else getattr(options, "__dict__", {})
    return {
        name: value
        for name, value in values.items()
        if isinstance(name, str)
        and (
            type(value) in (bool, float)
            or (type(value) is int and abs(value) < 2**20)
            or (isinstance(value, str) and len(value) <= LONGEST)
        )
    }


def _cause(error: Exception) -> str:
    """In a few words; of a class that is not plain, its name."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds a {shown(found[1])}"
    return (str(error).splitlines() or [type(error).__name__])[0]
