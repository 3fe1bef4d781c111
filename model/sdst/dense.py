"""The dense stream: clips that read the sentence and each other."""

import torch
from torch import Tensor, nn

from model.config import SDSTConfig
from model.layers.blocks import CrossAttention, FeedForward, Residual, SelfAttention


class DenseStream(nn.Module):
    """D := FFN(SA(CA(b D + (1 - b) V_l, T_l, T_l))), post-norm; weights shared over the steps.

    b is one scalar per step behind a sigmoid, zero-initialised. The first step has no earlier D
    and takes V_l as it is, so there are S - 1 gates.
    """

    def __init__(self, config: SDSTConfig) -> None:
        super().__init__()
        gates = len(config.layers) - 1
        # Without a gate nothing would reach the empty parameter, and DDP would wait for it.
        self.gates = nn.Parameter(torch.zeros(gates), requires_grad=gates > 0)
        attention = config.width, config.heads, config.attention_backend
        residual = config.width, config.dropout, config.norm_kernel
        self.text_attention, self.text_residual = CrossAttention(*attention), Residual(*residual)
        self.clip_attention, self.clip_residual = SelfAttention(*attention), Residual(*residual)
        self.feed_forward = FeedForward(config.width, config.feed_forward_ratio)
        self.feed_forward_residual = Residual(*residual)

    def forward(
        self,
        step: int,
        dense: Tensor | None,
        clips: Tensor,
        clip_mask: Tensor,
        projected_text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """One step: dense and clips (B, L, F) -> (B, L, F).

        `projected_text` (B, 2, H, T, Dh) comes from `text_attention.project`, once per layer.
        """
        if dense is None:
            x = clips
        else:
            gate = self.gates[step - 1].sigmoid()
            x = torch.lerp(clips.to(dense.dtype), dense, gate.to(dense.dtype))  # (B, L, F)
        x = self.text_residual(x, self.text_attention(x, projected_text, text_mask))
        x = self.clip_residual(x, self.clip_attention(x, clip_mask))
        out: Tensor = self.feed_forward_residual(x, self.feed_forward(x))
        return out
