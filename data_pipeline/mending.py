"""What of a published row cannot stay as it is, and what is done about it? All is counted."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from data_pipeline.annotations import Annotation, parse_row
from data_pipeline.rows import HIGHEST_SCORE, clip_length_of, outside, saliency_of
from data_pipeline.untrusted import shown

Row = dict[str, Any]

PAST_END = "windows past the end of the video: cut to it"
REVERSED = "windows that end before they begin: turned round"
EMPTY = "windows that are empty: kept, training widens them to a clip"
TWICE = "sentences that occur twice, with the same windows: kept"


@dataclass
class Taken:
    """What a file gave: rows, and what was done to them, {what: times} and {what: first place}."""

    rows: list[Annotation] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def count(self, what: str, place: str, times: int = 1) -> None:
        """Something was mended or left out."""
        if times:
            self.counted[what] += times
            self.first.setdefault(what, place)


def mend(row: Row, place: str, taken: Taken) -> Annotation | None:
    """The annotation of a row, repaired; None for one that says nothing. Counts what was done.

    Raises ValueError for what is no row at all.
    """
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    row = dict(row)
    if not isinstance(row.get("query"), str) or not row["query"].strip():
        taken.count("sentences without words: left out", place)
        return None
    if "duration" in row and row["duration"] is None:
        taken.count("sentences of videos whose duration is not known: left out", place)
        return None
    windows = row.get("relevant_windows")
    if windows is not None:
        row["relevant_windows"] = kept = _mend_windows(windows, row, place, taken)
        if windows and not kept:
            taken.count("sentences without a window in the video: left out", place)
            return None
    if row.get("relevant_clip_ids") is not None and row.get("saliency_scores") is not None:
        _mend_saliency(row, place, taken)
    elif row.get("label") is not None or row.get("match") is not None:
        _mend_labels(row, place, taken)
    return parse_row(row)


def _mend_windows(windows: Any, row: Row, place: str, taken: Taken) -> list[list[float]]:
    duration, kept = row["duration"], list[list[float]]()
    for start, end in windows:
        if end < start:
            taken.count(REVERSED, place)
            start, end = end, start
        if outside((start, end), duration):
            taken.count("windows outside the video: left out", place)
            continue
        if end > duration:
            taken.count(PAST_END, place)
        if start < 0:
            taken.count("windows that begin before the video: cut to it", place)
        window = [max(start, 0), min(end, duration)]
        if window[0] == window[1]:
            taken.count(EMPTY, place)
        if window in kept:
            taken.count("windows that a sentence has twice: taken once", place)
            continue
        kept.append(window)
    return kept


def _mend_saliency(row: Row, place: str, taken: Taken) -> None:
    duration, seconds = row["duration"], clip_length_of(row)
    kept: dict[int, list[float]] = {}
    for clip, scores in zip(row["relevant_clip_ids"], row["saliency_scores"], strict=True):
        if clip != int(clip) or clip < 0 or clip * seconds >= duration:
            taken.count("rated clips that are none of the video: left out", place)
        elif clip in kept:
            taken.count("clips that are rated twice: the first taken", place)
        else:
            kept[int(clip)] = _mend_scores(scores, 0, HIGHEST_SCORE, place, taken)
    row["relevant_clip_ids"], row["saliency_scores"] = list(kept), list(kept.values())


def _mend_scores(
    scores: Iterable[float], lowest: float, highest: float, place: str, taken: Taken
) -> list[float]:
    given = list(scores)
    odd = sum(not lowest <= score <= highest for score in given)
    taken.count(f"scores outside {lowest} to {highest}: taken for the nearest", place, odd)
    return [min(max(score, lowest), highest) for score in given] if odd else given


def _mend_labels(row: Row, place: str, taken: Taken) -> None:
    _, scores = saliency_of(row)
    if isinstance(scores, str):
        raise ValueError(scores)
    if row.get("label") is not None:
        rated = [_mend_scores(clip, 1, 1 + HIGHEST_SCORE, place, taken) for clip in row["label"]]
        row["label"] = rated
    clips, scores = saliency_of(row)
    seconds = clip_length_of(row)
    inside = [clip for clip in clips if clip * seconds < row["duration"]]
    taken.count("rated clips that are none of the video: left out", place, len(clips) - len(inside))
    row["relevant_clip_ids"], row["saliency_scores"] = inside, [scores[clip] for clip in inside]
    row["clip_length"] = seconds
    del row["label" if row.get("label") is not None else "match"]


def agree(rows: list[Annotation], taken: Taken) -> list[Annotation]:
    """Rows of one video with one duration, each qid once; sentences that occur twice are told."""
    longest: dict[str, float] = {}
    for row in rows:
        longest[row.vid] = max(row.duration, longest.get(row.vid, 0.0))
    qids: set[int | str] = set()
    said: set[str] = set()
    kept = []
    for row in rows:
        place = f"qid {shown(row.qid)}"
        if row.qid in qids:
            taken.count("sentences whose qid was there before: left out", place)
            continue
        qids.add(row.qid)
        if row.duration != longest[row.vid]:
            taken.count("sentences that gave their video less time than others: agree now", place)
            row = replace(row, duration=longest[row.vid])
        what = json.dumps([row.vid, row.query, row.windows])
        if what in said:
            taken.count(TWICE, place)
        said.add(what)
        kept.append(row)
    return kept
