"""Contrastive terms over the global batch: highlights (sampled NCE) and alignment (InfoNCE)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.objective.ranks import gather, total, world_size

FLOOR = -1e4  # logit of what may not be chosen: finite, so that an empty row stays finite


def draw_positive(saliency: Tensor, mask: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
    """One clip with saliency above 0 per pair, and whether the pair has any.

    saliency (B, L), mask (B, L), draw (B,) uniform in [0, 1) -> clip (B,) int64, valid (B,) bool.
    The clip depends on the pair and its number only, not on padding, batch or rank.
    """
    positive = (saliency > 0) & mask  # (B, L)
    count = positive.sum(1)  # (B,)
    rank = (draw.to(saliency.device) * count).long().minimum(count - 1)  # (B,)
    chosen = positive & (positive.cumsum(1) == rank[:, None] + 1)  # (B, L), one True where valid
    return chosen.to(torch.uint8).argmax(1), count > 0


def sampled_nce(
    similarity: Tensor, saliency: Tensor, mask: Tensor, clip: Tensor, valid: Tensor, scale: float
) -> Tensor:
    """Highlight loss (R2-Tuning, SampledNCE): the positive clip against clips of lower saliency.

    similarity (B, L) cosine of clip and sentence, saliency and mask (B, L), clip and valid (B,)
    from `draw_positive`, scale 1 / temperature -> scalar, row plus column term. Row: among the
    clips of its own video. Column: among the clips at the same position of the other pairs of the
    global batch.
    """
    own = saliency.gather(1, clip[:, None])  # (B, 1)
    logits = (similarity.float() * scale).masked_fill(~(mask & (saliency <= own)), FLOOR)  # (B, L)
    row = logits.log_softmax(1).gather(1, clip[:, None]).squeeze(1)  # (B,)

    everyone, everyones_clip = gather(valid), gather(clip)  # (G,) each, G = ranks * B
    length = logits.shape[1]
    at_clip = logits[:, everyones_clip.clamp(max=length - 1)]  # (B, G)
    at_clip = at_clip.masked_fill((everyones_clip >= length) | ~valid[:, None], FLOOR)
    columns = gather(at_clip)  # (G, G): [pair, whose positive]
    column = columns.log_softmax(0).diagonal()  # (G,)
    return -_mean(row, valid) - _global_mean(column, everyone)


def alignment(
    clips: Tensor, sentences: Tensor, valid: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE between positive clips (U, B, F) and sentences (U, B, F) -> two scalars.

    Along the batch: clip b and sentence b of a layer against the other pairs of the global batch.
    Along the layers: clip and sentence of a layer against the other layers of the same pair. Each
    is the mean of its two directions, clip to sentence and back, as in R2-Tuning.
    """
    clips, sentences = F.normalize(clips.float(), dim=-1), F.normalize(sentences.float(), dim=-1)

    layers = torch.einsum("ubf,vbf->buv", clips, sentences) * scale  # (B, U, U)
    per_pair = _both_directions(layers).mean(1)  # (B,)

    everyone = gather(valid)  # (G,)
    all_clips, all_sentences = (
        gather(x.transpose(0, 1).contiguous()).transpose(0, 1) for x in (clips, sentences)
    )  # (U, G, F)
    batch = all_clips @ all_sentences.transpose(1, 2) * scale  # (U, G, G)
    batch = batch.masked_fill(~(everyone[:, None] & everyone), FLOOR)
    along_batch = _global_mean(_both_directions(batch).mean(0), everyone)
    return along_batch, _mean(per_pair, valid)


def _both_directions(logits: Tensor) -> Tensor:
    """(..., X, X) -> (..., X) cross-entropy of the diagonal, the mean of rows and columns."""
    row = logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    column = logits.log_softmax(-2).diagonal(dim1=-2, dim2=-1)
    return -(row + column) / 2


def _global_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of the valid among values (G,) that every rank holds, 0 where there are none."""
    return torch.where(valid, x, 0.0).sum() / valid.sum().clamp(min=1)


def _mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of local values (B,) over the valid pairs of all ranks, once ranks are averaged."""
    count = total(valid.sum()).clamp(min=1) / world_size()
    return torch.where(valid, x, 0.0).sum() / count
