"""TVSum and YouTube Highlights: how well scores rank a video's clips, by domain.

Rows of an annotation file, one video a line, are QVHighlights' with two more keys:

    TVSum    {"qid", "query": title, "vid", "duration", "domain": "BK", "label": [[3, 1, ...], ...]}
    YouTube  {"qid", "query": title, "vid", "duration", "domain": "dog", "match": [1, 0, -1, ...]}

`label` holds for each clip the ratings 1..5 of all annotators (20), as QD-DETR has it;
`match` one number a clip, positive for a highlight, as in R2-Tuning's youtube_anno.json. The clips
are those of the labels, whatever their length; a prediction row gives one score for each.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
from data_pipeline.untrusted import iter_rows
from trainer.metrics.ragged import Booleans, Floats

LABEL_KEYS = {"tvsum": "label", "youtube": "match"}


def read_domain_annotations(path: str | Path, dataset: str) -> list[Annotation]:
    """All videos of a TVSum or YouTube annotation file.

    Raises InputError with file and line for a row that is not in the format above.
    """
    annotations = read_annotations(path)
    for annotation, (line, _) in zip(annotations, iter_rows(path), strict=True):
        for fault in domain_faults(annotation, dataset):
            raise InputError(f"{path}:{line}: {fault}")
    return annotations


def domain_faults(annotation: Annotation, dataset: str) -> list[str]:
    """What a video lacks to be judged by its data set's measure."""
    faults = [] if annotation.domain else ["'domain' is missing or not a name"]
    if not annotation.saliency:
        faults.append(f"{LABEL_KEYS[dataset]!r} is missing: it holds the labels of each clip")
    return faults


def positives(annotation: Annotation, dataset: str) -> Booleans:
    """(L, A), who counts which clip as a highlight.

    In TVSum whoever rates it above their median in this video; in YouTube it is positive or not.
    """
    scores = annotation.saliency or {}
    annotators = len(next(iter(scores.values())))
    given = np.zeros((max(scores) + 1, annotators))
    for clip, ratings in scores.items():
        given[clip] = ratings
    if dataset == "tvsum":
        return np.asarray(given > np.median(given, axis=0))
    return given > 0


def ranking_precision(
    scores: Sequence[Sequence[float]], labels: Sequence[Booleans], top: int | None
) -> Floats:
    """(Q,) average precision of each video's ranking, mean over its annotators; `labels` (L, A).

    The first `top` clips by score count (all if None; equal scores in the order of the clips), and
    only the positives among them are to be found. The area under the precision-recall curve is by
    trapezia from (0, 1), as UMT (Liu et al., arXiv 2203.12745) and all after it have it. Without
    positives it is 0.
    """
    result = np.zeros(len(labels))
    for video, (given, positive) in enumerate(zip(scores, labels, strict=True)):
        score = np.full(len(positive), -np.inf)  # clips without a score come last
        score[: len(given)] = given[: len(score)]
        ranked = positive[np.argsort(-score, kind="stable")[:top]]  # (top, A)
        found = np.cumsum(ranked, axis=0)
        precision = found / np.arange(1, len(ranked) + 1)[:, None]
        precision = np.concatenate([np.ones((1, precision.shape[1])), precision])
        heights = (precision[:-1] + precision[1:]) / 2
        gain = ranked / np.maximum(found[-1], 1)
        result[video] = (gain * heights).sum(0).mean()
    return result
