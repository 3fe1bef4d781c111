"""TVSum and YouTube Highlights: how well scores rank a video's clips, by domain.

Rows of an annotation file, one video a line, are QVHighlights' with two more keys:

    TVSum    {"qid", "query": title, "vid", "duration", "domain": "BK", "label": [[3, 1, ...], ...]}
    YouTube  {"qid", "query": title, "vid", "duration", "domain": "dog", "match": [1, 0, -1, ...]}

`label` holds for each clip the ratings 1..5 of all annotators (20), as QD-DETR has it;
`match` one number a clip, positive for a highlight, as in R2-Tuning's youtube_anno.json. The clips
are those of the labels, whatever their length; a prediction row gives one score for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
from data_pipeline.untrusted import iter_rows
from trainer.metrics.ragged import Booleans, Floats

LABEL_KEYS = {"tvsum": "label", "youtube": "match"}


@dataclass(frozen=True)
class DomainAnnotation(Annotation):
    """A video of one domain with `positive`, clips x annotators: who counts which clip as one."""

    domain: str = ""
    positive: tuple[tuple[bool, ...], ...] = ()


def read_domain_annotations(path: str | Path, dataset: str) -> list[DomainAnnotation]:
    """All videos of a TVSum or YouTube annotation file.

    Raises InputError with file and line for a row that is not in the format above.
    """
    annotations = read_annotations(path)
    result = []
    for annotation, (line, row) in zip(annotations, iter_rows(path), strict=True):
        try:
            positive = _positive(row, dataset)
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from error
        known = {field.name: getattr(annotation, field.name) for field in fields(annotation)}
        result.append(
            DomainAnnotation(
                **known, domain=row["domain"], positive=tuple(map(tuple, positive.tolist()))
            )
        )
    return result


def _positive(row: dict[str, Any], dataset: str) -> Booleans:
    """(L, A): TVSum's ratings above the annotator's median in this video; YouTube's above 0."""
    key = LABEL_KEYS[dataset]
    if not isinstance(row.get("domain"), str) or not row["domain"]:
        raise ValueError("'domain' is missing or not a name")
    form = "a rating of each annotator for each clip" if dataset == "tvsum" else "a number per clip"
    try:
        label = np.array(row.get(key), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key!r} must hold {form}") from error
    if label.ndim != (2 if dataset == "tvsum" else 1) or not label.size:
        raise ValueError(f"{key!r} must hold {form}")
    if dataset == "tvsum":
        return np.asarray(label > np.median(label, axis=0))
    return label[:, None] > 0


def ranking_precision(
    scores: Sequence[Sequence[float]], annotations: Sequence[DomainAnnotation], top: int | None
) -> Floats:
    """(Q,) average precision of each video's ranking, mean over its annotators.

    The first `top` clips by score count (all if None; equal scores in the order of the clips), and
    only the positives among them are to be found. The area under the precision-recall curve is by
    trapezia from (0, 1), as UMT (Liu et al., arXiv 2203.12745) and all after it have it. Without
    positives it is 0.
    """
    result = np.zeros(len(annotations))
    for video, (given, annotation) in enumerate(zip(scores, annotations, strict=True)):
        positive = np.array(annotation.positive)  # (L, A)
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
