"""Which stretches of which videos might show what a sentence says? By all clips, exactly."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.errors import InputError
from trainer.archive.index import REMAKE, Index
from trainer.archive.vectors import Floats, Half

ROWS_AT_ONCE = 4096
"""Rows that are made float32 at a time: what a processor's cache holds."""

SCORES_AT_ONCE = 1 << 27
"""Similarities that are held at a time, whatever the clips and the sentences."""


@dataclass(frozen=True)
class Candidate:
    """The clips [first, end) of a video of the index, and the cosine of the best of them."""

    video: int
    first: int
    end: int
    score: float


def similarities(vectors: Half, sentences: Floats) -> Floats:
    """(Q, N) cosines of sentences (Q, F) and vectors (N, F), which stay where they are."""
    asked = torch.from_numpy(sentences).T.contiguous()  # (F, Q)
    scores = torch.empty(len(vectors), asked.shape[1])
    block = torch.empty(ROWS_AT_ONCE, vectors.shape[1])
    for first in range(0, len(vectors), ROWS_AT_ONCE):
        rows = np.asarray(vectors[first : first + ROWS_AT_ONCE])
        some = block[: len(rows)].copy_(torch.from_numpy(rows))
        torch.mm(some, asked, out=scores[first : first + len(rows)])
    return scores.T.numpy()


def candidates(
    index: Index, sentences: Floats, count: int, longest: int, videos: slice = slice(None)
) -> list[list[Candidate]]:
    """For each sentence (Q, F) the `count` best stretches of at most `longest` clips, best first.

    The clips of all `videos`, numbers that follow each other, are compared. Raises InputError where
    a vector is not a number.
    """
    some = index.videos[videos]
    if not len(some):
        return [[] for _ in sentences]
    start, begin = videos.start or 0, int(some["first"][0])
    end = int(some["first"][-1]) + int(some["clips"][-1])
    vectors = index.vectors[begin:end]
    firsts = some["first"].astype(np.int64) - begin
    together = max(1, SCORES_AT_ONCE // len(vectors))
    found = []
    for place in range(0, len(sentences), together):
        for scores in similarities(vectors, sentences[place : place + together]):
            best = np.maximum.reduceat(scores, firsts)  # of each video
            if not np.isfinite(best).all():
                raise InputError(f"{index.folder}: holds vectors that are no numbers; {REMAKE}")
            chosen = highest(best, count)
            rows = np.concatenate([np.arange(*_span(index, start + int(v))) for v in chosen])
            found.append(stretches_of(index, rows, scores[rows - begin], count, longest))
    return found


def _span(index: Index, video: int) -> tuple[int, int]:
    rows = index.rows(video)
    return rows.start, rows.stop


def highest(values: Floats, count: int) -> NDArray[np.int64]:
    """Places of the `count` highest, those first; equal ones in their order."""
    if count < len(values):
        edge = np.partition(values, len(values) - count)[len(values) - count]
        above, at = np.flatnonzero(values > edge), np.flatnonzero(values == edge)
        places = np.concatenate([above, at[: count - len(above)]])
    else:
        places = np.arange(len(values))
    return np.asarray(places[np.argsort(-values[places], kind="stable")], np.int64)


def stretches_of(
    index: Index, rows: NDArray[np.int64], scores: Floats, count: int, longest: int
) -> list[Candidate]:
    """The `count` best stretches about clips, given by their rows and scores.

    The best clip is in the middle of its stretch where the video has room; clips that a stretch
    holds already make none of their own.
    """
    videos = np.searchsorted(index.videos["first"], rows, side="right") - 1
    clips = rows - index.videos["first"][videos].astype(np.int64)
    columns = index.clips[rows]
    if not (np.array_equal(columns["video"], videos) and np.array_equal(columns["clip"], clips)):
        raise InputError(f"{index.folder}: its clips do not fit its videos; {REMAKE}")
    found: list[Candidate] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        video, number = int(videos[place]), int(clips[place])
        if any(c.video == video and c.first <= number < c.end for c in found):
            continue
        length = int(index.videos["clips"][video])
        first = min(max(0, number - longest // 2), max(0, length - longest))
        end = min(first + longest, length)
        found.append(Candidate(video, first, end, float(scores[place])))
        if len(found) == count:
            break
    return found
