"""FlashVTG's encoder: clips ask the words, and dummies take what they do not find there."""

import torch
from torch import Tensor, nn

from model.config.pyramid import PyramidConfig
from model.layers.blocks import projection
from model.layers.dropout import Dropout
from model.layers.positioned import EncoderLayer, Transition

DUMMY_HEADS = 8


class FlashEncoder(nn.Module):
    """Clips (B, L, F) that know of the sentence, and how much of their attention it has."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        width, rate = config.width, config.dropout

        def layers(count: int, heads: int) -> nn.ModuleList:
            shape = width, heads, config.feed_forward, rate, True, config.attention_backend
            return nn.ModuleList(EncoderLayer(*shape) for _ in range(count))

        self.kinds = nn.Embedding(2, width)  # words, clips
        self.dummies = nn.Parameter(torch.randn(config.dummies, width))
        self.dummy_positions = nn.Parameter(torch.randn(config.dummies, width))
        self.dummy_layers = layers(config.dummy_layers, DUMMY_HEADS)
        self.text_to_video = nn.ModuleList(
            DummyAttentionLayer(config) for _ in range(config.text_to_video_layers)
        )
        self.layers = layers(config.encoder_layers, config.heads)

    def mark(self, clips: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, L, F) and words (B, T, F) with what kind of token they are."""
        word, clip = self.kinds.weight.unbind(0)
        return clips + clip, words + word

    def forward(
        self, clips: Tensor, position: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """clips and position (B, L, F), mask (B, L), words (B, T, F), word_mask (B, T), both
        marked -> clips (B, L, F), their attention to the words (B, L) in [0, 1] float32."""
        batch, count = len(words), len(self.dummies)
        dummies = self.dummies.to(words.dtype).expand(batch, -1, -1)  # (B, D, F)
        placed = self.dummy_positions.to(words.dtype).expand(batch, -1, -1)
        placed = torch.cat((placed, torch.zeros_like(words)), 1)  # (B, D + T, F)
        key_mask = torch.cat((word_mask.new_ones(batch, count), word_mask), 1)  # (B, D + T)
        x = torch.cat((dummies, words), 1)
        for layer in self.dummy_layers:
            x = layer(x, placed, key_mask)
        keys = torch.cat((x[:, :count], words), 1)  # the words themselves stay as they are
        shares = []
        for layer in self.text_to_video:
            clips, weights = layer(clips, position, keys, placed, key_mask, count)
            shares.append(weights)
        for layer in self.layers:
            clips = layer(clips, position, mask)
        return clips, torch.stack(shares).mean(0).clamp(0, 1)


class DummyAttentionLayer(nn.Module):
    """Attention without projections of queries, keys and values, of which the dummies' share is
    left out; then as `TextToVideoLayer` of QD-DETR."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        width, rate = config.width, config.dropout
        self.heads = config.heads
        self.output = projection(width, width)
        self.transition = Transition(width, config.feed_forward, rate, learned_slope=True)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout, self.weight_dropout = Dropout(rate), Dropout(rate)

    def forward(
        self,
        clips: Tensor,
        position: Tensor,
        keys: Tensor,
        key_position: Tensor,
        mask: Tensor,
        dummies: int,
    ) -> tuple[Tensor, Tensor]:
        """clips and position (B, L, F), keys, dummies first, and their position (B, Y, F), mask
        (B, Y) -> clips (B, L, F), the words' share of the attention (B, L) float32."""
        query, key, value = (
            x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x in (clips + position, keys + key_position, keys)
        )  # (B, H, L or Y, Dh)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, H, L, Y)
        weights = scores.float().masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        weights = weights[..., dummies:]  # (B, H, L, T)
        mixed = self.weight_dropout(weights).to(value.dtype) @ value[:, :, dummies:]
        x = clips + self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        x = self.second_norm(x + self.dropout(self.transition(self.first_norm(x))))
        return x, weights.sum(-1).mean(1)
