"""What would no model at all score? Predictions that every result is printed beside."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.features.samples import Damaged
from data_pipeline.features.shards import FeatureSet
from trainer.inference.decode import Floats, highlight_scores, prediction_row
from trainer.inference.zero_shot import ground, similarity
from trainer.metrics import ZERO_SHOT

Rows = list[dict[str, object]]


def whole_video(annotations: Sequence[Annotation]) -> Rows:
    """The whole video as the one window, every clip equally salient."""
    return [
        prediction_row(a, np.array([[0.0, a.duration, 1.0]]), _grid(a, np.zeros(1)))
        for a in annotations
    ]


def random_windows(annotations: Sequence[Annotation], seed: int, count: int = 10) -> Rows:
    """`count` windows between two uniform instants each, with uniform scores and saliency."""
    random = np.random.default_rng(seed)
    rows = []
    for a in annotations:
        edges = np.sort(random.uniform(0, a.duration, (count, 2)), axis=1)
        scores = -np.sort(-random.random((count, 1)), axis=0)
        saliency = random.random(max(1, int(a.duration)))
        rows.append(prediction_row(a, np.hstack((edges, scores)), _grid(a, saliency)))
    return rows


def zero_shot(features: FeatureSet, annotations: Sequence[Annotation]) -> Rows:
    """What the encoders find by themselves; the set must have a `joint_width`.

    A video that is damaged is answered with as a whole.
    """
    clip_length = features.provenance.clip_length
    known = {row["qid"]: row for row in whole_video(annotations)}
    for index in range(len(features.samples)):
        try:
            queries, joint = features.read_joint(index)
        except Damaged:
            continue
        clips, sentences = joint[: -len(queries) or None], joint[len(joint) - len(queries) :]
        for query, sentence in zip(queries, sentences, strict=True):
            annotation = query.annotation
            if annotation.qid not in known:
                continue
            fits = similarity(clips, sentence)
            found = ground(fits, clip_length, annotation.duration)
            scores = highlight_scores(fits, clip_length, annotation)
            known[annotation.qid] = prediction_row(annotation, found, scores)
    return list(known.values())


def others(
    features: FeatureSet, annotations: Sequence[Annotation], seed: int
) -> tuple[dict[str, Rows], str]:
    """Rows of every baseline that a set allows, by name, and why one is missing."""
    rows = {
        "whole video": whole_video(annotations),
        "random": random_windows(annotations, seed),
    }
    if features.joint_width is None:
        return rows, (
            f"{features.folder}: no {ZERO_SHOT} baseline: its encoders share no space of videos "
            "and sentences, or it was made before that was stored"
        )
    return rows | {ZERO_SHOT: zero_shot(features, annotations)}, ""


def _grid(annotation: Annotation, saliency: Floats) -> list[float]:
    return highlight_scores(saliency, annotation.duration / len(saliency), annotation)
