"""Which queries does one run find and the other miss?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation
from trainer.comparison.compare import Group
from trainer.metrics import Evaluation
from trainer.pictures.examples import draw_example, pair_up

FOUND = "R1@0.5"
EXAMPLES = 3


@dataclass(frozen=True)
class Versus:
    """Two groups, each by its first run, query by query.

    Counts of queries; `mine_alone` and `theirs_alone` hold (what the first run found, what the
    second found) as `draw_example` draws it, of the queries with the greatest difference in IoU.
    """

    first: Group
    second: Group
    both: int
    first_only: int
    second_only: int
    neither: int
    mine_alone: list[tuple[dict[str, Any], dict[str, Any]]]
    theirs_alone: list[tuple[dict[str, Any], dict[str, Any]]]


def versus(first: Group, second: Group, annotations: Sequence[Annotation]) -> Versus | None:
    """Compare two groups that answered the same queries; None if windows were not measured."""
    mine, theirs = first.runs[0].evaluation, second.runs[0].evaluation
    if mine is None or theirs is None or FOUND not in mine.per_query:
        return None
    hit, other = mine.per_query[FOUND] > 0, theirs.per_query[FOUND] > 0  # NaN is no hit
    counted = ~np.isnan(mine.per_query[FOUND])
    gap = mine.per_query["mIoU"] - theirs.per_query["mIoU"]
    alone, missed = counted & hit & ~other, counted & ~hit & other
    mine_alone, theirs_alone = _greatest(mine, gap, alone), _greatest(mine, -gap, missed)
    drawn = _examples(first, second, [*mine_alone, *theirs_alone], annotations)
    return Versus(
        first,
        second,
        both=int((counted & hit & other).sum()),
        first_only=int(alone.sum()),
        second_only=int(missed.sum()),
        neither=int((counted & ~hit & ~other).sum()),
        mine_alone=[drawn[qid] for qid in mine_alone if qid in drawn],
        theirs_alone=[drawn[qid] for qid in theirs_alone if qid in drawn],
    )


def _greatest(evaluation: Evaluation, gap: Any, among: Any) -> list[int | str]:
    places = np.flatnonzero(among)
    order = places[np.argsort(-gap[places], kind="stable")]
    return [evaluation.qids[place] for place in order[:EXAMPLES]]


def _examples(
    first: Group, second: Group, qids: Sequence[int | str], annotations: Sequence[Annotation]
) -> dict[int | str, tuple[dict[str, Any], dict[str, Any]]]:
    """What both found of the queries `qids`; those without predictions are left out."""
    wanted = [annotation for annotation in annotations if annotation.qid in set(qids)]
    drawn: list[dict[int | str, dict[str, Any]]] = []
    for group in (first, second):
        pairs = pair_up(group.runs[0].folder / "predictions.jsonl", wanted)
        drawn.append({pair.annotation.qid: draw_example(0, pair, None) for pair in pairs})
    return {qid: (drawn[0][qid], drawn[1][qid]) for qid in drawn[0].keys() & drawn[1].keys()}
