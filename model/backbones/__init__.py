"""The frozen encoders whose intermediate layers SDST is trained on: their interface and registry.

An encoder is one file in this folder and one line in `VIDEO_ENCODERS` or `TEXT_ENCODERS`. It takes
weights as a state dict and a tokenizer as text; which files those come from is decided in
`data_pipeline/extraction/encoding.py`.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

VIDEO_ENCODERS = {
    "clip": "model.backbones.clip:ClipVideo",
    "efficientnet-lite0": "model.backbones.efficientnet_lite:EfficientNetLite0",
    "internvideo2-1b": "model.backbones.internvideo2:internvideo2_1b",
    "internvideo2-6b": "model.backbones.internvideo2:internvideo2_6b",
}
"""Name -> `module:callable`; the callable takes the encoder's options and returns it."""

TEXT_ENCODERS = {
    "all-minilm-l6-v2": "model.backbones.minilm:MiniLM",
    "clip": "model.backbones.clip:ClipText",
    "internvideo2-1b": "model.backbones.internvideo2_text:internvideo2_1b_text",
    "internvideo2-6b": "model.backbones.internvideo2_text:internvideo2_1b_text",
}
"""Name -> `module:callable`; the callable takes `tokenizer` and the encoder's options."""


class VideoEncoder(nn.Module, ABC):
    """A frozen video encoder that gives one pooled vector per clip and chosen layer.

    `layers` everywhere are indices in [-depth, depth), counted from the shallowest selectable
    layer; -1 is the deepest.
    """

    name: str
    image_size: int
    """Side of the square frames it takes, in pixels."""
    frames_per_clip: int
    """Frames of a clip it was trained with; `forward` takes other numbers where it can."""
    mean: tuple[float, float, float]
    """Subtracted from RGB / 255 before ..."""
    std: tuple[float, float, float]
    """... dividing by this."""
    crop: float | None = None
    """Share of a picture's shorter side that the square in its centre shows which is seen; None:
    all of the picture is seen, squeezed to a square."""
    depth: int
    """Number of layers to choose from."""
    width: int
    """Dv, the width of every layer's pooled vector."""
    joint_width: int | None = None
    """J, the width of the space that it shares with a text encoder; None where there is none."""

    @abstractmethod
    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Take weights under the published checkpoint's own names; returns the keys not needed.

        Raises ValueError for any other key that is missing or unexpected, or of another shape.
        """

    @abstractmethod
    def forward(self, video: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, 3, T, H, W) normalised frames -> (B, K, Dv) float, K = len(layers), in that order.

        A clip's result does not depend on the other clips of the batch, up to rounding.
        """

    def project(self, pooled: Tensor) -> Tensor:
        """(B, Dv) of the deepest layer -> (B, J) in the shared space, of any length."""
        raise NotImplementedError(f"{self.name} shares no space with a text encoder")

    def joint_width_in(self, weights: Mapping[str, Tensor]) -> int | None:
        """`joint_width` with these weights, before they are loaded."""
        return self.joint_width


class TextEncoder(nn.Module, ABC):
    """A frozen text encoder that gives one vector per token and chosen layer.

    `tokenizer` is the text of a Hugging Face `tokenizer.json`. `layers` as in `VideoEncoder`.
    """

    name: str
    depth: int
    """Number of layers to choose from."""
    width: int
    """Dt, the width of every layer's token vectors."""
    joint_width: int | None = None
    """As in `VideoEncoder`."""
    max_tokens: int
    """Longer sentences are cut to this many tokens, special tokens included."""

    def __init__(self, tokenizer: str) -> None:
        super().__init__()
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ImportError(
                "text encoders need the package tokenizers: pip install transformers"
            ) from error
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer)
        except Exception as error:  # the package raises no other
            raise ValueError(f"not a tokenizer.json ({str(error)[:100]})") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)

    def tokenize(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, T), padded to the longest, and mask (B, T), True where real."""
        encoded = [self._encode(sentence) for sentence in sentences]
        pad = nn.utils.rnn.pad_sequence
        ids = pad([torch.tensor(each.ids) for each in encoded], batch_first=True)  # (B, T)
        mask = pad([torch.tensor(each.attention_mask) for each in encoded], batch_first=True)
        return ids, mask.bool()

    def unread(self, sentence: str) -> int:
        """How many tokens at the end of a sentence are beyond what is read."""
        cut = self._encode(sentence).overflowing
        return sum(len(part.ids) - sum(part.special_tokens_mask) for part in cut)

    def prepare(self, sentence: str) -> str:
        """A sentence as its tokenizer is to see it."""
        return sentence

    def _encode(self, sentence: str) -> Any:
        return self._tokenizer.encode(self.prepare(sentence))

    @abstractmethod
    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """As `VideoEncoder.load_official`."""

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, T) ids and mask -> (B, T, K, Dt) hidden states of every token, K = len(layers).

        Entries where the mask is False hold no meaning.
        """

    def project(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T, Dt) of the deepest layer -> (B, J), as `VideoEncoder.project`."""
        raise NotImplementedError(f"{self.name} shares no space with a video encoder")

    def joint_width_in(self, weights: Mapping[str, Tensor]) -> int | None:
        """As `VideoEncoder.joint_width_in`."""
        return self.joint_width


def video_encoder(name: str, **options: Any) -> VideoEncoder:
    """Build a registered video encoder, weights not loaded yet.

    Raises ValueError for an unknown name and ImportError, with the command that installs it, for an
    encoder whose package is missing.
    """
    encoder = _build(VIDEO_ENCODERS, "video", name, options)
    assert isinstance(encoder, VideoEncoder)
    return encoder


def text_encoder(name: str, tokenizer: str, **options: Any) -> TextEncoder:
    """Build a registered text encoder, weights not loaded yet; errors as in `video_encoder`."""
    encoder = _build(TEXT_ENCODERS, "text", name, {"tokenizer": tokenizer, **options})
    assert isinstance(encoder, TextEncoder)
    return encoder


def _build(registry: Mapping[str, str], kind: str, name: str, options: dict[str, Any]) -> object:
    if name not in registry:
        raise ValueError(f"unknown {kind} encoder {name!r}; known: {', '.join(registry)}")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(**options)


def resolve_layers(layers: Iterable[int], depth: int) -> list[int]:
    """Layer indices in [-depth, depth) as indices in [0, depth).

    Raises ValueError for one out of range or for a list that does not run from shallow to deep: the
    stored layer axis always does (a repeated layer is allowed).
    """
    layers = list(layers)
    if not layers or any(not -depth <= layer < depth for layer in layers):
        raise ValueError(
            f"layers must be a non-empty list within [{-depth}, {depth}), found {layers}"
        )
    resolved = [layer % depth for layer in layers]
    if resolved != sorted(resolved):
        raise ValueError(f"layers must run from shallow to deep, found {layers}")
    return resolved


def load_exactly(
    module: nn.Module, weights: Mapping[str, Tensor], unused: tuple[str, ...] = ()
) -> list[str]:
    """Load `weights` into `module`, key for key; returns the keys skipped by a prefix in `unused`.

    Raises ValueError that names keys which are missing, unexpected or of another shape.
    """
    skipped = [key for key in weights if key.startswith(unused)] if unused else []
    taken = {key: weights[key] for key in weights if not (unused and key.startswith(unused))}
    own = module.state_dict()
    faults = {
        "missing": [key for key in own if key not in taken],
        "unexpected": [key for key in taken if key not in own],
        "of another shape": [k for k in taken if k in own and taken[k].shape != own[k].shape],
    }
    if any(faults.values()):
        raise ValueError(
            "weights do not fit the encoder: "
            + "; ".join(f"{what}: {', '.join(keys[:5])}" for what, keys in faults.items() if keys)
        )
    # A module built on the meta device has nothing to copy into: it takes the tensors themselves.
    on_meta = any(parameter.is_meta for parameter in module.parameters())
    module.load_state_dict(taken, assign=on_meta)
    return skipped
