"""CLIP and what is built like it: one space for pictures and sentences, any layer of either tower.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(2021); Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (2023); Tschannen et al.,
"SigLIP 2" (2025). The towers are Hugging Face's own: whatever `AutoModel` builds that has
`get_image_features` and `get_text_features` over a list of blocks. A layer's tokens are pooled by
the tower itself, as if its blocks ended there: post norm, CLS and projection in CLIP, attention
pooling in SigLIP. So every layer lies in the joint space, and the last one is what the library
gives.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from model.backbones import TextEncoder, VideoEncoder, load_exactly, resolve_layers
from model.backbones.clip_pictures import preparation

MOST_BLOCKS = 512
"""A configuration that asks for more is taken for damage."""

CODE = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config")
"""Keys of a configuration by which it would choose what runs."""

PADDED = ("siglip_text_model", "siglip2_text_model")
"""Text towers that pool their last place, and so read every sentence filled up to it."""


class ClipVideo(VideoEncoder):
    """The picture tower; a clip is the mean of its frames.

    config, preprocessor: the checkpoint's `config.json`, and `preprocessor_config.json`, by which
    pictures are prepared. Raises ImportError where transformers is not installed, ValueError for a
    model without two such towers and for preparation that is not known here.
    """

    name = "clip"
    frames_per_clip = 1

    def __init__(self, config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = _build(config, keep="vision")
        tower = self.model.config.vision_config
        self.image_size = int(tower.image_size if hasattr(tower, "image_size") else _side(tower))
        self.mean, self.std, self.crop = preparation(preprocessor, self.image_size)
        self.depth = len(_blocks(self.model.vision_model))
        self.patch_size = int(tower.patch_size)
        self.width = self.joint_width = _joint_width(self.model.config)
        self.requires_grad_(False).eval()

    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Take the checkpoint's weights; those of the text tower are not needed."""
        return _load(self.model, state_dict, ("text_",))

    @torch.no_grad()
    def forward(self, video: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, 3, T, H, W) normalised frames -> (B, K, J), each frame's pooled tokens, averaged."""
        chosen = resolve_layers(layers, self.depth)
        batch, _, steps, *_ = video.shape
        inputs = self._inputs(video.transpose(1, 2).flatten(0, 1))  # of B * T pictures

        def pooled() -> Tensor:
            return _pooled(self.model.get_image_features(**inputs))

        vectors, _ = _through(self.model.vision_model, chosen, pooled)  # K of (B * T, J)
        frames = torch.stack(vectors, dim=1)  # (B * T, K, J)
        return frames.view(batch, steps, *frames.shape[1:]).mean(1)

    def project(self, pooled: Tensor) -> Tensor:
        """(B, J) of the deepest layer, which lies in the joint space."""
        return pooled

    def _inputs(self, pictures: Tensor) -> dict[str, Tensor]:
        """What the library's towers take of (N, 3, H, W) pictures."""
        pictures = pictures.to(next(self.model.parameters()).dtype)
        if self.model.config.vision_config.model_type != "siglip2_vision_model":
            return {"pixel_values": pictures}
        # SigLIP 2 takes pictures of any shape, cut in patches already.
        count, size = len(pictures), self.patch_size
        side = self.image_size // size
        patches = pictures.reshape(count, 3, side, size, side, size)  # (N, 3, h, p, w, p)
        shape = torch.tensor([[side, side]], device=pictures.device).expand(count, 2)
        return {
            "pixel_values": patches.permute(0, 2, 4, 3, 5, 1).reshape(count, side * side, -1),
            "pixel_attention_mask": shape.new_ones(count, side * side),
            "spatial_shapes": shape,
        }


class ClipText(TextEncoder):
    """The text tower; `tokenizer` is the text of the checkpoint's `tokenizer.json`.

    Layers are the states of the blocks as they are. Errors as in `ClipVideo`.
    """

    name = "clip"

    def __init__(self, tokenizer: str, config: Mapping[str, Any]) -> None:
        model = _build(config, keep="text")
        tower = model.config.text_config
        self.max_tokens = int(tower.max_position_embeddings)
        super().__init__(tokenizer)
        self.model = model
        self.depth = len(_blocks(model.text_model))
        self.width = int(tower.hidden_size)
        self.joint_width = _joint_width(model.config)
        self._padded = tower.model_type in PADDED
        if self._padded:
            self._tokenizer.enable_padding(
                pad_id=tower.pad_token_id or 0,
                pad_token=self._tokenizer.id_to_token(tower.pad_token_id or 0) or "",
                length=self.max_tokens,
            )
        self.requires_grad_(False).eval()

    def prepare(self, sentence: str) -> str:
        """SigLIP's towers were trained on small letters only."""
        return sentence.lower() if self._padded else sentence

    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Take the checkpoint's weights; those of the picture tower are not needed."""
        return _load(self.model, state_dict, ("vision_", "visual_"))

    @torch.no_grad()
    def forward(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, T) ids and mask -> (B, T, K, Dt), the states of all tokens after each layer."""
        chosen = resolve_layers(layers, self.depth)
        with _states(self.model.text_model, chosen) as states:
            self._features(ids, mask)
        return torch.stack([states[layer] for layer in chosen], dim=2)

    @torch.no_grad()
    def project(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T, Dt) states after the deepest layer -> (B, J)."""
        with _replayed(self.model.text_model, states):
            return self._features(ids, mask)

    def _features(self, ids: Tensor, mask: Tensor) -> Tensor:
        # Towers that read filled-up sentences were trained to see what fills them.
        seen = None if self._padded else mask.long()
        return _pooled(self.model.get_text_features(input_ids=ids, attention_mask=seen))


def _build(config: Mapping[str, Any], keep: str) -> Any:
    """The library's model of a configuration, of its two towers only the one called `keep`."""
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise ImportError(
            "CLIP-like encoders need transformers: pip install 'sdst[clip]'"
        ) from error
    settings = _settings(config)
    kind = settings.pop("model_type", None)
    try:
        # No file chooses what runs: neither code of its own nor the kernels of attention.
        described = AutoConfig.for_model(kind, **settings)
        build: Any = AutoModel.from_config
        model = build(described, attn_implementation="sdpa")
    except Exception as error:  # whatever the library trips over in settings that are not its own
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"config.json describes no model that can be built ({said})") from error
    for part in ("vision", "text"):
        if not hasattr(model, f"{part}_model") or _blocks(getattr(model, f"{part}_model")) is None:
            raise ValueError(
                f"a model of type {kind!r} has no picture and text tower of blocks, as CLIP and "
                "SigLIP have; name another checkpoint"
            )
        if part != keep:
            setattr(model, f"{part}_model", nn.Identity())
    other = "text_projection" if keep == "vision" else "visual_projection"
    if hasattr(model, other):
        setattr(model, other, nn.Identity())
    return model


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what chooses code; ValueError for towers of absurd height."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith("_") or key in CODE:
            continue
        if key.startswith("num_") and isinstance(value, int) and value > 1 << 20:
            raise ValueError(f"config.json: {key} is {value}; is the file damaged?")
        if key == "num_hidden_layers" and not (isinstance(value, int) and 0 < value <= MOST_BLOCKS):
            raise ValueError(f"config.json: {key} is {value!r}; is the file damaged?")
        kept[key] = _settings(value) if isinstance(value, Mapping) else value
    return kept


def _side(tower: Any) -> int:
    """Pixels of a side of the square pictures that SigLIP 2 has an embedding of every patch for."""
    return int(math.isqrt(tower.num_patches) * tower.patch_size)


def _load(model: Any, weights: Mapping[str, Tensor], unused: tuple[str, ...]) -> list[str]:
    buffers = dict(model.named_buffers())
    skipped = load_exactly(model, weights, (*unused, *buffers))
    # What no checkpoint need hold: places are counted, a sentence has one segment.
    for name, buffer in buffers.items():
        owner, _, short = name.rpartition(".")
        if not buffer.is_meta:
            continue
        if short not in ("position_ids", "token_type_ids"):
            raise ValueError(f"the model has {name}, which no file holds; name another checkpoint")
        value = torch.zeros(buffer.shape, dtype=torch.long)
        if short == "position_ids":
            value = torch.arange(buffer.shape[-1]).expand(buffer.shape)
        model.get_submodule(owner).register_buffer(short, value, persistent=False)
    return skipped


# Towers of the library


def _encoder(tower: nn.Module) -> tuple[str, nn.Module] | None:
    """The part of a tower that holds its blocks, under its name there."""
    for name, module in tower.named_modules():
        if name.rpartition(".")[2] == "encoder" and _list_of(module) is not None:
            return name, module
    return None


def _list_of(encoder: nn.Module) -> nn.ModuleList | None:
    blocks = getattr(encoder, "layers", getattr(encoder, "layer", None))
    return blocks if isinstance(blocks, nn.ModuleList) else None


def _blocks(tower: nn.Module) -> Any:
    found = _encoder(tower)
    return found and _list_of(found[1])


def _through(
    tower: nn.Module, chosen: Sequence[int], pooled: Callable[[], Tensor]
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """What a tower pools after each of `chosen` blocks, deeper ones than the last do not run."""
    with _states(tower, chosen) as states:
        last = pooled()
    vectors = {chosen[-1]: last}
    for layer in chosen[:-1]:
        if layer not in vectors:
            with _replayed(tower, states[layer]):
                vectors[layer] = pooled()
    return [vectors[layer] for layer in chosen], states


@contextmanager
def _states(tower: nn.Module, chosen: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What blocks give that run inside, by their numbers; the tower ends at the last of them."""
    found = _encoder(tower)
    assert found is not None
    name = "layers" if hasattr(found[1], "layers") else "layer"
    blocks: nn.ModuleList = getattr(found[1], name)
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            states[layer] = output if isinstance(output, Tensor) else output[0]

        return hook

    handles = [blocks[layer].register_forward_hook(keep(layer)) for layer in set(chosen)]
    setattr(found[1], name, blocks[: chosen[-1] + 1])
    try:
        yield states
    finally:
        setattr(found[1], name, blocks)
        for handle in handles:
            handle.remove()


class _Replay(nn.Module):
    """Stands for the blocks of a tower and gives the states that they made."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=self.states)


@contextmanager
def _replayed(tower: nn.Module, states: Tensor) -> Iterator[None]:
    """A tower's blocks give `states` inside, whatever goes into them."""
    found = _encoder(tower)
    assert found is not None
    owner, _, name = found[0].rpartition(".")
    holder = tower.get_submodule(owner)
    setattr(holder, name, _Replay(states))
    try:
        yield
    finally:
        setattr(holder, name, found[1])


def _pooled(output: Any) -> Tensor:
    """The vectors (B, J): versions of the library give them bare or as one of several outputs."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _joint_width(config: Any) -> int:
    """J: CLIP's towers are projected, SigLIP's are as wide as they come."""
    width = getattr(config, "projection_dim", None) or getattr(
        config.text_config, "projection_size", None
    )
    return int(width or config.vision_config.hidden_size)
