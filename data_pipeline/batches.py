"""What does one batch of (video, query) pairs hold, and how is it made from stored samples?"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data_pipeline.annotations import Annotation
from model.spans import to_centre_width

HIGHLIGHT_CLIP = 2.0  # seconds: the grid of QVHighlights' saliency annotations


@dataclass
class PairBatch:
    """B pairs of a video and a sentence; letters as in `model`.

    video         (B, L, K, Dv) float16  frozen features, zero beyond the video's end
    video_mask    (B, L) bool            True for real clips
    text          (B, T, K, Dt) float16  hidden states of the sentence's tokens
    text_mask     (B, T) bool
    windows       (B, N, 2) float32      ground truth as (centre, width) in [0, 1]
    window_mask   (B, N) bool
    saliency      (B, L) float32         how well each clip fits the sentence, in [0, 1]
    span          (B,) float32           seconds that [0, 1] stands for: clips x clip length.
                                         Windows are normalised and decoded by this one number.
    repeated      (B,) bool              fills up the last batch of an evaluation: leave it out
    annotations   B rows                 qid, sentence, video, duration, ground truth in seconds
    """

    video: Tensor
    video_mask: Tensor
    text: Tensor
    text_mask: Tensor
    windows: Tensor
    window_mask: Tensor
    saliency: Tensor
    span: Tensor
    repeated: Tensor
    annotations: list[Annotation] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.video)

    def map_tensors(self, function: Any) -> "PairBatch":
        """A batch with `function` applied to every tensor."""
        return dataclasses.replace(
            self, **{name: function(value) for name, value in self.tensors().items()}
        )

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on `device`; features stay in half precision on the way."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PairBatch":
        """The batch in page-locked memory; the loader calls this before a copy to a GPU."""
        return self.map_tensors(lambda tensor: tensor.pin_memory())

    def split(self, parts: int) -> list["PairBatch"]:
        """The batch in `parts` parts of equally many rows, in order."""
        rows = len(self) // parts
        return [
            dataclasses.replace(
                self,
                **{k: v[start : start + rows] for k, v in self.tensors().items()},
                annotations=self.annotations[start : start + rows],
            )
            for start in range(0, len(self), rows)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}


Half = NDArray[np.float16]


@dataclass(frozen=True)
class Pair:
    """One pair as read from a shard: video (L, K, Dv), text (T, K, Dt), both float16."""

    video: Half
    text: Half
    annotation: Annotation
    clip_length: float


def collate(pairs: Sequence[Pair], repeated: Sequence[bool], clips: int, tokens: int) -> PairBatch:
    """Pad pairs to `clips` and `tokens` and derive the training targets.

    The caller gives the padded sizes because a batch may be collated in parts.
    """
    size = len(pairs)
    video = torch.zeros((size, clips, *pairs[0].video.shape[1:]), dtype=torch.float16)
    text = torch.zeros((size, tokens, *pairs[0].text.shape[1:]), dtype=torch.float16)
    video_length = torch.empty(size, dtype=torch.long)
    text_length = torch.empty(size, dtype=torch.long)
    saliency = torch.zeros(size, clips)
    targets = [target_windows(pair.annotation, len(pair.video), pair.clip_length) for pair in pairs]
    windows = torch.zeros(size, max(1, *map(len, targets)) if size else 1, 2)
    window_mask = torch.zeros(windows.shape[:2], dtype=torch.bool)
    for row, (pair, target) in enumerate(zip(pairs, targets, strict=True)):
        length, words = len(pair.video), len(pair.text)
        video.numpy()[row, :length] = pair.video
        text.numpy()[row, :words] = pair.text
        video_length[row], text_length[row] = length, words
        saliency.numpy()[row, :length] = target_saliency(pair.annotation, length, pair.clip_length)
        windows[row, : len(target)] = target
        window_mask[row, : len(target)] = True
    return PairBatch(
        video=video,
        video_mask=torch.arange(clips) < video_length[:, None],
        text=text,
        text_mask=torch.arange(tokens) < text_length[:, None],
        windows=windows,
        window_mask=window_mask,
        saliency=saliency,
        span=video_length * torch.tensor([pair.clip_length for pair in pairs]),
        repeated=torch.tensor(repeated, dtype=torch.bool),
        annotations=[pair.annotation for pair in pairs],
    )


def target_windows(annotation: Annotation, clips: int, clip_length: float) -> Tensor:
    """(n, 2) centre, width in [0, 1] of the ground truth in seconds.

    As in R2-Tuning, inverted windows are swapped and windows shorter than a clip are widened to one
    about their centre; then all are cut to the video. None for a row without ground truth.
    """
    span = clips * clip_length
    edges = torch.tensor(annotation.windows or (), dtype=torch.float64).reshape(-1, 2)
    edges = edges.sort(dim=-1).values.clamp(0, span)
    missing = (clip_length - (edges[:, 1] - edges[:, 0])).clamp(min=0) / 2
    edges = torch.stack((edges[:, 0] - missing, edges[:, 1] + missing), dim=-1)
    shift = (-edges[:, :1]).clamp(min=0) - (edges[:, 1:] - span).clamp(min=0)
    return to_centre_width((edges + shift).clamp(0, span) / span).float()


def target_saliency(annotation: Annotation, clips: int, clip_length: float) -> NDArray[np.float32]:
    """(L,) in [0, 1]: the annotators' mean score over 4, looked up at each clip's middle.

    Where a data set has no saliency, a clip counts 1 if its middle lies in a window.
    """
    middles = (np.arange(clips) + 0.5) * clip_length
    if annotation.saliency is None:
        inside = np.zeros(clips, dtype=np.float32)
        for start, end in annotation.windows or ():
            inside[(middles >= min(start, end)) & (middles < max(start, end))] = 1
        return inside
    grid = (middles / HIGHLIGHT_CLIP).astype(int)
    scores = {clip: float(np.mean(values)) / 4 for clip, values in annotation.saliency.items()}
    return np.array([scores.get(int(cell), 0.0) for cell in grid], dtype=np.float32)


def merge(parts: Sequence[PairBatch], places: Sequence[NDArray[np.int64]]) -> PairBatch:
    """Parts of one batch, padded to the same L and T, put together; `places` are their rows."""
    if len(parts) == 1:
        return parts[0]
    widest = max(part.windows.shape[1] for part in parts)
    for part in parts:
        missing = widest - part.windows.shape[1]
        part.windows = functional.pad(part.windows, (0, 0, 0, missing))
        part.window_mask = functional.pad(part.window_mask, (0, missing))
    rows = np.concatenate(places)
    order = torch.from_numpy(np.argsort(rows))
    tensors = {
        name: torch.cat([part.tensors()[name] for part in parts])[order]
        for name in parts[0].tensors()
    }
    annotations = [annotation for part in parts for annotation in part.annotations]
    return PairBatch(**tensors, annotations=[annotations[row] for row in order])
