"""The vision tower of InternVideo2 stage 2: pooled token states after any of its blocks.

Source: Wang et al., "InternVideo2: Scaling Foundation Models for Multimodal Video Understanding"
(ECCV 2024) and the published weights, whose key names the modules below keep. Here N is the number
of tokens of a clip, CLS first, and C the width of the tower (1408 in the 1B model).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones import VideoEncoder, load_exactly, resolve_layers
from model.backbones.internvideo2_checkpoint import (
    UNUSED_VISION,
    joint_width_in,
    take_part,
    take_projection,
)
from model.config import Backend, InternVideo2Config
from model.layers.attention import attention, check_backend


def internvideo2_1b(**options: object) -> "InternVideo2":
    """The 1B model for the registry; `options` are fields of `InternVideo2Config`."""
    return InternVideo2(InternVideo2Config(**options))  # type: ignore[arg-type]  # from a config file


def internvideo2_6b(**options: object) -> "InternVideo2":
    """The 6B model for the registry, as `internvideo2_1b`."""
    sizes = {"width": 3200, "depth": 48, "heads": 25, "mlp_width": 12800}
    return internvideo2_1b(**{"name": "internvideo2-6b"} | sizes | options)


class InternVideo2(VideoEncoder):
    """The frozen tower: a plain pre-norm ViT over all space-time patches of a clip.

    It has no norm after the last block: layer i is the residual stream after block i, which is what
    the published model pools at its last block. Built on the meta device, it takes the very tensors
    that `load_official` is given, so that weights are never held twice.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        check_backend(config.attention)
        self.config = config
        self.name = config.name
        self.image_size = config.image_size
        self.frames_per_clip = config.frames_per_clip
        self.depth = config.depth
        self.width = config.pool_width if config.pooling == "adaptive" else config.width

        self.patches = (config.image_size // config.patch_size) ** 2  # of one time step
        steps = config.frames_per_clip // config.tubelet_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + steps * self.patches, config.width))
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.clip_projector = AttentionPooling(config)
        self.vision_proj: nn.Linear | None = None
        self.requires_grad_(False).eval()
        if config.compile:
            # Block by block: all blocks share one compiled graph, whatever the chosen layers.
            for module in (*self.blocks, self.clip_projector):
                module.compile()

    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Load the published checkpoint, or the tower's part of it without its prefix.

        The position embedding may be for any number of frames; it is kept as it is, and `forward`
        interpolates. Returns the keys without use here: the distillation decoders, the position
        embeddings of images and of the decoders, and the rest of the multi-modal model. Raises
        ValueError for any other key that is missing, unexpected or of another shape.
        """
        self.vision_proj = None
        weights, skipped, prefix = take_part(state_dict, "vision_encoder.")
        position = weights.get("pos_embed")
        if position is not None and position.dim() == 3 and self._fits(position.shape[1]):
            self.pos_embed = nn.Parameter(
                self.pos_embed.new_empty(1, position.shape[1], self.config.width), False
            )
        skipped += [prefix + key for key in load_exactly(self, weights, UNUSED_VISION)]
        if self.config.pooling == "adaptive":
            self.vision_proj, taken = take_projection(state_dict, "vision_proj", self.width)
            skipped = [key for key in skipped if key not in taken]
        self.joint_width = self.vision_proj.out_features if self.vision_proj else None
        return skipped

    def joint_width_in(self, weights: Mapping[str, Tensor]) -> int | None:
        """With the projection of stage 2, which pooled states of the last block go through."""
        adaptive = self.config.pooling == "adaptive"
        return joint_width_in(weights, "vision_proj") if adaptive else None

    def project(self, pooled: Tensor) -> Tensor:
        """As `VideoEncoder.project`."""
        if self.vision_proj is None:
            return super().project(pooled)
        return torch.as_tensor(self.vision_proj(pooled))

    @torch.no_grad()
    def forward(self, video: Tensor, layers: Sequence[int]) -> Tensor:
        """(B, 3, T, H, W) normalised frames -> (B, K, Dv), the pooled states after each layer.

        Layer i in [0, depth) is the token states after block i, -1 after the last block; they run
        from shallow to deep. Blocks deeper than the last chosen one do not run. T may be any
        multiple of the tubelet size. Works in the weights' type (float32 or bfloat16), which is
        also the result's.
        """
        chosen = resolve_layers(layers, self.depth)
        pooled = []
        tokens = self._embed(video)  # (B, N, C)
        for index in range(chosen[-1] + 1):
            tokens = self.blocks[index](tokens)  # (B, N, C)
            if index in chosen:
                pooled += [self._pool(tokens)] * chosen.count(index)  # (B, Dv) each
        return torch.stack(pooled, dim=1)  # (B, K, Dv)

    def _embed(self, video: Tensor) -> Tensor:
        side, tubelet = self.image_size, self.config.tubelet_size
        if video.shape[1] != 3 or video.shape[3:] != (side, side) or video.shape[2] % tubelet:
            raise ValueError(
                f"video must be (B, 3, T, {side}, {side}) with T a multiple of {tubelet}, "
                f"found {tuple(video.shape)}"
            )
        patches = self.patch_embed(video.to(self.pos_embed.dtype))  # (B, N - 1, C)
        tokens = torch.cat([self.cls_token.expand(len(video), -1, -1), patches], dim=1)
        return tokens + self._position(video.shape[2] // tubelet)  # (B, N, C)

    def _fits(self, tokens: int) -> bool:
        """Whether there are CLS and all the patches of a whole number of time steps."""
        return tokens > 1 and (tokens - 1) % self.patches == 0

    def _position(self, steps: int) -> Tensor:
        """(1, 1 + steps * patches, C): CLS as it is, each patch interpolated along time."""
        cls, patches = self.pos_embed[:, :1], self.pos_embed[0, 1:]
        if len(patches) == steps * self.patches:
            return self.pos_embed
        # (stored steps * patches, C) -> (patches, C, stored steps)
        patches = patches.reshape(-1, self.patches, self.config.width).permute(1, 2, 0)
        patches = F.interpolate(patches.float(), steps, mode="linear", align_corners=False)
        patches = patches.permute(2, 0, 1).flatten(0, 1)[None]  # (1, steps * patches, C)
        return torch.cat([cls, patches.to(cls.dtype)], dim=1)

    def _pool(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, Dv)."""
        if self.config.pooling == "adaptive":
            return torch.as_tensor(self.clip_projector(tokens))
        return tokens[:, 0] if self.config.pooling == "cls" else tokens.mean(1)


class PatchEmbedding(nn.Module):
    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, kernel_size=size, stride=size)

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, N - 1, C), time outermost."""
        return torch.as_tensor(self.proj(video)).flatten(2).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.width)
        self.attn = SelfAttention(config)
        self.ls1 = LayerScale(config.width)
        self.norm2 = RMSNorm(config.width)
        self.mlp = MLP(config)
        self.ls2 = LayerScale(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + torch.as_tensor(self.ls2(self.mlp(self.norm2(tokens))))


class SelfAttention(nn.Module):
    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.heads, self.backend = config.heads, config.attention
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_norm = RMSNorm(config.width)
        self.k_norm = RMSNorm(config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)  # (B, N, C) each
        # Query and key are normalised over the whole width, before they are split into heads.
        query, key = self.q_norm(query), self.k_norm(key)
        mixed = attend(query, key, value, self.heads, self.backend)  # (B, N, C)
        return torch.as_tensor(self.proj(mixed))


class MLP(nn.Module):
    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return torch.as_tensor(self.fc2(F.gelu(self.fc1(tokens))))


class AttentionPooling(nn.Module):
    """One query, the mean of all tokens, attends to the tokens (the paper's AdaptivePool)."""

    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        self.norm1_q = nn.LayerNorm(config.width, eps=1e-5)
        self.norm1_k = nn.LayerNorm(config.width, eps=1e-5)
        self.norm1_v = nn.LayerNorm(config.width, eps=1e-5)
        self.cross_attn = CrossAttention(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, pool_width)."""
        query = self.norm1_q(tokens.mean(1, keepdim=True))  # (B, 1, C)
        pooled = self.cross_attn(query, self.norm1_k(tokens), self.norm1_v(tokens))
        return torch.as_tensor(pooled).squeeze(1)


class CrossAttention(nn.Module):
    def __init__(self, config: InternVideo2Config) -> None:
        super().__init__()
        width = config.width
        self.heads, self.backend = config.pool_heads, config.attention
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))  # the checkpoint's names for the biases
        self.k_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, config.pool_width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query (B, Q, C), key and value (B, N, C) -> (B, Q, pool_width)."""
        query = F.linear(query, self.q.weight, self.q_bias)
        key = F.linear(key, self.k.weight, self.k_bias)
        value = F.linear(value, self.v.weight, self.v_bias)
        return torch.as_tensor(self.proj(attend(query, key, value, self.heads, self.backend)))


class RMSNorm(nn.Module):
    """Normalised in float32, scaled in the type of its input, as the weights were trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        exact = tokens.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * exact.to(tokens.dtype)


class LayerScale(nn.Module):
    """A learned factor per channel, multiplied in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return (tokens.float() * self.gamma.float()).to(tokens.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, backend: Backend) -> Tensor:
    """Attention with the heads side by side: (B, Q, C), (B, N, C), (B, N, C) -> (B, Q, C)."""
    query, key, value = (
        x.view(*x.shape[:-1], heads, -1).transpose(1, 2)  # (B, H, *, Dh)
        for x in (query, key, value)
    )
    return attention(query, key, value, backend=backend).transpose(1, 2).flatten(2)
