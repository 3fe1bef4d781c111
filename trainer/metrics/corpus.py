"""Which video of an archive, and which seconds of it? Video corpus moment retrieval (VCMR).

R@k at an IoU (TVR, Lei et al., ECCV 2020): whether one of the first k moments lies in a right video
and overlaps a right moment of it by so much. NDCG@k (TVR-Ranking, Liang et al., 2024): each right
moment counts once, for the first answer that overlaps it so much, by 2^relevance - 1 over
log2(rank + 1), as a share of the best order's sum. VR@k: whether a right video is among the first k
that the search proposes, and VA@k: which share of the right ones is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.untrusted import iter_rows, reading, shown
from trainer.metrics.ragged import Floats

IOUS = (0.5, 0.7)
RECALLS = (1, 10, 100)
GAINS = (10, 20, 40)
PROPOSED = (1, 10, 20, 100)

Qid = int | str


@dataclass(frozen=True)
class RightMoment:
    """Seconds [start, end) of a video that show what is asked, and how well: 1, or a grade."""

    video: str
    start: float
    end: float
    relevance: float = 1.0


@dataclass(frozen=True)
class Asked:
    """A sentence and its right moments in all videos; none where no video shows it."""

    qid: Qid
    moments: tuple[RightMoment, ...]


@dataclass(frozen=True)
class Given:
    """What was answered: (video, start, end, score) best first, and the videos that were proposed,
    best first, None where that is not told."""

    moments: tuple[tuple[str, float, float, float], ...]
    proposed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CorpusEvaluation:
    """`summary` in percent, `per_query` (Q,) fractions in the order of `qids`.

    `left_out` counts questions that no video answers, which these figures cannot judge.
    """

    summary: dict[str, float]
    per_query: dict[str, Floats]
    qids: tuple[Qid, ...]
    left_out: int


def evaluate_corpus(answers: Mapping[Qid, Given], questions: Sequence[Asked]) -> CorpusEvaluation:
    """The figures of the answers; every question must have one."""
    counted = [question for question in questions if question.moments]
    if not counted:
        raise InputError("no question has a right moment, so that nothing can be measured")
    rows = [_measure(answers[question.qid], question) for question in counted]
    # A stage that is not told of any question's is not measured.
    names = [name for name in rows[0] if all(name in row for row in rows)]
    per_query = {name: np.array([row[name] for row in rows]) for name in names}
    summary = {name: round(100 * float(values.mean()), 2) for name, values in per_query.items()}
    qids = tuple(question.qid for question in counted)
    return CorpusEvaluation(summary, per_query, qids, len(questions) - len(counted))


def _measure(given: Given, asked: Asked) -> dict[str, float]:
    overlaps = np.array(
        [[_iou(found, right) for right in asked.moments] for found in given.moments]
    ).reshape(len(given.moments), len(asked.moments))
    figures: dict[str, float] = {}
    for iou in IOUS:
        right = np.any(overlaps >= iou, axis=1)
        for k in RECALLS:
            figures[f"R@{k} IoU={iou}"] = float(right[:k].any())
    for iou in IOUS:
        gains = _gains(overlaps, [moment.relevance for moment in asked.moments], iou)
        best = sorted((2.0**moment.relevance - 1 for moment in asked.moments), reverse=True)
        for k in GAINS:
            figures[f"NDCG@{k} IoU={iou}"] = _discounted(gains[:k]) / _discounted(best[:k])
    if given.proposed is not None:
        videos = list(dict.fromkeys(given.proposed))
        wanted = {moment.video for moment in asked.moments}
        for k in PROPOSED:
            met = wanted.intersection(videos[:k])
            figures[f"VR@{k}"] = float(bool(met))
            figures[f"VA@{k}"] = len(met) / len(wanted)
    return figures


def _gains(overlaps: Floats, relevances: Sequence[float], iou: float) -> list[float]:
    """What each answer adds: the most relevant right moment that it meets and none met before."""
    free = np.ones(len(relevances), bool)
    graded = np.array(relevances)
    gains = []
    for row in overlaps:
        met = np.flatnonzero(free & (row >= iou))
        if not len(met):
            gains.append(0.0)
            continue
        # Of equally relevant ones the one that it overlaps most.
        best = max(met.tolist(), key=lambda place: (graded[place], row[place], -place))
        free[best] = False
        gains.append(2.0 ** float(graded[best]) - 1)
    return gains


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _iou(found: tuple[str, float, float, float], right: RightMoment) -> float:
    video, start, end, _ = found
    shared = min(end, right.end) - max(start, right.start)
    if video != right.video or shared <= 0:
        return 0.0
    return shared / (max(end, right.end) - min(start, right.start))


def read_questions(path: Path) -> list[Asked]:
    """Questions from annotations: each asks for its own windows in its own video, or, where the row
    has `relevant_moments`, for those: [video, start, end] or [video, start, end, relevance]."""
    questions = []
    seen: set[Qid] = set()
    for number, row in iter_rows(path):
        with reading(f"{path}:{number}", "each row has a qid, a vid and relevant_windows"):
            qid = _qid(row)
            if qid in seen:
                raise ValueError(f"qid {shown(qid)} is there twice")
            seen.add(qid)
            told = row.get("relevant_moments")
            if told is None:
                told = [[row["vid"], *window] for window in row["relevant_windows"] or []]
            questions.append(Asked(qid, tuple(_right(moment) for moment in told)))
    if not questions:
        raise InputError(f"{path}: holds no questions")
    return questions


def read_answers(path: Path, questions: Sequence[Asked]) -> dict[Qid, Given]:
    """The answer to each of the questions, as `launch.search --json F.jsonl` writes them.

    Raises InputError for a row that is none, and for a question without an answer.
    """
    answers: dict[Qid, Given] = {}
    for number, row in iter_rows(path):
        with reading(f"{path}:{number}", "launch.search --queries --json writes such rows"):
            qid = _qid(row)
            if qid in answers:
                raise ValueError(f"qid {shown(qid)} is there twice")
            proposed = row.get("candidates")
            answers[qid] = Given(
                tuple(_found(moment) for moment in row["pred_moments"]),
                None if proposed is None else tuple(_text(each[0]) for each in proposed),
            )
    known = {question.qid for question in questions}
    for question in questions:
        if question.qid not in answers:
            raise InputError(f"{path}: has no answer to qid {shown(question.qid)}")
    for qid in answers:
        if qid not in known:
            raise InputError(f"{path}: answers qid {shown(qid)}, which nobody asked")
    return answers


def _qid(row: Any) -> Qid:
    if not isinstance(row, dict) or type(row.get("qid")) not in (int, str):
        raise ValueError("'qid' is missing or neither number nor text")
    qid: Qid = row["qid"]
    return qid


def _right(moment: Any) -> RightMoment:
    video, start, end, *rest = moment
    relevance = _number(rest[0]) if rest else 1.0
    if len(rest) > 1 or not 0 < relevance <= 64:
        raise ValueError(f"the moment {shown(moment)} is no [video, start, end, relevance]")
    return RightMoment(_text(video), *_window(start, end), relevance)


def _found(moment: Any) -> tuple[str, float, float, float]:
    video, start, end, score = moment
    return _text(video), *_window(start, end), _number(score)


def _window(start: Any, end: Any) -> tuple[float, float]:
    return _number(start), _number(end)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{shown(value)} is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} names no video")
    return value
