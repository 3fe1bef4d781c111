"""The sparse stream: M recurrent queries, each a reference (centre, width) and a hidden state."""

from torch import Tensor, nn

from model.config import SDSTConfig
from model.layers.blocks import CrossAttention, FeedForward, Residual, SelfAttention
from model.sdst.rdsa import DeformableAttention, ReferenceQueries


class SparseStream(nn.Module):
    """H := FFN(RDSA(R, SA(CA(H, T_l)), D)), post-norm; weights shared over the steps."""

    def __init__(self, config: SDSTConfig) -> None:
        super().__init__()
        kind = config.sparse_attention
        attention = config.width, config.heads, config.attention_backend
        residual = config.width, config.dropout, config.norm_kernel
        self.text_attention, self.text_residual = CrossAttention(*attention), Residual(*residual)
        self.query_attention = SelfAttention(*attention) if config.query_self_attention else None
        self.query_residual = Residual(*residual) if config.query_self_attention else None
        self.reference_queries = ReferenceQueries(config) if kind == "rdsa" else None
        self.clip_attention: CrossAttention | DeformableAttention
        if kind == "cross":
            self.clip_attention = CrossAttention(*attention)
        else:
            pure_init = kind == "deformable_pure_init"
            self.clip_attention = DeformableAttention(config, pure_init)
        self.clip_residual = Residual(*residual)
        self.feed_forward = FeedForward(config.width, config.feed_forward_ratio)
        self.feed_forward_residual = Residual(*residual)

    def forward(
        self,
        hidden: Tensor,
        reference: Tensor,
        dense: Tensor,
        clip_mask: Tensor,
        projected_text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        """One step: hidden (B, M, F), reference (B, M, 2) float32, dense (B, L, F) -> (B, M, F).

        `projected_text` (B, 2, H, T, Dh) comes from `text_attention.project`, once per layer.
        """
        x = self.text_residual(hidden, self.text_attention(hidden, projected_text, text_mask))
        if self.query_attention is not None and self.query_residual is not None:
            x = self.query_residual(x, self.query_attention(x))
        x = self.clip_residual(x, self._read_clips(x, reference, dense, clip_mask))
        out: Tensor = self.feed_forward_residual(x, self.feed_forward(x))
        return out

    def _read_clips(
        self, hidden: Tensor, reference: Tensor, dense: Tensor, clip_mask: Tensor
    ) -> Tensor:
        read: Tensor
        if isinstance(self.clip_attention, CrossAttention):
            read = self.clip_attention(hidden, self.clip_attention.project(dense), clip_mask)
        else:
            length, source = clip_mask.sum(1), hidden  # (B,), (B, M, F)
            if self.reference_queries is not None:
                source = self.reference_queries(reference, dense, clip_mask, length)
            read = self.clip_attention(source, reference, dense, length)
        return read
