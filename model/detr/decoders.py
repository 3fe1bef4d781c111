"""How queries become moments: by learned embeddings (Moment-DETR), or anchors that are refined
after every layer (DAB-DETR, in one dimension; QD-DETR)."""

import math

import torch
from torch import Tensor, nn

from model.config.detr import MomentDETRConfig
from model.layers.attention import attention
from model.layers.blocks import projection
from model.layers.dropout import Dropout
from model.layers.positioned import (
    PositionedAttention,
    Transition,
    inverse_sigmoid,
    perceptron,
    sine_code,
)


class EmbeddingDecoder(nn.Module):
    """Content starts at zero, the position of a query is the same embedding in every layer."""

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        self.queries = nn.Embedding(config.queries, config.width)
        self.layers = nn.ModuleList(EmbeddingLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, memory: Tensor, position: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """memory and position (B, Y, F), mask (B, Y) -> normed states (S, B, M, F)."""
        place = self.queries.weight.to(memory.dtype).expand(len(memory), -1, -1)  # (B, M, F)
        x, states = torch.zeros_like(place), []
        for layer in self.layers:
            x = layer(x, place, memory, position, mask)
            states.append(self.norm(x))
        return torch.stack(states), None


class EmbeddingLayer(nn.Module):
    """Post-norm self-attention, cross-attention and feed-forward network."""

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        width, rate = config.width, config.dropout
        shape = width, config.heads, rate, config.attention_backend
        self.query_attention, self.memory_attention = (
            PositionedAttention(*shape),
            PositionedAttention(*shape),
        )
        self.transition = Transition(width, config.feed_forward, rate, learned_slope=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(rate)

    def forward(
        self, x: Tensor, place: Tensor, memory: Tensor, position: Tensor, mask: Tensor
    ) -> Tensor:
        """x and place (B, M, F), memory and position (B, Y, F), mask (B, Y) -> (B, M, F)."""
        placed = x + place
        x = self.norms[0](x + self.dropout(self.query_attention(placed, placed, x)))
        read = self.memory_attention(x + place, memory + position, memory, mask)
        x = self.norms[1](x + self.dropout(read))
        out: Tensor = self.norms[2](x + self.dropout(self.transition(x)))
        return out


class AnchorDecoder(nn.Module):
    """Each query is a (centre, width) anchor and a content; its position is the anchor's sine code.

    The next layer takes the refined anchor without gradient, the heads take it with.
    """

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        width = config.width
        self.width = width
        self.anchors = nn.Embedding(config.queries, 2)
        self.layers = nn.ModuleList(
            AnchorLayer(config, first=layer == 0) for layer in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.place = nn.Sequential(*perceptron(width, width, width))
        self.scale = nn.Sequential(*perceptron(width, width, width))
        self.spread = nn.Sequential(*perceptron(width, width, 1))
        self.refine = nn.Sequential(*perceptron(width, width, width, 2))
        nn.init.zeros_(self.refine[-1].weight)  # type: ignore[arg-type]  # a Linear
        nn.init.zeros_(self.refine[-1].bias)  # type: ignore[arg-type]

    def forward(self, memory: Tensor, position: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """memory and position (B, Y, F), mask (B, Y) -> normed states (S, B, M, F), and the anchor
        that each layer began with (S, B, M, 2) float32."""
        anchor = self.anchors.weight.float().sigmoid().expand(len(memory), -1, -1)  # (B, M, 2)
        x = memory.new_zeros(len(memory), anchor.shape[1], self.width)
        given, states = anchor, []
        anchors = []
        for number, layer in enumerate(self.layers):
            anchors.append(given)
            code = sine_code(2 * math.pi * anchor, self.width // 2).flatten(-2)  # (B, M, F)
            place = self.place(code.to(memory.dtype))
            if number:
                code = code * self.scale(x)
            code = code * (self.spread(x).float().sigmoid() / anchor[..., 1:])
            x = layer(x, place, code.to(memory.dtype), memory, position, mask)
            states.append(self.norm(x))
            if number + 1 < len(self.layers):  # nothing reads the last layer's
                given = (self.refine(x).float() + inverse_sigmoid(anchor)).sigmoid()
                anchor = given.detach()
        return torch.stack(states), torch.stack(anchors)


class AnchorLayer(nn.Module):
    """As `EmbeddingLayer`, with projections of content and position of their own, and attention to
    the memory by content and place side by side, each in half of a head's query."""

    def __init__(self, config: MomentDETRConfig, first: bool) -> None:
        super().__init__()
        width, rate = config.width, config.dropout
        self.heads, self.rate, self.backend = config.heads, rate, config.attention_backend
        self.own = nn.ModuleDict(
            {
                name: projection(width, width)
                for name in ("query", "query_place", "key", "key_place", "value", "output")
            }
        )
        names = ["query", "query_code", "key", "key_place", "value", "output"]
        names += ["query_place"] if first else []
        self.memory = nn.ModuleDict({name: projection(width, width) for name in names})
        self.transition = Transition(width, config.feed_forward, rate, learned_slope=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(rate)

    def forward(
        self,
        x: Tensor,
        place: Tensor,
        code: Tensor,
        memory: Tensor,
        position: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """x, place and code (B, M, F), memory and position (B, Y, F), mask (B, Y) -> (B, M, F)."""
        own = self.own
        query = self._split(own["query"](x) + own["query_place"](place))  # (B, H, M, Dh)
        key = self._split(own["key"](x) + own["key_place"](place))
        mixed = self._attend(query, key, self._split(own["value"](x)))
        x = self.norms[0](x + self.dropout(own["output"](mixed)))

        read = self.memory
        content, where = read["query"](x), read["key_place"](position)
        memory_key = read["key"](memory)
        if "query_place" in read:
            content, memory_key = content + read["query_place"](place), memory_key + where
        pairs = ((content, read["query_code"](code)), (memory_key, where))
        query, key = (torch.cat([self._split(part) for part in pair], -1) for pair in pairs)
        mixed = self._attend(query, key, self._split(read["value"](memory)), mask)
        x = self.norms[1](x + self.dropout(read["output"](mixed)))
        out: Tensor = self.norms[2](x + self.dropout(self.transition(x)))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, X, Dh)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        rate = self.rate if self.training else 0.0
        mixed = attention(query, key, value, mask, self.backend, rate)  # (B, H, X, Dh)
        return mixed.transpose(1, 2).flatten(2)  # (B, X, F)
