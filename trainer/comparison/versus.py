"""Which queries does one run find and the other miss?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.annotations import Annotation
from trainer.comparison.compare import Group
from trainer.examples import draw_example, pair_up
from trainer.metrics import Evaluation

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
    return Versus(
        first,
        second,
        both=int((counted & hit & other).sum()),
        first_only=int(alone.sum()),
        second_only=int(missed.sum()),
        neither=int((counted & ~hit & ~other).sum()),
        mine_alone=_examples(first, second, _greatest(mine, gap, alone), annotations),
        theirs_alone=_examples(first, second, _greatest(mine, -gap, missed), annotations),
    )


def _greatest(evaluation: Evaluation, gap: Any, among: Any) -> list[int | str]:
    places = np.flatnonzero(among)
    order = places[np.argsort(-gap[places], kind="stable")]
    return [evaluation.qids[place] for place in order[:EXAMPLES]]


def _examples(
    first: Group, second: Group, qids: Sequence[int | str], annotations: Sequence[Annotation]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    by_id = {annotation.qid: annotation for annotation in annotations}
    wanted = [by_id[qid] for qid in qids if qid in by_id]
    drawn = []
    for group in (first, second):
        pairs = pair_up(group.runs[0].folder / "predictions.jsonl", wanted)
        drawn.append({pair.annotation.qid: draw_example(0, pair, None) for pair in pairs})
    return [
        (drawn[0][a.qid], drawn[1][a.qid])
        for a in wanted
        if a.qid in drawn[0] and a.qid in drawn[1]
    ]
