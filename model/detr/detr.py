"""Moment-DETR (Lei et al., NeurIPS 2021, arXiv 2107.09609) and QD-DETR (Moon et al., CVPR 2023,
arXiv 2303.13874): a set of moments of a sentence, one module tree.

    memory := encoder(clips, words)           together, or clips that ask the words
    H_s    := decoder layer s(memory)         queries, or anchors that are refined
    spans  := sigmoid(MLP(H_s) [+ anchor_s])  every layer is supervised

QD-DETR's original tiles its mask of words over the attention heads in the wrong order, so that a
pair's result depends on its neighbours in the batch; here it does not.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config.detr import MomentDETRConfig
from model.detr.decoders import AnchorDecoder, EmbeddingDecoder
from model.detr.encoders import JointEncoder, QueryDependentEncoder
from model.interface import GroundingModel, Prediction, check_features, stored_layers
from model.layers.attention import check_backend
from model.layers.blocks import FullPrecision
from model.layers.inputs import clip_endpoints
from model.layers.positioned import (
    FeatureProjection,
    clip_positions,
    inverse_sigmoid,
    perceptron,
    rolled,
)


class OtherSentence(NamedTuple):
    """What the highlight losses compare with."""

    saliency: Tensor  # (B, L) of the sentence of another pair


class DETR(GroundingModel):
    """Both models, by the switches of the configuration."""

    def __init__(self, config: MomentDETRConfig) -> None:
        super().__init__()
        check_backend(config.attention_backend)
        self.config: MomentDETRConfig = config
        width, dropout = config.width, config.input_dropout
        endpoints = 2 * config.endpoint_copies if config.endpoints else 0
        self.video = FeatureProjection(config.video_width + endpoints, width, dropout)
        self.text = FeatureProjection(config.text_width, width, dropout)
        dependent = config.text_to_video_layers > 0
        self.encoder = QueryDependentEncoder(config) if dependent else JointEncoder(config)
        self.decoder = AnchorDecoder(config) if config.anchors else EmbeddingDecoder(config)
        self.classify = FullPrecision(nn.Linear(width, 2))  # moment, no moment
        self.span = FullPrecision(*perceptron(width, width, width, 2))
        self.saliency = PairSaliency(width) if dependent else ClipSaliency(width)

    def forward(
        self,
        video: Tensor,
        video_mask: Tensor,
        text: Tensor,
        text_mask: Tensor,
        other_text: Tensor | None = None,
        other_text_mask: Tensor | None = None,
    ) -> Prediction:
        """See `GroundingModel`. Negatives are looked at in training only."""
        check_features(self.config, video, video_mask, text, text_mask)
        (layer,) = stored_layers(self.config.layers, video.shape[2], text.shape[2])
        frames = video[:, :, layer]  # (B, L, Dv)
        if self.config.endpoints:
            ends = clip_endpoints(video_mask).to(frames.dtype)  # (B, L, 2)
            frames = torch.cat((frames, *[ends] * self.config.endpoint_copies), -1)
        clips = self.video(frames)  # (B, L, F)
        words = self.text(text[:, :, layer])  # (B, T, F)
        position = clip_positions(video_mask, self.config.width).to(clips.dtype)
        memory, placed, mask, token = self.encoder(clips, position, video_mask, words, text_mask)
        states, anchors = self.decoder(memory, placed, mask)  # (S, B, M, F), (S, B, M, 2)

        change = self.span(states)  # (S, B, M, 2)
        spans = change if anchors is None else change + inverse_sigmoid(anchors)
        moment, no_moment = self.classify(states).unbind(-1)  # (S, B, M)
        existence = self.judge_existence(video, video_mask, text, text_mask)
        own = None
        if self.config.negatives and self.training:
            if other_text is None or other_text_mask is None:
                words, text_mask = rolled(words), rolled(text_mask)
            else:
                words, text_mask = self.text(other_text[:, :, layer]), other_text_mask
            other, _, _, other_token = self.encoder(clips, position, video_mask, words, text_mask)
            own = OtherSentence(self.saliency(other[:, : clips.shape[1]], other_token))
        count = spans.shape[2]
        return Prediction(
            logits=moment - no_moment,
            spans=spans.sigmoid(),
            saliency=self.saliency(memory[:, : clips.shape[1]], token),
            queries=torch.arange(count, device=spans.device).expand(len(video), count),
            **existence,
            own=own,
        )


class ClipSaliency(nn.Module):
    """How salient each clip is, from its memory alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = FullPrecision(nn.Linear(width, 1))

    def forward(self, clips: Tensor, token: None) -> Tensor:
        """clips (B, L, F) -> (B, L) float32."""
        score: Tensor = self.score(clips).squeeze(-1)
        return score


class PairSaliency(nn.Module):
    """<W1 clip, W2 token> / sqrt(F)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.clip = FullPrecision(nn.Linear(width, width))
        self.token = FullPrecision(nn.Linear(width, width))

    def forward(self, clips: Tensor, token: Tensor) -> Tensor:
        """clips (B, L, F), token (B, F) -> (B, L) float32."""
        product = (self.clip(clips) * self.token(token)[:, None]).sum(-1)  # (B, L)
        score: Tensor = product / clips.shape[-1] ** 0.5
        return score
