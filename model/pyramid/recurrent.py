"""R2-Tuning's side block: one layer that recurs over the stored layers, the deepest first."""

import torch
from torch import Tensor, nn

from model.config.pyramid import PyramidConfig
from model.layers.blocks import projection
from model.layers.dropout import Dropout
from model.layers.positioned import FeatureProjection, PositionedAttention, Transition


class RecurrentEncoder(nn.Module):
    """Clips that gather, layer by layer, what the words find in their patches."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        width, rate, steps = config.width, config.dropout, len(config.layers)
        self.patches = config.patches
        endpoints = 2 if config.endpoints else 0
        inputs = config.video_width // config.patches + endpoints
        self.video = FeatureProjection(inputs, width, config.input_dropout)
        self.text = FeatureProjection(config.text_width, width, config.input_dropout)
        self.patch_key, self.word_query = projection(width, width), projection(width, width)
        self.scale = nn.Parameter(torch.zeros(steps))  # of the step with the lowest layer first
        # Without a second step nothing would reach the gate, and DDP would wait for it.
        self.gate = nn.Parameter(torch.zeros(steps - 1), requires_grad=steps > 1)
        shape = width, config.heads, rate, config.attention_backend
        self.word_attention, self.clip_attention = (
            PositionedAttention(*shape),
            PositionedAttention(*shape),
        )
        self.transition = Transition(width, config.feed_forward, 0.0, learned_slope=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(rate)

    def forward(
        self,
        video: Tensor,
        endpoints: Tensor | None,
        position: Tensor,
        mask: Tensor,
        text: Tensor,
        word_mask: Tensor,
        counted_words: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """video (U, B, L, P * C) and text (U, B, T, Dt), the first step's layer first, endpoints
        (B, L, 2), position (B, L, F), masks (B, L) and (B, T); counted_words (B, T) are those that
        may gather -> clips (B, L, F), and of each step the frames (U, B, L, F) and the words
        (U, B, T, F)."""
        steps = len(video)
        patches = video.view(*video.shape[:3], self.patches, -1)  # (U, B, L, P, C)
        if endpoints is not None:
            where = endpoints[None, :, :, None].to(patches.dtype)
            where = where.expand(*patches.shape[:-1], endpoints.shape[-1])
            patches = torch.cat((patches, where), -1)
        patches, words = self.video(patches), self.text(text)  # (U, B, L, P, F), (U, B, T, F)
        clips = position  # replaced in the first step
        for step, (patch, word) in enumerate(zip(patches, words, strict=True)):
            found = self._gather(patch, word, counted_words)  # (B, L, F)
            frame = patch[:, :, 0] + found * self.scale[steps - 1 - step].tanh()
            if step:
                gate = self.gate[steps - 1 - step].sigmoid()
                frame = gate * frame + (1 - gate) * clips
            clips = self._attend(frame, position, mask, word, word_mask)
        return clips, patches[:, :, :, 0], words

    def _gather(self, patches: Tensor, words: Tensor, counted: Tensor) -> Tensor:
        """patches (B, L, P, F), words (B, T, F), counted (B, T) -> (B, L, F): each word's mean of
        the patches that it fits, plus the word; of all words the largest."""
        query, key = self.word_query(words), self.patch_key(patches)
        fit = torch.einsum("btf,blpf->bltp", query, key) * query.shape[-1] ** -0.5
        read = torch.einsum("bltp,blpf->bltf", fit.float().softmax(-1).to(patches.dtype), patches)
        # Finite, so that a sentence without words gives no NaN.
        floor = torch.finfo(read.dtype).min
        found = (read + words[:, None]).masked_fill(~counted[:, None, :, None], floor)
        return torch.where(counted.any(1)[:, None, None], found.amax(2), 0.0)

    def _attend(
        self, x: Tensor, position: Tensor, mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> Tensor:
        asked = self.word_attention(x + position, words, words, word_mask)
        x = self.norms[0](x + self.dropout(asked))
        placed = x + position
        x = self.norms[1](x + self.dropout(self.clip_attention(placed, placed, x, mask)))
        out: Tensor = self.norms[2](x + self.dropout(self.transition(x)))
        return out
