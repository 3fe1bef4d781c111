"""What the models are made of: attention, feed-forward networks, residuals, precise heads."""

import torch
from torch import Tensor, nn

from model.config import Backend, NormKernel
from model.layers.attention import attention
from model.layers.dropout import Dropout
from model.layers.fused import layer_norm


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        self.heads, self.backend = heads, backend
        self.query_key_value = projection(width, 3 * width)
        self.output = projection(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, X, F), mask (B, X) True where real, or None -> (B, X, F)."""
        fused = self.query_key_value(x).unflatten(-1, (3, self.heads, -1))  # (B, X, 3, H, Dh)
        query, key, value = (x.transpose(1, 2) for x in fused.unbind(2))  # (B, H, X, Dh) each
        mixed = attention(query, key, value, mask, self.backend)  # (B, H, X, Dh)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (B, X, F)
        return out


class CrossAttention(nn.Module):
    """Multi-head attention to a memory whose keys and values may be projected ahead of time."""

    def __init__(self, width: int, heads: int, backend: Backend = "sdpa") -> None:
        super().__init__()
        self.heads, self.backend = heads, backend
        self.query = projection(width, width)
        self.key_value = projection(width, 2 * width)
        self.output = projection(width, width)

    def project(self, memory: Tensor) -> Tensor:
        """Keys and values of a memory (..., Y, F) -> (..., 2, H, Y, Dh)."""
        fused = self.key_value(memory).unflatten(-1, (2, self.heads, -1))  # (..., Y, 2, H, Dh)
        projected: Tensor = fused.movedim(-4, -2)
        return projected

    def forward(self, x: Tensor, projected: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, X, F), projected (B, 2, H, Y, Dh) from `project`, mask (B, Y) -> (B, X, F)."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, X, Dh)
        key, value = projected.unbind(1)  # (B, H, Y, Dh) each
        mixed = attention(query, key, value, mask, self.backend)  # (B, H, X, Dh)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (B, X, F)
        return out


class FeedForward(nn.Sequential):
    """F -> ratio * F -> F with a ReLU between."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__(
            projection(width, ratio * width), nn.ReLU(), projection(ratio * width, width)
        )


class Residual(nn.Module):
    """Post-norm residual branch: LayerNorm(x + dropout(branch))."""

    def __init__(self, width: int, dropout: float, kernel: NormKernel = "torch") -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.norm = layer_norm(width, kernel)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x and branch (B, X, F) -> (B, X, F)."""
        out: Tensor = self.norm(x + self.dropout(branch))
        return out


class FullPrecision(nn.Sequential):
    """Layers that leave autocast: their parameters' precision inside, float32 out.

    In bfloat16 a boundary in a video of 150 s is only good to half a second, and the confidences of
    different queries tie.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., F) -> float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(next(self.parameters()).dtype)
            for layer in self:
                x = layer(x)
        return x.float()


def projection(inputs: int, outputs: int) -> nn.Linear:
    """A Linear with Xavier-uniform weights and zero bias, as transformers are initialised."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
