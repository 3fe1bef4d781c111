"""What does one batch of (video, query) pairs hold, and how is it made from stored samples?"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data_pipeline.annotations import Annotation
from data_pipeline.config import padded


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
    present       (B,) int8              whether the video shows what the sentence says: 1 yes, 0 no
                                         (its list of windows is empty), -1 nobody says
    sentence      (B,) int64             a number of the sentence, the same for equal texts
    sentences     (B, S) int64           those of all sentences about the video, filled up with 0
    repeated      (B,) bool              stands in for a pair that is not there: fills up the last
                                         batch or replaces a damaged pair; evaluation leaves it out
    annotations   B rows                 qid, sentence, video, duration, ground truth in seconds
    damaged       list of str            what was replaced, one line for each pair
    """

    video: Tensor
    video_mask: Tensor
    text: Tensor
    text_mask: Tensor
    windows: Tensor
    window_mask: Tensor
    saliency: Tensor
    span: Tensor
    present: Tensor
    sentence: Tensor
    sentences: Tensor
    repeated: Tensor
    annotations: list[Annotation] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

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

    def split(self, parts: int) -> list["PairBatch"]:
        """The batch in `parts` parts of equally many rows, in order."""
        rows = len(self) // parts

        def cut(start: int) -> "PairBatch":
            part = self.map_tensors(lambda tensor: tensor[start : start + rows])
            return dataclasses.replace(part, annotations=self.annotations[start : start + rows])

        return [cut(start) for start in range(0, len(self), rows)]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}


Half = NDArray[np.float16]
Empty = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""Allocates a tensor; its values are left as they are."""


class BatchBuffer:
    """A batch that is being filled: features are read or copied straight into their place.

    For every row ask for its places with `row`, fill them, and call `add` with the rest; then
    `finish`. Padding is the only part of the features that is written twice.
    """

    def __init__(
        self,
        size: int,
        clips: int,
        tokens: int,
        video_shape: tuple[int, ...],
        text_shape: tuple[int, ...],
        empty: Empty = lambda shape, dtype: torch.empty(shape, dtype=dtype),
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self._video = empty((size, clips, *video_shape), dtype)
        self._text = empty((size, tokens, *text_shape), dtype)
        # Views, of which rows are cut much faster than of tensors.
        self._video_rows, self._text_rows = self._video.numpy(), self._text.numpy()
        self._lengths: list[tuple[int, int]] = []
        self._annotations: list[Annotation] = []
        self._clip_lengths: list[float] = []
        self._repeated: list[bool] = []
        self._sentences: list[tuple[str, ...]] = []

    def row(self, clips: int, tokens: int) -> tuple[Half, Half]:
        """Places of the next row's video (clips, K, Dv) and text (tokens, K, Dt)."""
        row = len(self._annotations)
        if clips < self._video_rows.shape[1]:
            self._video_rows[row, clips:] = 0
        if tokens < self._text_rows.shape[1]:
            self._text_rows[row, tokens:] = 0
        return self._video_rows[row, :clips], self._text_rows[row, :tokens]

    def add(
        self,
        clips: int,
        tokens: int,
        annotation: Annotation,
        clip_length: float,
        repeated: bool,
        sentences: Iterable[str] = (),
    ) -> None:
        """The row whose places were filled is done; `sentences` are all about its video."""
        self._lengths.append((clips, tokens))
        self._annotations.append(annotation)
        self._clip_lengths.append(clip_length)
        self._repeated.append(repeated)
        self._sentences.append((annotation.query, *sentences))

    def finish(self, damaged: list[str], widths: tuple[int, ...] = ()) -> PairBatch:
        """The batch with its training targets, N of which is padded to one of `widths`; `damaged`
        is what was replaced in it."""
        # In NumPy, whose calls cost less than torch's on arrays this small.
        clips, tokens = self._video.shape[1], self._text.shape[1]
        video_length, text_length = np.array(self._lengths).T  # (B,), (B,)
        clip_length = np.array(self._clip_lengths, dtype=np.float32)  # (B,)
        # Where the stored clips end before the video does, a window behind them is no target.
        targets = [
            [w for w in a.windows or () if min(w) < length * seconds or w[0] == w[1]]
            for a, (length, _), seconds in zip(
                self._annotations, self._lengths, self._clip_lengths, strict=True
            )
        ]
        counts = np.array([len(of_row) for of_row in targets])
        row = np.repeat(np.arange(len(counts)), counts)
        edges = [window for of_row in targets for window in of_row]
        width = padded(max(1, int(counts.max())), widths)
        windows = np.zeros((len(counts), width, 2), dtype=np.float32)
        window_mask = np.arange(windows.shape[1]) < counts[:, None]
        windows[window_mask] = target_windows(
            np.array(edges, dtype=np.float64).reshape(-1, 2), video_length[row], clip_length[row]
        )
        saliency = np.zeros((len(counts), clips), dtype=np.float32)
        for values, annotation, (length, _), seconds in zip(
            saliency, self._annotations, self._lengths, self._clip_lengths, strict=True
        ):
            values[:length] = target_saliency(annotation, length, seconds)
        numbers = [sentence_numbers(of_row) for of_row in self._sentences]
        sentences = np.zeros((len(counts), max(map(len, numbers))), dtype=np.int64)
        for into, of_row in zip(sentences, numbers, strict=True):
            into[: len(of_row)] = of_row
        present = np.array([shows(annotation) for annotation in self._annotations], dtype=np.int8)
        return PairBatch(
            video=self._video,
            video_mask=torch.from_numpy(np.arange(clips) < video_length[:, None]),
            text=self._text,
            text_mask=torch.from_numpy(np.arange(tokens) < text_length[:, None]),
            windows=torch.from_numpy(windows),
            window_mask=torch.from_numpy(window_mask),
            saliency=torch.from_numpy(saliency),
            span=torch.from_numpy(video_length.astype(np.float32) * clip_length),
            present=torch.from_numpy(present),
            sentence=torch.from_numpy(sentences[:, 0].copy()),
            sentences=torch.from_numpy(sentences),
            repeated=torch.from_numpy(np.array(self._repeated)),
            annotations=self._annotations,
            damaged=damaged,
        )


@lru_cache(maxsize=4096)  # a video comes with all its sentences, once for each of them
def sentence_numbers(texts: tuple[str, ...]) -> tuple[int, ...]:
    """A number above 0 for each text, in all processes the same; equal where texts differ in case,
    spaces and punctuation only."""
    return tuple(map(_number, texts))


@lru_cache(maxsize=1 << 16)
def _number(text: str) -> int:
    words = " ".join(re.findall(r"\w+", text.casefold())) or text
    digest = hashlib.blake2b(words.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 or 1


def shows(annotation: Annotation) -> int:
    """Whether the video shows what the sentence says: 1 yes, 0 no, -1 nobody says.

    An empty list of windows says no; no list, and no relevant clip either, says nothing.
    """
    if annotation.windows is not None:
        return int(len(annotation.windows) > 0)
    return 1 if annotation.saliency else -1


def target_windows(
    edges: NDArray[np.float64], clips: NDArray[np.int64], clip_length: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(n, 2) centre, width in [0, 1] of ground-truth windows (n, 2) in seconds.

    `clips` (n,) and `clip_length` (n,) are those of each window's video. As in R2-Tuning, inverted
    windows are swapped and windows shorter than a clip are widened to one about their centre; then
    all are cut to the video.
    """
    seconds = clip_length.astype(np.float64)
    span = (clips * seconds)[:, None]
    start, end = np.clip(np.sort(edges, axis=1), 0, span).T
    missing = np.maximum(seconds - (end - start), 0) / 2
    start, end = start - missing, end + missing
    shift = np.maximum(-start, 0) - np.maximum(end - span[:, 0], 0)
    edges = np.clip(np.stack((start + shift, end + shift), axis=1), 0, span)
    start, end = (edges / span).T
    return np.stack(((start + end) / 2, end - start), axis=1).astype(np.float32)


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
    grid = (middles / annotation.clip_length).astype(int)
    scores: NDArray[np.float32] = np.zeros(grid[-1] + 1, dtype=np.float32)
    for clip, given in annotation.saliency.items():
        if clip < len(scores):
            scores[clip] = sum(given) / len(given) / 4
    return scores.take(grid)


def merge(
    parts: Sequence[PairBatch], places: Sequence[NDArray[np.int64]], pinned: bool = False
) -> PairBatch:
    """Parts of one batch, padded to the same L and T, put together; `places` are their rows.

    With `pinned` the batch lies in page-locked memory, from which a GPU copies by itself.
    """
    if len(parts) == 1 and not pinned:
        return parts[0]
    widest = max(part.windows.shape[1] for part in parts)
    most = max(part.sentences.shape[1] for part in parts)
    for part in parts:
        missing = widest - part.windows.shape[1]
        part.windows = functional.pad(part.windows, (0, 0, 0, missing))
        part.window_mask = functional.pad(part.window_mask, (0, missing))
        missing = most - part.sentences.shape[1]
        part.sentences = functional.pad(part.sentences, (0, missing))
    size = sum(map(len, parts))
    tensors = {
        name: torch.empty((size, *like.shape[1:]), dtype=like.dtype, pin_memory=pinned)
        for name, like in parts[0].tensors().items()
    }
    annotations: list[Annotation] = [parts[0].annotations[0]] * size
    for part, rows in zip(parts, places, strict=True):
        for name, tensor in part.tensors().items():
            tensors[name].numpy()[rows] = tensor.numpy()
        for row, annotation in zip(rows.tolist(), part.annotations, strict=True):
            annotations[row] = annotation
    damaged = [fault for part in parts for fault in part.damaged]
    return PairBatch(**tensors, annotations=annotations, damaged=damaged)
