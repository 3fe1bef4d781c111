"""A matching-free head over a multi-scale pyramid of clips: FlashVTG (Cao et al., WACV 2025, arXiv
2412.13441) and R2-Tuning (Liu et al., ECCV 2024, arXiv 2404.00801).

    clips  := encoder(clips, words)
    levels := clips at strides 1, 2, 4, 8
    point  := score, and how far its moment reaches to both sides

What padding does to a batch in the originals, and FlashVTG's tiled mask of words, are left out, but
for `see_padding`: a pair gives here what it gives alone there.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.pyramid import PyramidConfig
from model.interface import GroundingModel, Prediction, stored_layers
from model.layers.attention import check_backend
from model.layers.blocks import FullPrecision
from model.layers.inputs import AttentionPooling, clip_endpoints
from model.layers.positioned import FeatureProjection, clip_positions, rolled
from model.pyramid.flash import FlashEncoder
from model.pyramid.levels import Boundaries, ConvolutionalScores, MixedScores, Pyramid, points
from model.pyramid.recurrent import RecurrentEncoder


class Points(NamedTuple):
    """What the pyramid's objective reads beside the prediction."""

    reach: Tensor  # (B, N, 2) to the start and to the end, in strides
    points: Tensor  # (N, 4) clip, least and largest reach in clips, stride
    places: Tensor  # (B, L) clips that count in the terms that the originals take over padding
    clips: Tensor  # (B, L, F)
    sentences: Tensor  # (B, F)
    attention: Tensor | None = None  # (B, L) of the clips to the words; flash
    other_saliency: Tensor | None = None  # (B, L) of the sentence of another pair
    other_attention: Tensor | None = None  # (B, L)
    genuine: Tensor | None = None  # (B,) False where that pair is of the same video
    layer_clips: Tensor | None = None  # (U, B, L, F) of every step; recurrent
    layer_sentences: Tensor | None = None  # (U, B, F)


class PyramidModel(GroundingModel):
    """Both models, by `config.encoder`."""

    def __init__(self, config: PyramidConfig) -> None:
        super().__init__()
        check_backend(config.attention_backend)
        self.config: PyramidConfig = config
        width, dropout = config.width, config.input_dropout
        self.encoder: FlashEncoder | RecurrentEncoder
        self.scores: MixedScores | ConvolutionalScores
        if config.encoder == "flash":
            endpoints = 2 if config.endpoints else 0
            self.video = FeatureProjection(config.video_width + endpoints, width, dropout)
            self.text = FeatureProjection(config.text_width, width, dropout)
            self.encoder = FlashEncoder(config)
            self.scores = MixedScores(
                width, config.score_kernel, config.score_convolutions, config.score_layers
            )
            self.clip_saliency = FullPrecision(nn.Linear(width, width))
            self.video_saliency = FullPrecision(nn.Linear(width, width))
        else:
            self.encoder = RecurrentEncoder(config)
            self.scores = ConvolutionalScores(width)
        self.pooling = AttentionPooling(width)
        self.pyramid = Pyramid(width, config.strides)
        self.boundaries = Boundaries(width, len(config.strides))

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
        stored = stored_layers(self.config.layers, video.shape[2], text.shape[2])
        places = torch.ones_like(video_mask) if self.config.see_padding else video_mask
        existence = self.judge_existence(video, video_mask, text, text_mask)
        endpoints = clip_endpoints(places) if self.config.endpoints else None
        if isinstance(self.encoder, FlashEncoder):
            frames = video[:, :, stored[0]]  # (B, L, Dv)
            if endpoints is not None:
                frames = torch.cat((frames, endpoints.to(frames.dtype)), -1)
            clips, words = self.video(frames), self.text(text[:, :, stored[0]])
            position = clip_positions(video_mask, self.config.width).to(clips.dtype)
            clips, words = self.encoder.mark(clips, words)
            asked = clips, position, video_mask
            encoded, attention = self.encoder(*asked, words, text_mask)
            saliency = self._saliency(encoded, places)
            sentences = self.pooling(words, text_mask)  # (B, F)
            extra = {"attention": attention}
            if self.config.negatives and self.training:
                if other_text is None or other_text_mask is None:
                    words, other_mask = rolled(words), rolled(text_mask)
                else:
                    other, other_mask = self.text(other_text[:, :, stored[0]]), other_text_mask
                    words = self.encoder.mark(clips, other)[1]
                other, other_attention = self.encoder(*asked, words, other_mask)
                extra["other_saliency"] = self._saliency(other, places)
                extra["other_attention"] = other_attention
                extra["genuine"] = (video != rolled(video)).flatten(1).any(1)
            found = self._read(F.relu(encoded), video_mask, places, sentences, saliency, extra)
            return found._replace(**existence)
        position = clip_positions(places, self.config.width)
        by_step = (
            torch.stack([x[:, :, layer] for layer in stored]) for x in (video, text)
        )  # (U, B, L, Dv), (U, B, T, Dt)
        frames, sentence = by_step
        counted = torch.ones_like(text_mask) if self.config.see_padding else text_mask
        encoded, layer_clips, words = self.encoder(
            frames, endpoints, position, video_mask, sentence, text_mask, counted
        )
        pooled = self.pooling(words, text_mask)  # (U, B, F)
        extra = {"layer_clips": layer_clips, "layer_sentences": pooled}
        found = self._read(F.relu(encoded), video_mask, places, pooled[-1], None, extra)
        return found._replace(**existence)

    def _saliency(self, clips: Tensor, places: Tensor) -> Tensor:
        """<W1 clip, W2 mean of the clips> / sqrt(F) -> (B, L) float32."""
        count = places.sum(1, keepdim=True).clamp(min=1)
        mean = (clips.float() * places[..., None]).sum(1) / count  # (B, F)
        product = (self.clip_saliency(clips) * self.video_saliency(mean)[:, None]).sum(-1)
        saliency: Tensor = product / clips.shape[-1] ** 0.5
        return saliency

    def _read(
        self,
        clips: Tensor,
        video_mask: Tensor,
        places: Tensor,
        sentences: Tensor,
        saliency: Tensor | None,
        extra: dict[str, Tensor],
    ) -> Prediction:
        """Scores and spans of all points of clips (B, L, F)."""
        seen, strides = self.config.see_padding, self.config.strides
        length = clips.shape[1]
        with torch.autocast(clips.device.type, enabled=False):
            x = clips.to(self.boundaries.scale.dtype)
            x = x if seen else x * video_mask[..., None]
            # Every level has a point, so that every parameter has a gradient.
            missing = 0 if seen else max(0, strides[-1] - length)
            mask = F.pad(video_mask, (0, missing))
            levels = self.pyramid(F.pad(x, (0, 0, 0, missing)), mask, seen)
            heard = [(each, torch.ones_like(real)) for each, real in levels] if seen else levels
            logits = self.scores(heard).float()  # (B, N)
            reach = self.boundaries(heard).float()  # (B, N, 2)
        lengths = [real.shape[1] for _, real in levels]
        table = points(lengths, strides, clips.device)  # (N, 4)
        valid = torch.cat([real for _, real in levels], 1)  # (B, N)
        place, stride = table[:, 0], table[:, 3]
        start, end = place - reach[..., 0] * stride, place + reach[..., 1] * stride  # (B, N)
        whole = video_mask.sum(1, keepdim=True).clamp(min=1)  # (B, 1)
        spans = torch.stack(((start + end) / 2, end - start), -1) / whole[..., None]
        level = torch.cat([torch.full((n,), p, device=place.device) for p, n in enumerate(lengths)])
        if saliency is None:
            fit = F.cosine_similarity(clips.float(), sentences[:, None], dim=-1)  # (B, L)
            peaks = spread(logits.sigmoid().masked_fill(~valid, 0.0), lengths, places, strides)
            saliency = peaks[:, :length] * fit
        return Prediction(
            logits=logits[None],
            spans=spans[None],
            saliency=saliency,
            queries=level.expand(len(clips), -1),
            valid=valid,
            own=Points(reach, table, places, clips, sentences, **extra),
        )


def spread(scores: Tensor, lengths: list[int], places: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The largest score that any level gives each clip: scores (B, N), 0 where not real, places
    (B, L) -> (B, L).

    Of n points in T clips each is repeated floor(T / n) times, the last one to the end.
    """
    clips = places.sum(1, keepdim=True)  # (B, 1)
    here = torch.arange(places.shape[1], device=scores.device)
    best = torch.zeros_like(scores[:, :1]).expand(-1, places.shape[1])
    for level, part in enumerate(torch.split(scores, lengths, 1)):
        count = clips // strides[level]  # (B, 1) real points of this level
        times = clips // count.clamp(min=1)
        index = (here // times.clamp(min=1)).minimum((count - 1).clamp(min=0))  # (B, L)
        best = best.maximum(torch.where(count > 0, part.gather(1, index), 0.0))
    return best
