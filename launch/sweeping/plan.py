"""Which trials does a sweep run? Variants, the product of a grid, or samples of it, times seeds."""

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.untrusted import parse_yaml, plain_name, read_yaml, shown

MOST = 10_000
"""Trials of a sweep."""

RANGE = re.compile(r"(?P<low>[-+.\de]+)\.\.(?P<high>[-+.\de]+)")


@dataclass(frozen=True)
class Plan:
    """Attributes:
    config: YAML file of the experiment that all trials share
    name: of the sweep, its folder and its MLflow experiment
    variants: name -> settings that are changed together
    grid: setting -> its values; a text `low..high` is a range to be sampled on a log scale
    seeds: every point is trained with the seeds 0 .. seeds - 1
    samples: draw so many points of the grid instead of taking all
    pool: the trials report parts of one split, such as domains and folds: their predictions are
        scored together instead of compared
    """

    config: Path
    name: str
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: int = 1
    samples: int | None = None
    pool: bool = False

    def __post_init__(self) -> None:
        plain_name(self.name, "the sweep's name", self.config)
        if not self.variants and not self.grid:
            raise InputError("nothing to vary: give --grid KEY=VALUE,VALUE or a plan with variants")
        if self.seeds < 1 or (self.samples is not None and self.samples < 1):
            raise InputError("seeds and samples must be at least 1")
        points = self.samples or len(self.variants or "1") * math.prod(map(len, self.grid.values()))
        if points * self.seeds > MOST:
            raise InputError(f"{points} points x {self.seeds} seeds are more than {MOST} trials")
        ranges = [key for key, values in self.grid.items() if any(map(_range, values))]
        if ranges and self.samples is None:
            raise InputError(f"{ranges[0]} is a range: say how many points with --samples N")


@dataclass(frozen=True)
class Trial:
    """One run of the trainer: its name and the settings that differ from the plan's config."""

    name: str
    settings: dict[str, Any]


def read_plan(path: Path) -> dict[str, Any]:
    """The fields of a plan's YAML file; InputError for a fault."""
    known = {each.name for each in dataclasses.fields(Plan)}
    values = read_yaml(path)
    if not isinstance(values, dict) or not set(values) <= known:
        odd = sorted(set(values) - known) if isinstance(values, dict) else "no settings"
        raise InputError(f"{path}: {odd} unknown; a plan has {', '.join(sorted(known))}")
    checks: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("config", lambda value: isinstance(value, str)),
        ("name", lambda value: isinstance(value, str)),
        ("variants", lambda value: _are(dict, value)),
        ("grid", lambda value: _are(list, value)),
        ("seeds", lambda value: type(value) is int),
        ("samples", lambda value: value is None or type(value) is int),
    )
    for name, right in checks:
        if name in values and not right(values[name]):
            raise InputError(f"{path}: {name!r} cannot be {shown(values[name])}")
    return values | ({"config": Path(values["config"])} if "config" in values else {})


def _are(kind: type, value: Any) -> bool:
    """Whether `value` maps texts to values of `kind`."""
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(item, kind) for key, item in value.items()
    )


def parse_grid(text: str) -> tuple[str, list[Any]]:
    """`model.layers=[-1],[-1,-2]` -> ("model.layers", [[-1], [-1, -2]])."""
    key, equals, values = text.partition("=")
    try:
        listed = parse_yaml(f"[{values}]", f"--grid {key}")
    except InputError as error:
        raise InputError(f"--grid {text}: the values are not a list: a,b or [1],[1,2]") from error
    if not (key and equals and listed):
        raise InputError(f"--grid {text}: write it as KEY=VALUE,VALUE")
    return key, listed


def parse_setting(text: str) -> tuple[str, str]:
    """`epochs=2` -> ("epochs", "2")."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set {text}: write it as KEY=VALUE")
    return key, value


def trials(plan: Plan) -> list[Trial]:
    """All trials in the order they are started; the first point is the comparison's baseline."""
    found: dict[str, Trial] = {}
    for name, settings in _points(plan):
        for seed in range(plan.seeds):
            trial = Trial(f"{name}-s{seed}", settings | {"seed": seed})
            found.setdefault(trial.name, trial)
    return list(found.values())


def _points(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    for variant, settings in (plan.variants or {"": {}}).items():
        for point in _sampled(plan) if plan.samples else _product(plan.grid):
            parts = [variant, *(f"{_last(key)}={_plain(value)}" for key, value in point.items())]
            yield "-".join(filter(None, parts)), settings | point


def _product(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _sampled(plan: Plan) -> Iterator[dict[str, Any]]:
    """The same points on every call, so that a sweep that was cut off goes on with them."""
    source = random.Random(plan.name)
    for _ in range(plan.samples or 0):
        yield {key: _drawn(source.choice(values), source) for key, values in plan.grid.items()}


def _range(value: Any) -> tuple[float, float] | None:
    found = RANGE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    try:
        low, high = float(found["low"]), float(found["high"])
    except ValueError:
        low = high = 0.0
    if not 0 < low < high < math.inf:
        raise InputError(f"range {shown(value)}: must go from a positive number to a larger one")
    return low, high


def _drawn(value: Any, source: random.Random) -> Any:
    ends = _range(value)
    if ends is None:
        return value
    low, high = map(math.log, ends)
    return float(f"{math.exp(source.uniform(low, high)):.3g}")


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(value: Any) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^\w.,+-]+", "", str(value))
