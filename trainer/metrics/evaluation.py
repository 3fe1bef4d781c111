"""Which numbers a data set is judged by, and their values for a set of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
from trainer.metrics.domains import (
    domain_faults,
    positives,
    ranking_precision,
    read_domain_annotations,
)
from trainer.metrics.existence import measure_existence
from trainer.metrics.figures import Sheet, measure_highlights, measure_moments, percent
from trainer.metrics.ragged import Floats
from trainer.metrics.rows import SCORES, WINDOWS, Row, faults


@dataclass(frozen=True)
class Dataset:
    """How the field judges one data set.

    `ranges`: mAP also by the length of the true windows. `domains`: how many domains the measure is
    averaged over, 0 for a plain mean; then `top` is the number of clips that a ranking of
    highlights is judged by, None for all.
    """

    name: str
    ranges: bool = False
    domains: int = 0
    top: int | None = None


DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset("qvhighlights", ranges=True),
        Dataset("charades"),
        Dataset("tacos"),
        Dataset("nlq"),
        Dataset("activitynet"),
        Dataset("tvsum", domains=10, top=5),
        Dataset("youtube", domains=6),
    )
}


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one set of predictions.

    `summary`: headline figures in percent, rounded to two decimals as the field prints them.
    `per_query`: the same names, (Q,) fractions in the order of the annotations, NaN where a query
    does not count; the summary is their mean over queries (over domains of the mean, if any).
    `vids` (Q,) and `domains` (Q,) say which video and domain each query belongs to, `qids` (Q,)
    which query. `warnings`: what a reader of the numbers must know, one sentence each.
    """

    dataset: str
    summary: dict[str, float]
    per_query: dict[str, Floats]
    qids: tuple[int | str, ...]
    vids: tuple[str, ...]
    domains: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    _official: dict[str, Any] = field(default_factory=dict, repr=False)

    def official(self) -> dict[str, Any]:
        """All figures under the keys of QVHighlights' published script, `brief` first.

        None stands where no query counts (the script stops there).
        """
        return self._official


def read_ground_truth(path: str | Path, dataset: str) -> Sequence[Annotation]:
    """The annotations of a file in the format of its data set; InputError names file and line."""
    if DATASETS[dataset].domains:
        return read_domain_annotations(path, dataset)
    return read_annotations(path)


def evaluate(
    predictions: Sequence[Row],
    annotations: Sequence[Annotation],
    dataset: str = "qvhighlights",
    official: bool = False,
    threshold: float | None = None,
) -> Evaluation:
    """Measure prediction rows against the annotations of the same queries, in any order.

    Where QVHighlights' published script misleads, `official` follows it (see `moments.retrieve`).
    A measure for which the annotations or the predictions hold nothing is absent, not zero. Below
    `threshold` a query counts as rejected, where the predictions do not say themselves which are.

    Raises InputError for an unknown data set, rows that cannot be measured, queries that do not
    agree, or annotations without ground truth.
    """
    if dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r}; choose from {', '.join(DATASETS)}")
    for fault in faults(enumerate(predictions, start=1), annotations):
        place = "predictions" if fault.place is None else f"prediction {fault.place}"
        raise InputError(f"{place}: {fault.message}")
    index = {annotation.qid: position for position, annotation in enumerate(annotations)}
    order = np.array([index[row["qid"]] for row in predictions], dtype=np.int64)
    rows: list[Row] = [{} for _ in annotations]
    for position, row in zip(order, predictions, strict=True):
        rows[position] = row
    if DATASETS[dataset].domains:
        return _evaluate_domains(rows, annotations, DATASETS[dataset])
    sheet = Sheet(order)
    if rows[0].get(WINDOWS) is not None:
        measure_moments(sheet, rows, annotations, DATASETS[dataset].ranges, official)
    if rows[0].get(SCORES) is not None:
        measure_highlights(sheet, rows, annotations)
    measure_existence(sheet, rows, annotations, threshold)
    if not sheet.summary:
        raise InputError(
            "predictions: nothing can be measured: the annotations hold no ground truth (windows, "
            "saliency) for what is predicted; give the file with the ground truth"
        )
    return Evaluation(
        dataset=dataset,
        summary=sheet.summary,
        per_query=sheet.per_query,
        qids=tuple(annotation.qid for annotation in annotations),
        vids=tuple(annotation.vid for annotation in annotations),
        warnings=tuple(sheet.warnings),
        _official=sheet.official_figures(),
    )


def _evaluate_domains(
    rows: Sequence[Row], annotations: Sequence[Annotation], dataset: Dataset
) -> Evaluation:
    for video in annotations:
        for fault in domain_faults(video, dataset.name):
            raise InputError(
                f"annotations: video {video.vid!r}: {fault}; read the file with "
                f"read_ground_truth(path, {dataset.name!r}), which names the line"
            )
    if rows[0].get(SCORES) is None:
        raise InputError(f"prediction 1: {SCORES!r} is missing; {dataset.name} is judged by it")
    scores = [row[SCORES] for row in rows]
    labels = [positives(video, dataset.name) for video in annotations]
    values = ranking_precision(scores, labels, dataset.top)
    warnings = []
    unequal = sum(len(s) != len(each) for s, each in zip(scores, labels, strict=True))
    if unequal:
        warnings.append(
            f"{unequal} videos have more or fewer scores than labelled clips: cut, or ranked last"
        )
    domains = np.array([video.domain for video in annotations])
    names = np.unique(domains)
    if len(names) != dataset.domains:
        warnings.append(f"{len(names)} domains, not the {dataset.domains} of {dataset.name}")
    per_query = {"mAP": values}
    per_query |= {f"mAP/{name}": np.where(domains == name, values, np.nan) for name in names}
    means = {f"mAP/{name}": values[domains == name].mean() for name in names}
    return Evaluation(
        dataset=dataset.name,
        summary={
            "mAP": percent(np.mean(list(means.values()))),
            **{name: percent(mean) for name, mean in means.items()},
        },
        per_query=per_query,
        qids=tuple(video.qid for video in annotations),
        vids=tuple(video.vid for video in annotations),
        domains=tuple(domains.tolist()),
        warnings=tuple(warnings),
    )
