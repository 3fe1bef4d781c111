"""From what each query scored to the figures that are printed, ours and the published script's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation, rated_clips
from data_pipeline.errors import InputError
from trainer.metrics.highlights import Highlights, detect
from trainer.metrics.moments import (
    IOU_THRESHOLDS,
    LENGTH_RANGES,
    Retrieval,
    in_range,
    recall_of_first,
    retrieve,
)
from trainer.metrics.ragged import Floats, Integers, Ragged
from trainer.metrics.rows import SCORES, WINDOWS, Row

RATED_CLIP = 2.0
"""Seconds of one rated clip in QVHighlights."""


@dataclass
class Sheet:
    """Collects figures; means are taken in the order of the predictions, as the script does."""

    order: Integers
    summary: dict[str, float] = field(default_factory=dict)
    per_query: dict[str, Floats] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    brief: dict[str, float | None] = field(default_factory=dict)
    blocks: dict[str, dict[str, Any]] = field(default_factory=dict)

    def headline(self, name: str, figure: float | None, per_query: Floats) -> None:
        if figure is not None:
            self.summary[name] = figure
            self.per_query[name] = per_query

    def counted(self, values: Floats) -> Floats:
        """The rows of `values` (Q, ...) that count, in the order of the predictions."""
        ordered = values[self.order]
        return ordered[~np.isnan(ordered.reshape(len(ordered), -1)).any(1)]

    def official_figures(self) -> dict[str, Any]:
        return {"brief": self.brief, **dict(sorted(self.blocks.items()))}


def percent(value: Any) -> float:
    """A fraction as the field prints it: in percent, to two decimals."""
    return float(f"{100 * value:.2f}")


def _mean(values: Floats) -> float | None:
    return percent(np.mean(values)) if len(values) else None


def _recall(sheet: Sheet, iou: Floats, threshold: float) -> float | None:
    return _mean((sheet.counted(iou) >= threshold).astype(np.float64))


def _hits(iou: Floats, threshold: float) -> Floats:
    return np.where(np.isnan(iou), np.nan, iou >= threshold)


def measure_moments(
    sheet: Sheet,
    rows: Sequence[Row],
    annotations: Sequence[Annotation],
    ranges: bool,
    official: bool,
) -> None:
    predicted = Ragged.of([row[WINDOWS] for row in rows], 3)
    truth = Ragged.of([annotation.windows or () for annotation in annotations], 2)
    if not len(truth.values):
        return
    _warn_about_windows(sheet, predicted, truth, official)
    full = retrieve(predicted, truth, official)
    if full.undefined.any():
        how = "a hit in mAP, as for the official script" if official else "a miss"
        sheet.warnings.append(
            f"{full.undefined.sum()} queries list an empty or inverted window whose IoU with a "
            f"true one is 0 / 0; it counts as {how}"
        )
    for name, iou in (("R1", full.first_iou), ("R5", full.five_iou)):
        for threshold in (0.3, 0.5, 0.7):
            figure = _recall(sheet, iou, threshold)
            sheet.headline(f"{name}@{threshold}", figure, _hits(iou, threshold))
    ap = full.average_precision
    block = _official_moments(sheet, full)
    sheet.blocks["full"] = block
    sheet.headline("mAP", block["MR-mAP"]["average"], ap.mean(1))
    for threshold in (0.5, 0.75):
        column = ap[:, IOU_THRESHOLDS.index(threshold)]
        sheet.headline(f"mAP@{threshold}", block["MR-mAP"][str(threshold)], column)
    if ranges:
        for name, (above, up_to) in LENGTH_RANGES.items():
            part = retrieve(predicted, in_range(truth, above, up_to), official)
            sheet.blocks[name] = _official_moments(sheet, part)
            figure = sheet.blocks[name]["MR-mAP"]["average"]
            sheet.headline(f"mAP-{name}", figure, part.average_precision.mean(1))
        _measure_several(sheet, predicted, truth, ap.mean(1))
    sheet.headline("mIoU", _mean(sheet.counted(full.first_iou)), full.first_iou)
    sheet.brief = _official_brief(sheet.blocks)


def _measure_several(sheet: Sheet, predicted: Ragged, truth: Ragged, ap: Floats) -> None:
    """Figures of QV-M2 for queries with several true windows (Cao et al., arXiv 2510.17218).

    G-mAP is the mean over all queries, mAP@k_tgt that over the queries with k true windows, mR@k
    the recall of the k windows listed first where there are at least k true ones.
    """
    if not (truth.counts > 1).any():
        return
    sheet.headline("G-mAP", _mean(sheet.counted(ap)), ap)
    groups = {"1": truth.counts == 1, "2": truth.counts == 2, "3+": truth.counts >= 3}
    for name, members in groups.items():
        values = np.where(members, ap, np.nan)
        sheet.headline(f"mAP@{name}_tgt", _mean(sheet.counted(values)), values)
    for count in (1, 2, 3):
        values = recall_of_first(predicted, truth, count)
        sheet.headline(f"mR@{count}", _mean(sheet.counted(values)), values)


def _warn_about_windows(sheet: Sheet, predicted: Ragged, truth: Ragged, official: bool) -> None:
    silent = int(((predicted.counts == 0) & (truth.counts > 0)).sum())
    if silent and official:
        sheet.warnings.append(
            f"{silent} queries have no predicted window: left out of mAP, which raises it, as the "
            "official script does (its R1 stops with an error; here they count as misses)"
        )
    elif silent:
        sheet.warnings.append(
            f"{silent} queries have no predicted window and count as 0; the official script leaves "
            "them out of mAP (--official gives that number)"
        )
    rising = (np.diff(predicted.values[:, 2]) > 0) & (np.diff(predicted.owners) == 0)
    if unsorted := len(np.unique(predicted.owners[1:][rising])):
        sheet.warnings.append(
            f"{unsorted} queries list windows that are not sorted by score: R1 and mIoU judge the "
            "one listed first, mAP the ten listed first"
        )
    if withheld := int((truth.counts == 0).sum()):
        sheet.warnings.append(f"{withheld} queries have no true window and are left out")


def _official_moments(sheet: Sheet, part: Retrieval) -> dict[str, Any]:
    ap = sheet.counted(part.average_precision)
    per_threshold = ap.mean(0) if len(ap) else None
    keys = [str(threshold) for threshold in IOU_THRESHOLDS]
    if per_threshold is None:
        precision: dict[str, float | None] = dict.fromkeys([*keys, "average"])
    else:
        precision = {key: percent(v) for key, v in zip(keys, per_threshold, strict=True)}
        precision["average"] = percent(np.mean(per_threshold))
    recall = {str(t): _recall(sheet, part.first_iou, t) for t in IOU_THRESHOLDS}
    return {"MR-mAP": precision, "MR-R1": recall}


def _official_brief(blocks: Mapping[str, dict[str, Any]]) -> dict[str, float | None]:
    brief = {f"MR-{name}-mAP": block["MR-mAP"]["average"] for name, block in blocks.items()}
    full = blocks["full"]
    brief |= {f"MR-full-mAP@{t}": full["MR-mAP"][t] for t in ("0.5", "0.75")}
    brief |= {f"MR-full-R1@{t}": full["MR-R1"][t] for t in ("0.5", "0.7")}
    return dict(sorted(brief.items()))


def measure_highlights(
    sheet: Sheet, rows: Sequence[Row], annotations: Sequence[Annotation]
) -> None:
    rated = np.array([annotation.saliency is not None for annotation in annotations])
    if not rated.any():
        return
    if not rated.all():
        sheet.warnings.append(f"{(~rated).sum()} queries have no rated clips and are left out")
    ratings, beyond = _ratings(annotations)
    if beyond:
        sheet.warnings.append(f"{beyond} rated clips lie beyond the end of their video: ignored")
    scores = Ragged.of([row[SCORES] for row in rows])
    unequal = int((scores.counts != ratings.counts)[rated].sum())
    if unequal:
        sheet.warnings.append(
            f"{unequal} queries have more or fewer saliency scores than int(duration / 2) clips: "
            "cut, or filled with zeros, which outrank negative scores"
        )
    for name, measured in detect(scores, ratings).items():
        precision = np.where(rated[:, None], measured.average_precision, np.nan)  # (Q, A)
        hit = np.where(rated, measured.hit, np.nan)  # (Q,)
        figures = Highlights(sheet.counted(precision), sheet.counted(hit))
        block = {"HL-mAP": _mean(figures.average_precision), "HL-Hit1": _mean(figures.hit)}
        sheet.blocks[f"HL-min-{name}"] = block
        sheet.brief |= {f"HL-min-{name}-mAP": block["HL-mAP"]}
        sheet.brief |= {f"HL-min-{name}-Hit1": block["HL-Hit1"]}
        suffix = "" if name == "VeryGood" else f"-{name}"
        sheet.headline(f"HD-mAP{suffix}", block["HL-mAP"], precision.mean(1))
        sheet.headline(f"HIT@1{suffix}", block["HL-Hit1"], hit)


def _ratings(annotations: Sequence[Annotation]) -> tuple[Ragged, int]:
    """The annotators' ratings (A,) of every clip of every video, 0 where not relevant.

    Also the number of rated clips that lie beyond the end of their video and are left out.
    """
    counts = np.array([rated_clips(a) for a in annotations], dtype=np.int64)
    clips = Ragged.of([list(a.saliency or ()) for a in annotations])
    given = [scores for a in annotations for scores in (a.saliency or {}).values()]
    annotators = sorted({len(scores) for scores in given}) or [1]
    if len(annotators) > 1:
        raise InputError(
            f"annotations: clips are rated by {annotators[0]} and by {annotators[-1]} annotators; "
            "every clip needs the same number of saliency scores"
        )
    table = Ragged(np.zeros((int(counts.sum()), annotators[0])), counts)
    clip = clips.values.astype(np.int64)
    inside = (clip >= 0) & (clip < counts[clips.owners])
    places = (table.starts[clips.owners] + clip)[inside]
    table.values[places] = np.array(given, dtype=np.float64).reshape(-1, annotators[0])[inside]
    return table, int((~inside).sum())
