"""Which runs are the same experiment, how do they score, and is a difference more than chance?"""

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import InputError
from trainer.comparison.runs import COSTS, FinishedRun
from trainer.metrics import HEADLINES, ZERO_SHOT, not_beaten
from trainer.metrics.bootstrap import Difference, Interval, few_videos, interval, resample
from trainer.metrics.ragged import Floats


@dataclass(frozen=True)
class Figure:
    """One metric of one group, in percent.

    `deviation` is over the seeds, None for a single run. `interval` is over other videos, and, in a
    group, other seeds, None without per-query results. `difference` is to the baseline, None for
    the baseline itself and for runs that did not answer the same queries.
    """

    value: float
    deviation: float | None
    interval: Interval | None
    difference: Difference | None


@dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ by the seed only; most often a single run."""

    name: str
    runs: tuple[FinishedRun, ...]
    figures: dict[str, Figure]
    costs: dict[str, float]

    @property
    def seeds(self) -> str:
        """The seeds of the runs, for a reader."""
        return ", ".join(run.parameters.get("seed", "?") for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """Everything that tables and pages show.

    `groups`: the baseline first, then best first by the first of `metrics`, which are the headline
    figures that all runs have. `references`: what needs no training scores on the queries of the
    baseline, by its name. `parameters`: the settings that differ, name -> value per group.
    `shared` and `provenance`: what is the same for all groups, and what is not, per group.
    `warnings`: why runs must not be compared; `notes`: what else a reader must know.
    """

    groups: tuple[Group, ...]
    metrics: tuple[str, ...]
    references: dict[str, dict[str, float]]
    parameters: dict[str, tuple[str, ...]]
    provenance: dict[str, tuple[str, ...]]
    shared: dict[str, str]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why differences are less sure than their intervals tell; none where nothing speaks so."""
        compared = [g for g in self.groups if any(f.difference for f in g.figures.values())]
        if not compared:
            return ()
        groups = [self.baseline, *compared]
        answered = self.baseline.runs[0].evaluation
        few = few_videos(answered) if answered else ""
        single = any(len(group.runs) == 1 for group in groups)
        seeds = "one seed each: what another seed would change is not in the intervals"
        some = "one seed of some: what another seed would change is not in their intervals"
        every = all(len(group.runs) == 1 for group in groups)
        return (*filter(None, [few]), *([seeds if every else some] if single else ()))

    @property
    def baseline(self) -> Group:
        """What the others are compared with."""
        return self.groups[0]

    @property
    def runs(self) -> tuple[FinishedRun, ...]:
        """The runs of all groups."""
        return tuple(run for group in self.groups for run in group.runs)


def compare(
    runs: Sequence[FinishedRun], baseline: FinishedRun, notes: Sequence[str] = ()
) -> Comparison:
    """Compare finished runs with `baseline`, which is one of them.

    Raises InputError when the runs have no headline figure in common.
    """
    metrics = tuple(name for name in HEADLINES if all(_has(run, name) for run in runs))
    if not metrics:
        raise InputError("the runs have no metric in common; compare runs on one data set")
    members = _members(runs)
    draws = _draws(runs, metrics)
    names = _names(members)
    home = next(group for group in members if any(run is baseline for run in group))
    groups = [
        Group(
            name,
            tuple(group),
            _figures(group, home, metrics, draws),
            _mean_costs(group),
        )
        for name, group in zip(names, members, strict=True)
    ]
    groups.sort(key=lambda g: (g.runs[0] is not home[0], -g.figures[metrics[0]].value))
    settings = [group.runs[0].experiment for group in groups]
    origins = [_provenance(group) for group in groups]
    silent = [run.name for run in runs if run.evaluation is None]
    if silent:
        notes = [
            *notes,
            f"no intervals for {_listed(silent)}: no per_query.json was kept with the run",
        ]
    notes = [*notes, *_useless(groups, metrics)]
    return Comparison(
        groups=tuple(groups),
        metrics=metrics,
        references=_references(groups[0], metrics),
        parameters=_differing(settings),
        provenance=_differing(origins),
        shared=_shared(origins),
        warnings=tuple(_warnings(groups)),
        notes=tuple(notes),
    )


def _has(run: FinishedRun, metric: str) -> bool:
    kept = run.evaluation
    return metric in run.metrics and (kept is None or metric in kept.per_query)


# Groups


def _members(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Runs of one experiment, with one kind of features, measured on one split."""
    members: dict[tuple[object, ...], list[FinishedRun]] = {}
    for run in runs:
        measured = [f"{key}={run.provenance.get(key)}" for key in _what_must_agree(run)]
        key = (*sorted(run.experiment.items()), *measured, _queries(run))
        members.setdefault(key, []).append(run)
    return list(members.values())


def _names(members: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """A name for each group: what the names of its runs, and of no others, begin with.

    Where all are called after one and the same setting, as in a sweep, its values are the names.
    """
    names: list[str] = []
    for group in members:
        own = {run.name for run in group}
        others = {run.name for other in members if other is not group for run in other}
        common = re.sub(r"\d+$", "", _beginning([run.name for run in group]))
        name = re.sub(r"[-_. ]*(seed|s)?[-_. =]*$", "", common)
        longer = re.compile(rf"{re.escape(name)}([-. ]|$)")
        if len(own) == 1 or not name or any(map(longer.match, others)):
            name = group[0].name
        taken = sum(name == other.partition(" (")[0] for other in names)
        names.append(f"{name} ({taken + 1})" if taken else name)
    settings = {name.partition("=")[0] for name in names}
    if len(names) > 1 and len(settings) == 1 and all(name.count("=") == 1 for name in names):
        return [name.partition("=")[2] for name in names]
    return names


def _beginning(names: Sequence[str]) -> str:
    """The letters that all names begin with."""
    letters = itertools.takewhile(lambda row: len(set(row)) == 1, zip(*names, strict=False))
    return "".join(row[0] for row in letters)


def _mean_costs(group: Sequence[FinishedRun]) -> dict[str, float]:
    return {
        name: statistics.fmean(run.costs[name] for run in group)
        for name in COSTS
        if all(name in run.costs for run in group)
    }


# Figures


def _queries(run: FinishedRun) -> tuple[object, ...] | None:
    """What identifies the queries that a run answered; None if it kept no per-query results."""
    evaluation = run.evaluation
    return None if evaluation is None else (evaluation.dataset, evaluation.qids, evaluation.vids)


def _draws(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> dict[int, Floats]:
    """id(run) -> (RESAMPLES, metrics); runs on the same queries see the same resampled videos."""
    classes: dict[tuple[object, ...], list[FinishedRun]] = {}
    for run in runs:
        queries = _queries(run)
        if queries is not None:
            classes.setdefault(queries, []).append(run)
    draws: dict[int, Floats] = {}
    for same in classes.values():
        drawn = resample([run.evaluation for run in same if run.evaluation], metrics)
        draws |= {id(run): drawn[:, index] for index, run in enumerate(same)}
    return draws


def _figures(
    group: Sequence[FinishedRun],
    home: Sequence[FinishedRun],
    metrics: Sequence[str],
    draws: dict[int, Floats],
) -> dict[str, Figure]:
    own, theirs = _group_draws(group, draws), _group_draws(home, draws)
    paired = own is not None and theirs is not None and _queries(group[0]) == _queries(home[0])
    figures = {}
    for index, name in enumerate(metrics):
        values = [run.metrics[name] for run in group]
        value = statistics.fmean(values)
        difference = None
        if paired and group is not home:
            assert own is not None
            assert theirs is not None
            gap = value - statistics.fmean(run.metrics[name] for run in home)
            difference = Difference(round(gap, 2), interval(own[:, index] - theirs[:, index]))
        figures[name] = Figure(
            value,
            statistics.stdev(values) if len(values) > 1 else None,
            None if own is None else interval(own[:, index]),
            difference,
        )
    return figures


def _group_draws(group: Sequence[FinishedRun], draws: dict[int, Floats]) -> Floats | None:
    """(RESAMPLES, metrics) of a group's mean: each row of other videos takes other seeds too."""
    if any(id(run) not in draws for run in group):
        return None
    stacked = np.stack([draws[id(run)] for run in group])  # (seeds, RESAMPLES, metrics)
    if len(group) == 1:
        return np.asarray(stacked[0])
    rows = np.arange(stacked.shape[1])
    generator = np.random.default_rng(len(group))
    drawn = generator.integers(len(group), size=(len(group), len(rows)))
    return np.asarray(stacked[drawn, rows].mean(0))


def _references(home: Group, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Those baselines of a run's report that have every one of `metrics`."""
    found: dict[str, dict[str, float]] = home.runs[0].result["baselines"]
    return {
        name: {metric: numbers[metric] for metric in metrics}
        for name, numbers in found.items()
        if all(metric in numbers for metric in metrics)
    }


def _useless(groups: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """A line for each group that does no better than its encoders alone."""
    notes = []
    for group in groups:
        alone = group.runs[0].result["baselines"].get(ZERO_SHOT, {})
        figures = {name: group.figures[name].value for name in metrics}
        if unbeaten := not_beaten(figures, alone):
            notes.append(f"{group.name} does not beat {ZERO_SHOT} in {', '.join(unbeaten)}")
    return notes


# What the figures measure


def _what_must_agree(run: FinishedRun) -> list[str]:
    """Names in a run's provenance without whose agreement figures cannot be compared."""
    features = [
        name
        for name in run.provenance
        if name.startswith("features.") and name != "features.version"
    ]
    return ["dataset", "convention", "report", *features]


def _warnings(groups: Sequence[Group]) -> list[str]:
    home = groups[0].runs[0]
    reasons: dict[str, list[str]] = {}
    for group in groups[1:]:
        reason = "; ".join(_disagreements(group.runs[0], home))
        if reason:
            reasons.setdefault(reason, []).append(group.name)
    return [
        f"NOT COMPARABLE with {groups[0].name}: {_listed(names)} ({reason})"
        for reason, names in reasons.items()
    ]


def _disagreements(run: FinishedRun, home: FinishedRun) -> list[str]:
    known = _queries(run) is not None and _queries(home) is not None
    same_queries = known and _queries(run) == _queries(home)
    reasons = []
    for name in dict.fromkeys(_what_must_agree(home) + _what_must_agree(run)):
        mine, theirs = run.provenance.get(name, "unknown"), home.provenance.get(name, "unknown")
        # Data that lie elsewhere, or are called otherwise, are the same if the queries are.
        if mine != theirs and not (name in ("dataset", "report") and same_queries):
            what = "split" if name == "report" else name.replace("features.", "features: ")
            reasons.append(f"{what} {mine}, not {theirs}")
    if known and not same_queries and not reasons:
        reasons.append("measured on other queries")
    return reasons


def _provenance(group: Group) -> dict[str, str]:
    """What the group's figures measure; where its runs differ, all that they say."""
    names = dict.fromkeys(name for run in group.runs for name in run.provenance)
    origin = {
        name: ", ".join(dict.fromkeys(run.provenance.get(name, "unknown") for run in group.runs))
        for name in names
    }
    return origin | {"seed": group.seeds}


def _differing(groups: Sequence[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys(name for group in groups for name in group)
    columns = {name: tuple(group.get(name, "–") for group in groups) for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _shared(groups: Sequence[dict[str, str]]) -> dict[str, str]:
    return {
        name: value
        for name, value in groups[0].items()
        if all(group.get(name) == value for group in groups)
    }


def _listed(names: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
