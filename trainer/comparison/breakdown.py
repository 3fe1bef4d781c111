"""On which queries is a run good? A metric by what the query asks for."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.annotations import Annotation
from trainer.comparison.compare import Group
from trainer.metrics.kinds import Row, by_kind, in_order
from trainer.metrics.ragged import Floats


def breakdown(
    groups: Sequence[Group], annotations: Sequence[Annotation], metric: str
) -> dict[str, list[Row]]:
    """Tables of `metric` by kind of query, of groups that answered the queries of `annotations`."""
    answered = next(run.evaluation for run in groups[0].runs if run.evaluation)
    ordered = in_order(answered.qids, annotations, groups[0].name)
    return by_kind(ordered, [per_query(group, metric) for group in groups])


def per_query(group: Group, metric: str) -> Floats:
    """(Q,) what each query scored, in [0, 1], mean over the group's seeds."""
    kept = [run.evaluation.per_query[metric] for run in group.runs if run.evaluation]
    return np.asarray(np.mean(kept, axis=0))
