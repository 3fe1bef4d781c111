"""How clips and words meet: together (Moment-DETR), or clips that ask the words first (QD-DETR)."""

import torch
from torch import Tensor, nn

from model.config.detr import MomentDETRConfig
from model.layers.dropout import Dropout
from model.layers.positioned import EncoderLayer, PositionedAttention, Transition


class JointEncoder(nn.Module):
    """Self-attention over clips and words."""

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        self.layers = encoder_layers(config, learned_slope=False)

    def forward(
        self, clips: Tensor, position: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """clips and position (B, L, F), mask (B, L), words (B, T, F), word_mask (B, T) -> memory
        (B, L + T, F), its positions and its mask. Words have no positions."""
        x = torch.cat((clips, words), 1)  # (B, L + T, F)
        position = torch.cat((position, torch.zeros_like(words)), 1)
        mask = torch.cat((mask, word_mask), 1)  # (B, L + T)
        for layer in self.layers:
            x = layer(x, position, mask)
        return x, position, mask, None


class QueryDependentEncoder(nn.Module):
    """Clips ask the words; then self-attention over a global token and the clips."""

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        self.text_to_video = nn.ModuleList(
            TextToVideoLayer(config) for _ in range(config.text_to_video_layers)
        )
        self.layers = encoder_layers(config, learned_slope=True)
        self.token = nn.Parameter(torch.randn(config.width))
        self.token_position = nn.Parameter(torch.randn(config.width))

    def forward(
        self, clips: Tensor, position: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `JointEncoder`, but memory (B, L, F) of the clips alone, and the token (B, F)."""
        for layer in self.text_to_video:
            clips = layer(clips, position, words, word_mask)
        batch = len(clips)
        x = torch.cat((self.token.to(clips.dtype).expand(batch, 1, -1), clips), 1)  # (B, 1 + L, F)
        token_position = self.token_position.to(position.dtype).expand(batch, 1, -1)
        placed = torch.cat((token_position, position), 1)
        everywhere = torch.cat((mask.new_ones(batch, 1), mask), 1)  # (B, 1 + L)
        for layer in self.layers:
            x = layer(x, placed, everywhere)
        return x[:, 1:], position, mask, x[:, 0]


class TextToVideoLayer(nn.Module):
    """u = x + attention to the words; LN2(u + FFN(LN1(u))): the first norm is only inside the
    branch."""

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        width, rate = config.width, config.dropout
        self.attention = PositionedAttention(width, config.heads, rate, config.attention_backend)
        self.transition = Transition(width, config.feed_forward, rate, learned_slope=True)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(rate)

    def forward(self, clips: Tensor, position: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """clips and position (B, L, F), words (B, T, F), mask (B, T) -> (B, L, F)."""
        asked = self.attention(clips + position, words, words, mask)
        x = clips + self.dropout(asked)
        out: Tensor = self.second_norm(x + self.dropout(self.transition(self.first_norm(x))))
        return out


def encoder_layers(config: MomentDETRConfig, learned_slope: bool) -> nn.ModuleList:
    """The encoder's layers."""
    return nn.ModuleList(
        EncoderLayer(
            config.width,
            config.heads,
            config.feed_forward,
            config.dropout,
            learned_slope,
            config.attention_backend,
        )
        for _ in range(config.encoder_layers)
    )
