"""Is one moment found in an hour that shows nothing else of the kind, and is its absence told?

    python -m tests.benchmarks.bench_hour --model runs/quickstart --data data/quickstart

Of 50 sentences of the quick start's val split, each about a single moment, hours are put together
from stored features: clips of other dev and val videos that do not show the subject (the generator
knows), in an order of their own for each sentence, with the moment's clips in between at a random
place; and the same hours without the moment. The model grounds the sentence in both, once with what
it judges of existence and once without. Prints the recall of the moment at IoU .5, the share of
hours in which it was rightly found, and of those without it in which nothing was.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.extraction.encoding import SentenceFeatures, VideoFeatures
from data_pipeline.features.samples import Sample
from data_pipeline.features.shards import FeatureSet
from data_pipeline.quickstart.generate import plan
from data_pipeline.untrusted import read_json
from trainer.cli import command, parse_config
from trainer.inference.grounding import Grounding
from trainer.pictures.timeline import iou


@dataclass(frozen=True)
class Command:
    """Attributes:
    model: folder of a run of the quick start
    data: folder of the quick start's data, with its features
    sentences: how many are asked
    minutes: of each video that is put together
    seed: of their order
    """

    model: Path = Path("runs/quickstart")
    data: Path = Path("data/quickstart")
    sentences: int = 50
    minutes: float = 60.0
    seed: int = 0


@command
def main(args: Sequence[str] | None = None) -> int:
    """Put the hours together, ask, print."""
    from trainer.inference.predict import Grounder
    from trainer.inference.pretrained import load_pretrained

    settings = parse_config(Command, args, __doc__)
    sets = [FeatureSet(settings.data / "features" / split) for split in ("val", "dev")]
    samples = [each.read(number) for each in sets for number in range(len(each.samples))]
    made = read_json(settings.data / "dataset.json")
    subjects = {
        video.vid: {segment.kind.subject for segment in video.segments}
        for video in plan(made["videos"], made["seed"])
    }
    asked = moments(samples, len(sets[0].samples), settings.sentences)
    model, export = load_pretrained(settings.model)
    grounder = Grounder(model, None, export, "cpu")  # type: ignore[arg-type]  # nothing is encoded
    judge, rows = model.existence, []
    begin, used = time.perf_counter(), time.process_time()
    for number, (sample, query) in enumerate(asked):
        random = np.random.default_rng([settings.seed, number])
        wanted = subject_of(sample, query, subjects)
        others = [each for each in samples if wanted not in subjects[each.vid]]
        hour, window = planted(sample, query, others, settings.minutes, random)
        text = SentenceFeatures(sample.text[slice(*query.tokens)], None, 0)
        for kind, video in (("with", hour), ("without", without(hour, window))):
            for judging in ("judged", "not judged")[judge is None :]:
                model.existence = judge if judging == "judged" else None
                found = grounder._ground(query.annotation.query, text, video)
                rows.append((judging, kind, found, window))
    show(rows, settings, time.perf_counter() - begin, time.process_time() - used)
    return 0


def moments(samples: Sequence[Sample], first: int, count: int) -> list[tuple[Sample, Any]]:
    """Sentences of the first videos that have one moment each, one of a video in turn."""
    by_video = [
        [query for query in sample.queries if len(query.annotation.windows or ()) == 1]
        for sample in samples[:first]
    ]
    longest = max(map(len, by_video))
    ordered = [
        (sample, queries[turn])
        for turn in range(longest)
        for sample, queries in zip(samples[:first], by_video, strict=True)
        if turn < len(queries)
    ]
    return ordered[:count]


def subject_of(sample: Sample, query: Any, subjects: dict[str, set[Any]]) -> Any:
    """What a sentence of a video is about."""
    from data_pipeline.quickstart.kinds import DRAWN_KINDS, FILMED_KINDS
    from data_pipeline.quickstart.phrases import phrasings

    for kind in DRAWN_KINDS + FILMED_KINDS:
        phrases = phrasings(kind)
        if query.annotation.query in phrases.seen + phrases.unseen:
            assert kind.subject in subjects[sample.vid]
            return kind.subject
    raise ValueError(f"{query.annotation.query!r} is no sentence of the quick start")


def planted(
    sample: Sample,
    query: Any,
    others: Sequence[Sample],
    minutes: float,
    random: np.random.Generator,
) -> tuple[VideoFeatures, tuple[float, float]]:
    """A video with the moment of a sentence once, between others; and where it is, in seconds."""
    seconds = sample.clip_length
    start, end = (round(edge / seconds) for edge in query.annotation.windows[0])
    moment = np.array(sample.video[start:end])
    wanted = round(60 * minutes / seconds) - len(moment)
    parts: list[Any] = []
    while sum(map(len, parts)) < wanted:
        parts += [np.array(others[each].video) for each in random.permutation(len(others))]
    between = np.concatenate(parts)[:wanted]
    place = int(random.integers(0, wanted + 1))
    features = np.concatenate((between[:place], moment, between[place:]))
    window = place * seconds, (place + len(moment)) * seconds
    return VideoFeatures(features, len(features) * seconds, seconds), window


def without(video: VideoFeatures, window: tuple[float, float]) -> VideoFeatures:
    """The same without the clips in `window`."""
    first, end = (round(edge / video.clip_length) for edge in window)
    features = np.concatenate((video.features[:first], video.features[end:]))
    return replace(video, features=features, duration=len(features) * video.clip_length)


def show(rows: Sequence[Any], settings: Command, seconds: float, used: float) -> None:
    """The table, as Markdown."""
    print("| existence | R1@.5 | R5@.5 | R10@.5 | found where it is | not found where it is not |")
    print("|---|---|---|---|---|---|")
    for judging in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == judging]
        hits = [rank_of(found, window) for _, kind, found, window in mine if kind == "with"]
        kept = [bool(found.listed) for _, kind, found, _ in mine if kind == "with"]
        gone = [not found.listed for _, kind, found, _ in mine if kind == "without"]
        recall = [np.mean([rank < first for rank in hits]) for first in (1, 5, 10)]
        cells = [f"{100 * value:.0f} %" for value in (*recall, np.mean(kept), np.mean(gone))]
        print(f"| {judging} | {' | '.join(cells)} |")
    print(
        f"\n{len(rows)} answers over {settings.minutes:g} minutes, one moment in each or none; "
        f"{seconds / len(rows):.2f} s an answer ({used / len(rows):.2f} s of a processor)"
    )


def rank_of(found: Grounding, window: tuple[float, float]) -> float:
    """Place of the first window that overlaps the true one by half, from 0; infinite without."""
    for rank, (start, end, _) in enumerate(found.windows):
        if iou(start, end, *window) >= 0.5:
            return rank
    return float("inf")


if __name__ == "__main__":
    sys.exit(main())
