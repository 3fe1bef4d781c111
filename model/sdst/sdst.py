"""Sparse-Dense Side-Tuner (Pujol-Perich et al., ICCV 2025): moments and highlights of a sentence.

for each step s with its feature layer l:
    D    := dense(D, V_l, T_l)             clips
    H    := sparse(H, R, D, T_l)           queries
    R    := sigmoid(logit(R) + span(H))    references, detached between steps
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import SDSTConfig
from model.interface import GroundingModel, Prediction, check_features, stored_layers
from model.layers.attention import check_backend
from model.layers.deformable import check_kernel
from model.layers.inputs import AttentionPooling, InputProjection, clip_endpoints, sinusoids
from model.sdst.dense import DenseStream
from model.sdst.heads import ActionnessHead, ClassHead, ReferenceHead, SpanHead
from model.sdst.rdsa import DeformableAttention
from model.sdst.sparse import SparseStream


class Projections(NamedTuple):
    """What the alignment losses compare. U counts the distinct layers among the S steps."""

    clips: Tensor  # (U, B, L, F) projected clips
    sentences: Tensor  # (U, B, F) pooled projected text


class SDST(GroundingModel):
    """The two streams, their inputs and heads. With query dropout, M is what training leaves."""

    def __init__(self, config: SDSTConfig) -> None:
        super().__init__()
        check_backend(config.attention_backend)
        check_kernel(config.deformable_kernel)
        self.config: SDSTConfig = config
        width, dropout, norm = config.width, config.input_dropout, config.norm_kernel
        endpoints = 2 if config.endpoints else 0
        self.video = InputProjection(config.video_width, width, dropout, endpoints, norm)
        self.text = InputProjection(config.text_width, width, dropout, norm_kernel=norm)
        self.pooling = AttentionPooling(width)
        self.dense = DenseStream(config)
        self.sparse = SparseStream(config)
        self.queries = nn.Embedding(config.queries, width)
        self.reference = ReferenceHead(width)
        self.classify = ClassHead(width)
        self.span = SpanHead(width)
        self.actionness = ActionnessHead(config) if config.actionness else None

    def forward(
        self, video: Tensor, video_mask: Tensor, text: Tensor, text_mask: Tensor
    ) -> Prediction:
        """video (B, L, K, Dv) and text (B, T, K, Dt) of any float type, masks (B, L) and (B, T).

        Raises ValueError, which names the argument, for other ranks and types, and where `layers`
        asks for more than the K layers the features hold.
        """
        check_features(self.config, video, video_mask, text, text_mask)
        stored = stored_layers(self.config.layers, video.shape[2], text.shape[2])
        distinct = list(dict.fromkeys(stored))  # U layers, in the order of first use
        uses = [distinct.index(layer) for layer in stored]  # step -> index into them

        # What depends on a layer only is computed once per layer, all layers in one product.
        endpoints = clip_endpoints(video_mask) if self.config.endpoints else None
        clips = self.video(_select(video, distinct), endpoints)  # (U, B, L, F)
        words = self.text(_select(text, distinct))  # (U, B, T, F)
        sentences = self.pooling(words, text_mask)  # (U, B, F)
        position = sinusoids(video.shape[1], self.config.width, video.device).to(clips.dtype)
        placed = (clips + position).unbind(0)  # U x (B, L, F)
        for_dense = self.dense.text_attention.project(words).unbind(0)  # U x (B, 2, H, T, Dh)
        for_sparse = self.sparse.text_attention.project(words).unbind(0)

        queries = self._choose_queries(video.shape[0], video.device)  # (B, M)
        hidden = self.queries(queries)  # (B, M, F)
        reference = self.reference(hidden)  # (B, M, 2) logits
        dense, states, references = None, [], []
        for step, layer in enumerate(uses):
            dense = self.dense(
                step, dense, placed[layer], video_mask, for_dense[layer], text_mask
            )  # (B, L, F)
            hidden = self.sparse(
                hidden, reference.sigmoid(), dense, video_mask, for_sparse[layer], text_mask
            )  # (B, M, F)
            reference = reference + self.span(hidden)
            states.append(hidden)
            references.append(reference)
            reference = reference.detach()

        assert dense is not None  # the configuration has at least one layer
        spans = torch.stack(references).sigmoid()  # (S, B, M, 2)
        actionness = None
        if self.actionness is not None:
            actionness = self.actionness(dense, spans[-1], video_mask)
        return Prediction(
            logits=self.classify(torch.stack(states)).squeeze(-1),
            spans=spans,
            actionness=actionness,
            saliency=F.cosine_similarity(dense.float(), sentences[uses[-1], :, None], dim=-1),
            queries=queries,
            **self.judge_existence(video, video_mask, text, text_mask),
            own=Projections(clips, sentences),
        )

    @property
    def shared_width(self) -> int:
        """F: the alignment loss puts projected clips beside pooled sentences, layer by layer."""
        return self.config.width

    def clip_vectors(self, video: Tensor, video_mask: Tensor) -> Tensor:
        """Projected clips of the deepest layer that is read, see `GroundingModel`."""
        endpoints = clip_endpoints(video_mask) if self.config.endpoints else None
        clips = self.video(video[:, :, self._deepest(video.shape[2])], endpoints)  # (B, L, F)
        return F.normalize(clips.float(), dim=-1)

    def sentence_vectors(self, text: Tensor, text_mask: Tensor) -> Tensor:
        """Pooled sentences of that layer, see `GroundingModel`."""
        words = self.text(text[:, :, self._deepest(text.shape[2])])  # (B, T, F)
        return F.normalize(self.pooling(words, text_mask), dim=-1)

    def _deepest(self, stored: int) -> int:
        return max(stored_layers(self.config.layers, stored, stored))

    def slow_parameters(self) -> list[nn.Parameter]:
        """The offset and reference projections: they learn at a tenth of the rate (TadTR)."""
        modules: list[nn.Module] = [self.reference]
        modules += [m.offsets for m in self.modules() if isinstance(m, DeformableAttention)]
        return [parameter for module in modules for parameter in module.parameters()]

    def _choose_queries(self, batch: int, device: torch.device) -> Tensor:
        """All queries, or in training with query dropout a random subset per pair -> (B, M)."""
        M = self.config.queries
        if not self.training or self.config.query_dropout == 0:
            return torch.arange(M, device=device).expand(batch, M)
        keep = max(1, M - round(self.config.query_dropout * M))
        return torch.rand(batch, M, device=device).topk(keep).indices


def _select(features: Tensor, layers: list[int]) -> Tensor:
    """(B, X, K, D) -> (U, B, X, D), layers first so that each is contiguous.

    Stacked slices, because an index tensor would be one more copy from host to device.
    """
    return torch.stack([features[:, :, layer] for layer in layers])
