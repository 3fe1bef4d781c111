"""How far does a linear reading of features go? The bar that a model must clearly beat.

A ridge regression tells from the mean token of a sentence in which direction its clips differ from
the other clips of their video; clips are scored along that direction, whitened by the clips'
covariance (Fisher's discriminant). Nothing in it sees another clip: a moving average over the
scores, its width chosen on the training pairs, is all the context there is. Windows are the runs of
clips above a threshold.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.annotations import Annotation
from data_pipeline.config import DataConfig
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.batches import PairBatch
from data_pipeline.stream.stream import PairStream
from trainer.inference.decode import highlight_scores, prediction_row
from trainer.inference.postprocess import PRESETS, postprocess
from trainer.metrics import evaluate

Floats = NDArray[np.float64]
Scored = list[tuple[Annotation, Floats, float]]  # each query's clip scores and seconds a clip

RADII = (0, 1, 2, 4)  # clips on either side that the moving average takes in
JUDGED = 500  # training pairs that choose the radius


def measure(train: FeatureSet, report: FeatureSet) -> dict[str, float]:
    """Metrics on `report` of a probe fitted to `train`."""
    streams = [PairStream(features, DataConfig(), seed=0) for features in (train, report)]
    probe = fit(streams[0])
    known = list(itertools.islice(score(probe, streams[0]), JUDGED))
    radius = max(RADII, key=lambda radius: judge(known, radius)["mAP"])
    return judge(list(score(probe, streams[1])), radius) | {"radius": float(radius)}


def fit(stream: PairStream) -> Tensor:
    """The bilinear form (Dv * K, Dt * K) of relevance, in closed form."""
    within = across = gram = 0.0
    for batch in stream.evaluate():
        clips, sentences, mask = clip_vectors(batch), sentence_vectors(batch), batch.video_mask
        relevant = (batch.saliency > 0) & mask
        both = relevant.any(1) & (mask & ~relevant).any(1)
        clips, sentences, mask, relevant = (x[both] for x in (clips, sentences, mask, relevant))
        groups = torch.stack((relevant, mask & ~relevant), 1).double()  # (B, 2, L)
        means = groups @ clips / groups.sum(2, keepdim=True)  # (B, 2, Dv * K)
        across = across + (means[:, 0] - means[:, 1]).T @ sentences
        gram = gram + sentences.T @ sentences
        spread = (clips - groups.transpose(1, 2) @ means)[mask]
        within = within + spread.T @ spread
    return torch.linalg.solve(ridge(within), across) @ torch.linalg.inv(ridge(gram))


def ridge(matrix: Tensor) -> Tensor:
    """A Gram matrix with a tenth of its mean diagonal added, so that it can be inverted."""
    return matrix + 0.1 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def clip_vectors(batch: PairBatch) -> Tensor:
    """(B, L, Dv * K), all layers of each clip."""
    return batch.video.double().flatten(2)


def sentence_vectors(batch: PairBatch) -> Tensor:
    """(B, Dt * K), all layers of the mean token."""
    tokens = batch.text.double().flatten(2) * batch.text_mask[..., None]
    return tokens.sum(1) / batch.text_mask.sum(1, keepdim=True)


def score(probe: Tensor, stream: PairStream) -> Iterator[tuple[Annotation, Floats, float]]:
    """Clip scores of every query of a split, of deviation 1 over its video: rows of predictions are
    rounded to four decimals."""
    for batch in stream.evaluate():
        direction = sentence_vectors(batch) @ probe.T  # (B, Dv * K)
        relevance = (clip_vectors(batch) @ direction[..., None]).squeeze(-1).numpy()
        for row, annotation in enumerate(batch.annotations):
            if not batch.repeated[row]:
                scores = relevance[row, : int(batch.video_mask[row].sum())]
                yield (
                    annotation,
                    scores / (scores.std() or 1.0),
                    float(batch.span[row]) / len(scores),
                )


def judge(scored: Scored, radius: int) -> dict[str, float]:
    """Metrics of scores smoothed over `radius` clips on either side."""
    rows, annotations = [], []
    for annotation, scores, seconds in scored:
        smooth = np.convolve(np.pad(scores, radius, "edge"), np.ones(2 * radius + 1), "valid")
        smooth /= 2 * radius + 1
        windows = runs(smooth) * np.array([seconds, seconds, 1.0])
        shown = postprocess(windows[None], [annotation.duration], PRESETS["qvhighlights"])[0]
        saliency = highlight_scores(smooth, seconds, annotation)
        rows.append(prediction_row(annotation, shown, saliency))
        annotations.append(annotation)
    return evaluate(rows, annotations).summary


def runs(scores: Floats) -> Floats:
    """Runs of clips above each of nine thresholds: (n, 3) first clip, end, score.

    A run is worth how far its clips stand out from all others; no run at all is the whole video.
    """
    found = {(0, len(scores)): 0.0}
    for threshold in np.linspace(scores.min(), scores.max(), 11)[1:-1]:
        above = np.flatnonzero(np.diff(np.r_[False, scores > threshold, False]))
        for start, end in above.reshape(-1, 2).tolist():
            if end - start < len(scores):
                rest = (scores.sum() - scores[start:end].sum()) / (len(scores) - (end - start))
                found[start, end] = max(0.0, float(scores[start:end].mean() - rest))
    return np.array([[start, end, worth] for (start, end), worth in found.items()])
