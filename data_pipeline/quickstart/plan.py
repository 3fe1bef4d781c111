"""Composing a video: which segments, which sentences, and the ground truth that follows.

A plan is a pure function of (seed, index); frames are drawn from it and annotations are read off
it, so what is annotated is what is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from data_pipeline.annotations import Annotation
from data_pipeline.quickstart.kinds import DRAWN_KINDS, FILMED_KINDS, MOTIONS, Drawn, Kind
from data_pipeline.quickstart.phrases import phrasings

Split = Literal["train", "dev", "val"]

CLIP_SECONDS = 2
"""Saliency is given per clip of 2 s, and segments begin and end on clip borders (QVHighlights)."""

SHORTEST_CLIPS, LONGEST_CLIPS = 12, 30  # a video lasts 24 to 60 s


@dataclass(frozen=True)
class Segment:
    """One kind shown for `clips` clips.

    `prominence` is how large the subject appears, 0 (small) to 1 (as large as it gets), at
    `len(prominence)` instants spread evenly over the segment. `look` seeds everything that has no
    bearing on the ground truth: background, position, crop, colours of the footage.
    """

    kind: Kind
    first_clip: int
    clips: int
    prominence: tuple[float, ...]
    look: int

    @property
    def window(self) -> tuple[float, float]:
        """(start, end) in seconds."""
        return (
            float(self.first_clip * CLIP_SECONDS),
            float((self.first_clip + self.clips) * CLIP_SECONDS),
        )

    def prominence_at(self, progress: np.ndarray) -> np.ndarray:
        """Prominence at each moment in `progress`, 0 at the segment's start and 1 at its end."""
        knots = np.linspace(0.0, 1.0, len(self.prominence))
        values: np.ndarray = np.interp(progress, knots, self.prominence)
        return values


@dataclass(frozen=True)
class VideoPlan:
    """One video: its segments in order, and its annotation rows.

    `annotations` ask for what it shows, `absent` for as many things that it does not; none in
    training, where the sentences of other videos are such.
    """

    vid: str
    split: Split
    segments: tuple[Segment, ...]
    annotations: tuple[Annotation, ...]
    absent: tuple[Annotation, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.segments[-1].window[1]


def plan_video(index: int, split: Split, seed: int) -> VideoPlan:
    """The video number `index` of the data set made with `seed`."""
    rng = np.random.default_rng([seed, index])
    vid = f"quickstart_s{seed}_{index:04d}"
    segments = _segments(rng)
    # Every kind that a video shows is asked about, in training twice: sentences cost no extraction.
    shown = dict.fromkeys(segment.kind for segment in segments)
    asked = [(kind, sentence) for kind in shown for sentence in _sentences(rng, kind, split)]
    annotations = tuple(
        _annotate(rng, f"{vid}_{number}", sentence, kind, segments, vid)
        for number, (kind, sentence) in enumerate(asked)
    )
    if split == "train":
        return VideoPlan(vid, split, segments, annotations)
    # From numbers of their own: they change nothing of what is shown.
    absent = _absent(np.random.default_rng([seed, index, 1]), list(shown), split)
    duration = segments[-1].window[1]
    rows = tuple(
        Annotation(f"{vid}_absent_{number}", sentence, vid, duration, windows=())
        for number, sentence in enumerate(absent)
    )
    return VideoPlan(vid, split, segments, annotations, rows)


def _absent(rng: np.random.Generator, shown: Sequence[Kind], split: Split) -> list[str]:
    """As many sentences as kinds are shown, of subjects that are not, each of another one."""
    taken = {kind.subject for kind in shown}
    sentences = []
    for _ in shown:
        kind = _choose(rng, [k for k in DRAWN_KINDS + FILMED_KINDS if k.subject not in taken])
        taken.add(kind.subject)
        sentences += _sentences(rng, kind, split)
    return sentences


def _sentences(rng: np.random.Generator, kind: Kind, split: Split) -> list[str]:
    """What is asked about a kind: two phrasings in training, one elsewhere, often an unseen one."""
    phrases = phrasings(kind)
    if split == "train":
        return [str(sentence) for sentence in rng.choice(phrases.seen, size=2, replace=False)]
    choices = phrases.unseen if rng.random() < 0.4 else phrases.seen
    return [str(rng.choice(choices))]


def _segments(rng: np.random.Generator) -> tuple[Segment, ...]:
    lengths = rng.integers(2, 6, size=rng.integers(4, 8))
    while not SHORTEST_CLIPS <= lengths.sum() <= LONGEST_CLIPS:
        lengths = rng.integers(2, 6, size=rng.integers(4, 8))
    firsts = np.cumsum(lengths) - lengths
    return tuple(
        Segment(kind, int(first), int(length), _prominence(rng), int(rng.integers(2**31)))
        for kind, first, length in zip(
            _sequence_of_kinds(rng, len(lengths)), firsts, lengths, strict=True
        )
    )


def _sequence_of_kinds(rng: np.random.Generator, length: int) -> list[Kind]:
    """Kinds of `length` segments: neighbours differ, some kinds recur, no two share a subject."""
    distinct = max(3, length - int(rng.integers(0, 3)))
    kinds: list[Kind] = []
    while len(kinds) < distinct:
        kind = _next_kind(rng, kinds)
        if all(kind.subject != other.subject for other in kinds):
            kinds.append(kind)
    while True:
        recurring = [kinds[i] for i in rng.integers(distinct, size=length - distinct)]
        sequence = [*kinds, *recurring]
        sequence = [sequence[i] for i in rng.permutation(length)]
        if all(left != right for left, right in pairwise(sequence)):
            return sequence


def _next_kind(rng: np.random.Generator, kinds: list[Kind]) -> Kind:
    """A filmed shot, any drawn object, or one that differs from a chosen one in one attribute."""
    draw = rng.random()
    drawn = [kind for kind in kinds if isinstance(kind, Drawn)]
    if draw < 0.35:
        return _choose(rng, FILMED_KINDS)
    if draw < 0.5 and drawn:
        model = drawn[rng.integers(len(drawn))]
        near = [k for k in DRAWN_KINDS if (k.colour == model.colour) != (k.shape == model.shape)]
        return _choose(rng, near)
    shape = tuple(MOTIONS)[rng.integers(len(MOTIONS))]
    return _choose(rng, [kind for kind in DRAWN_KINDS if kind.shape == shape])


def _choose(rng: np.random.Generator, kinds: Sequence[Kind]) -> Kind:
    return kinds[int(rng.integers(len(kinds)))]


def _prominence(rng: np.random.Generator) -> tuple[float, ...]:
    """The subject grows to a peak somewhere in the segment and shrinks on both sides of it."""
    low, high, peak = rng.uniform(0.0, 0.55), rng.uniform(0.85, 1.0), rng.uniform(0.1, 0.9)
    progress = np.linspace(0.0, 1.0, 17)
    bump = np.exp(-(((progress - peak) / 0.38) ** 2))
    return tuple(float(p) for p in np.round(low + (high - low) * bump, 4))


def _annotate(
    rng: np.random.Generator,
    qid: str,
    sentence: str,
    kind: Kind,
    segments: tuple[Segment, ...],
    vid: str,
) -> Annotation:
    relevant = [segment for segment in segments if segment.kind == kind]
    biases = rng.normal(0.0, 0.35, size=3)
    saliency: dict[int, tuple[float, ...]] = {}
    for segment in relevant:
        for offset in range(segment.clips):
            quality = _clip_quality(segment, offset)
            saliency[segment.first_clip + offset] = _judge(rng, quality, biases)
    return Annotation(
        qid=qid,
        query=sentence,
        vid=vid,
        duration=segments[-1].window[1],
        windows=tuple(segment.window for segment in relevant),
        saliency=saliency,
    )


def _clip_quality(segment: Segment, offset: int) -> float:
    """Mean prominence over one clip of the segment."""
    moments = (offset + (np.arange(8) + 0.5) / 8) / segment.clips
    return float(segment.prominence_at(moments).mean())


def _judge(rng: np.random.Generator, quality: float, biases: np.ndarray) -> tuple[float, ...]:
    """Scores 0..4 of three annotators who see the same quality, each with a bias and some noise."""
    opinions = 2.0 + 2.75 * quality + biases + rng.normal(0.0, 0.4, size=3)
    scores = np.clip(np.rint(opinions), 0, 4)
    # A clip of a relevant window is never irrelevant to everybody.
    scores[np.argmax(opinions)] = max(1, scores.max())
    return tuple(int(score) for score in scores)
