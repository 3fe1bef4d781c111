"""Does a video show at all what a sentence says? One logit a pair, from the frozen features.

    evidence of clip l := scale * cosine(clip l, sentence) + bias
    logit              := log sum_l exp(evidence of clip l)

Clips know nothing of the sentence and the sentence nothing of the clips until they are compared.
So any clips are held against any sentence by one product: a batch is full of negative pairs that
cost next to nothing, and vectors that are stored once answer for sentences that come later.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layers.inputs import AttentionPooling, InputProjection

WIDTH = 256  # E - 1: of the vectors that are compared
SCALE, BIAS = 10.0, -5.0  # at the start: what is hardly alike counts little
ABSENT = -1e4  # evidence of what is no clip: finite, so that an empty row stays finite


class ExistenceHead(nn.Module):
    """Clips and sentences as vectors whose product is evidence, the same for every kind of model.

    It reads frozen features and nothing that the kind makes of them, so that it neither disturbs
    what finds moments nor depends on it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dropout = getattr(config, "input_dropout", 0.0)
        self.video = InputProjection(config.video_width, WIDTH, dropout)
        self.text = InputProjection(config.text_width, WIDTH, dropout)
        self.pooling = AttentionPooling(WIDTH)
        self.scale = nn.Parameter(torch.tensor([math.log(SCALE)]))
        self.bias = nn.Parameter(torch.tensor([BIAS]))

    def forward(
        self, clips: Tensor, video_mask: Tensor, words: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """clips (B, L, Dv), words (B, T, Dt), their masks -> logits (B,), and what
        `existence_logits` compares: clips (B, L, E), sentences (B, E); float32."""
        projected, spoken = self.video(clips), self.text(words)
        with torch.autocast(clips.device.type, enabled=False):
            sentences = self.pooling(spoken, word_mask)  # (B, E - 1)
            seen = F.normalize(projected.float(), dim=-1)
            said = F.normalize(sentences, dim=-1) * self.scale.float().exp()
            bias = self.bias.float().expand(len(said), 1)
            seen, said = F.pad(seen, (0, 1), value=1.0), torch.cat((said, bias), -1)
            return existence_logits(seen, video_mask, said[:, None]).squeeze(1), seen, said


def existence_logits(clips: Tensor, video_mask: Tensor, sentences: Tensor) -> Tensor:
    """clips (B, L, E), video_mask (B, L), sentences (B, N, E), N to be held against each video ->
    logits (B, N) float32."""
    with torch.autocast(clips.device.type, enabled=False):
        evidence = torch.einsum("ble,bne->bnl", clips.float(), sentences.float())
        return evidence.masked_fill(~video_mask[:, None], ABSENT).logsumexp(-1)
