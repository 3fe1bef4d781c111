"""Is a JSON object a row of an annotation file, and what does it say of the clips it rates?"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from data_pipeline.untrusted import shown

LONGEST = 1e7
"""Seconds of a video: four months."""
HIGHLIGHT_CLIP = 2.0  # seconds: the grid of QVHighlights' saliency annotations
HIGHEST_SCORE = 4


def row_faults(row: Any) -> Iterator[str]:
    """Everything that is wrong with a row, of what can be told once the first fault is there."""
    if not isinstance(row, dict):
        yield f"expected a JSON object, found {type(row).__name__}"
        return
    faults = list(_key_faults(row)) or [*_window_faults(row), *_saliency_faults(row)]
    yield from faults


def _key_faults(row: dict[str, Any]) -> Iterator[str]:
    for key, kinds in (
        ("qid", (int, str)),
        ("query", str),
        ("vid", str),
        ("duration", (int, float)),
    ):
        if key not in row:
            yield f"key {key!r} is missing"
        elif not isinstance(row[key], kinds) or isinstance(row[key], bool):
            yield f"{key!r} has the wrong type: {shown(row[key])}"
        elif key in ("query", "vid") and not row[key].strip():
            yield "'vid' and 'query' must not be empty"
        elif key == "duration" and not (_finite(row[key]) and 0 < row[key] <= LONGEST):
            yield (
                f"'duration' must be a positive number of seconds, at most {LONGEST:g}, found "
                f"{shown(row[key])}"
            )
    domain, seconds = row.get("domain"), row.get("clip_length")
    if domain is not None and not (isinstance(domain, str) and domain.strip()):
        yield f"'domain' must be a name, found {shown(domain)}"
    if seconds is not None and not (numbers([seconds]) and seconds > 0):
        yield f"'clip_length' must be a positive number of seconds, found {shown(seconds)}"


def _finite(value: float) -> bool:
    return abs(value) < math.inf if isinstance(value, float) else value.bit_length() < 1000


def numbers(values: Any) -> bool:
    """Whether this is a list of finite numbers."""
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        return False
    return all(map(_finite, values))


def _window_faults(row: dict[str, Any]) -> Iterator[str]:
    windows, duration = row.get("relevant_windows"), row["duration"]
    if windows is None:
        return
    if not isinstance(windows, list) or any(not numbers(w) or len(w) != 2 for w in windows):
        yield f"'relevant_windows' must be a list of [start, end]: {shown(windows)}"
        return
    for window in windows:
        if outside(window, duration):
            yield (
                f"window {window} of 'relevant_windows' lies outside the video's "
                f"{shown(duration)} s"
            )


def outside(window: Iterable[float], duration: float) -> bool:
    """Whether no instant of a window, whichever way round, lies in the video."""
    first, last = sorted(window)
    if first == last:  # an instant
        return last < 0 or first > duration
    return last <= 0 or first >= duration


def saliency_of(row: dict[str, Any]) -> tuple[Any, Any]:
    """Clip ids and scores of a row, None where it has none.

    TVSum's `label` holds for each clip the annotators' ratings 1..5, YouTube Highlights' `match` a
    number, positive for a highlight: scores of all clips, 0..4.
    """
    label, match = row.get("label"), row.get("match")
    if label is not None:
        listed = isinstance(label, list) and all(map(numbers, label))
        if not listed or len({len(ratings) for ratings in label}) != 1 or not label[0]:
            return [], "'label' must hold a rating of each annotator for each clip"
        return list(range(len(label))), [[rating - 1 for rating in clip] for clip in label]
    if match is not None:
        if not numbers(match) or not match:
            return [], "'match' must hold a number per clip"
        highest = [HIGHEST_SCORE]
        return list(range(len(match))), [highest if each > 0 else [0] for each in match]
    return row.get("relevant_clip_ids"), row.get("saliency_scores")


def clip_length_of(row: dict[str, Any]) -> float:
    """Seconds of the clips that the saliency of a row counts.

    Labels of all clips cover the video evenly where they are not one for each 2 s.
    """
    if row.get("clip_length") is not None:
        return float(row["clip_length"])
    labels = row.get("label") or row.get("match")
    if not isinstance(labels, list):
        return HIGHLIGHT_CLIP
    duration = float(row["duration"])
    whole_clips = duration / HIGHLIGHT_CLIP
    if math.floor(whole_clips) <= len(labels) <= math.ceil(whole_clips):
        return HIGHLIGHT_CLIP
    return duration / len(labels)


def _saliency_faults(row: dict[str, Any]) -> Iterator[str]:
    clips, scores = saliency_of(row)
    if clips is None or scores is None:
        return
    if isinstance(scores, str):
        yield scores
        return
    if not isinstance(scores, list) or not numbers(clips) or len(clips) != len(scores):
        yield "'relevant_clip_ids' and 'saliency_scores' must be lists of one length"
        return
    if not all(map(numbers, scores)) or not all(scores):
        yield "'saliency_scores' must hold a list of annotators' scores for each clip"
        return
    if not clips:
        return
    seconds, duration = clip_length_of(row), row["duration"]
    if min(clips) < 0 or max(clips) * seconds >= duration:
        beyond = next(clip for clip in clips if clip < 0 or clip * seconds >= duration)
        yield (
            f"clip {shown(beyond)} of 'relevant_clip_ids' lies outside the video's "
            f"{shown(duration)} s; clips last {seconds:g} s and count from 0"
        )
    if any(clip != int(clip) for clip in clips):
        yield "'relevant_clip_ids' holds fractions; clips are counted, not seconds"
    if len(set(clips)) != len(clips):
        twice = next(clip for place, clip in enumerate(clips) if clip in clips[:place])
        yield f"clip {shown(twice)} occurs twice in 'relevant_clip_ids'"
    if min(map(min, scores)) < 0 or max(map(max, scores)) > HIGHEST_SCORE:
        odd = next(s for s in itertools.chain.from_iterable(scores) if not 0 <= s <= HIGHEST_SCORE)
        what = "'label' (1 to 5)" if row.get("label") is not None else "'saliency_scores' (0 to 4)"
        yield f"{what} holds {shown(odd + 1 if row.get('label') is not None else odd)}"
