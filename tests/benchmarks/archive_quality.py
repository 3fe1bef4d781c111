"""Does an archive answer rightly? The quick start's videos of one split, taken as one archive.

    python -m tests.benchmarks.archive_quality --run runs/quickstart

The generator knows what every second shows. A sentence about a kind of segment has several right
answers: any moment of its kind in any video. Printed are the figures of `launch.evaluate --task
vcmr`, and how well sentences of kinds that no video shows are told from the others: by the AUROC of
existence over all of the stretches, or of the best score of a model that does not judge existence.
"""

import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import jsonargparse
import numpy as np

from data_pipeline.features.shards import FeatureSet
from data_pipeline.quickstart.kinds import DRAWN_KINDS, FILMED_KINDS
from data_pipeline.quickstart.kinds import Kind as Segment
from data_pipeline.quickstart.phrases import phrasings
from data_pipeline.quickstart.plan import plan_video
from trainer.archive.archive import Answer, Archive
from trainer.archive.building import Source, add_sets
from trainer.archive.vectors import Kind
from trainer.archive.writing import writer
from trainer.metrics.corpus import Asked, Given, RightMoment, evaluate_corpus


def main(
    run: Path = Path("runs/quickstart"),
    features: Path = Path("data/quickstart/features"),
    split: str = "val",
    candidates: int = 20,
    vectors: Kind = "projected",
) -> None:
    """Index the split, ask all of its sentences, print the figures.

    Args:
        run: folder of the model
        features: folder of the quick start's feature sets
        split: val, or dev by which the choices were made
        candidates: stretches that are grounded
        vectors: by which they are found, as launch.index's --vectors
    """
    stored = FeatureSet(features / split)
    right: dict[Segment, list[RightMoment]] = defaultdict(list)
    asked: list[tuple[str, Segment]] = []
    for sample in stored.samples:
        found = re.fullmatch(r"quickstart_s(\d+)_(\d+)", sample.vid)
        assert found is not None, sample.vid
        plan = plan_video(int(found[2]), split, int(found[1]))  # type: ignore[arg-type]
        for segment in plan.segments:
            right[segment.kind].append(RightMoment(plan.vid, *segment.window))
        kinds = dict.fromkeys(segment.kind for segment in plan.segments)
        asked += [(row.query, kind) for row, kind in zip(plan.annotations, kinds, strict=True)]
    absent = [
        sentence
        for kind in DRAWN_KINDS + FILMED_KINDS
        if kind not in right
        for sentence in (*phrasings(kind).seen, *phrasings(kind).unseen)
    ]
    source = Source(run, vectors, stored.joint_width)
    with tempfile.TemporaryDirectory() as folder:
        with writer(Path(folder), str(source.folder), source.made_with(stored)) as target:
            add_sets(target, [(stored, None)], source.blocks)
        archive = Archive.open(folder)
        answers = archive.search([sentence for sentence, _ in asked], 100, candidates)
        nowhere = archive.search(absent, 1, candidates)
    questions = [Asked(n, tuple(right[kind])) for n, (_, kind) in enumerate(asked)]
    given = {
        n: Given(
            tuple((m.video, m.start, m.end, m.score) for m in answer.moments),
            tuple(video for video, *_ in answer.candidates),
        )
        for n, answer in enumerate(answers)
    }
    evaluation = evaluate_corpus(given, questions)
    print(f"{len(stored)} videos, {len(right)} kinds, {len(asked)} sentences")
    for name, figure in evaluation.summary.items():
        print(f"{name:15s} {figure:6.2f}")
    present, missing = np.array([sure(a) for a in answers]), np.array([sure(a) for a in nowhere])
    above = (present[:, None] > missing).mean() + (present[:, None] == missing).mean() / 2
    wrong = np.mean([bool(answer.listed) for answer in nowhere])
    silent = np.mean([not answer.listed for answer in answers])
    print(
        f"AUROC {above:.3f} against {len(absent)} sentences that no video answers; {wrong:.1%} of "
        f"these are found, {silent:.1%} of the others are not"
    )


def sure(answer: Answer) -> float:
    """How sure it is that any video shows it."""
    return answer.moments[0].score if answer.existence is None else answer.existence


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
