"""Compare finished runs: what differs, which is better, how sure that is, and on which queries.

    python -m launch.compare runs/first runs/second
    python -m launch.compare --experiment sdst --filter "params.epochs = '24'" --baseline first

A run is named by its folder, its MLflow run id or its MLflow name (store: MLFLOW_TRACKING_URI, else
./mlflow.db). The first run, or --baseline, is what the others are compared with; runs that differ
by the seed only become one row. Writes a page and tables (CSV, Markdown, LaTeX) into --output.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.errors import InputError
from data_pipeline.output import check_folder
from launch.mlflow_runs import Store
from trainer.cli import command, make_parser, parse, terminal
from trainer.comparison.compare import Comparison, Figure, compare
from trainer.comparison.page import write_comparison_page
from trainer.comparison.runs import COSTS, FinishedRun, read_run
from trainer.comparison.tables import write_tables
from trainer.metrics.bootstrap import LEVEL
from trainer.pictures.pages import quantity, signed

SHOWN = 20  # rows on the terminal
BESIDE = 6  # columns of settings on the terminal
ARTIFACTS = "comparison"


@command
def main(args: list[str] | None = None) -> None:
    """Read the command line, find the runs, compare, and show and write the result."""
    parser = make_parser(__doc__)
    parser.add_argument("run", nargs="*", type=str, help="folder, MLflow run id or run name")
    parser.add_argument("--experiment", type=str | None, help="all runs of this MLflow experiment")
    parser.add_argument("--filter", type=str, default="", help="MLflow's filter for --experiment")
    parser.add_argument("--baseline", type=str | None, help="the run to compare with")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/comparison"), help="folder of page and tables"
    )
    parser.add_argument(
        "--log-to", type=str | None, help="keep page and tables with this MLflow run"
    )
    given = parse(parser, args)
    if bool(given.run) == bool(given.experiment):
        raise InputError("name runs to compare, or an MLflow experiment with --experiment")
    if given.filter and not given.experiment:
        raise InputError("--filter is for --experiment; leave it out")
    check_folder(given.output)
    store = Store()
    runs, baseline, notes = gather(given, store)
    paths = publish(compare(runs, baseline, notes), given.output)
    if given.log_to:
        store.log(store.find(given.log_to), paths, ARTIFACTS)


def publish(comparison: Comparison, folder: Path) -> list[Path]:
    """Print the comparison and write its page and tables into `folder`; returns their paths."""
    show(comparison, terminal())
    page = write_comparison_page(comparison, folder / "comparison.html")
    paths = [page, *write_tables(comparison, folder)]
    print("\n".join(map(str, paths)))
    return paths


# Which runs


def gather(given: Any, store: Store) -> tuple[list[FinishedRun], FinishedRun, list[str]]:
    """The runs that the command line names, the baseline among them, and notes on who is left out.

    Of an experiment, unfinished runs are left out; a run that was named must be finished.
    """
    notes: list[str] = []
    if given.experiment:
        runs, notes = read_finished(store.of_experiment(given.experiment, given.filter), store)
        if not runs:
            raise InputError(f"{given.experiment}: no finished run; {'; '.join(notes) or 'none'}")
    else:
        runs = [read_named(name, store) for name in given.run]
    if given.baseline is None:
        return runs, runs[0], notes
    for run in runs:
        if given.baseline in (run.name, run.source):
            return runs, run, notes
    baseline = read_named(given.baseline, store)
    return [baseline, *runs], baseline, notes


def read_named(name: str, store: Store) -> FinishedRun:
    """The run in a folder, or else of MLflow."""
    if Path(name).is_dir():
        return read_run(Path(name), Path(name).resolve().name, name)
    run = store.find(name)
    return read_run(store.folders([run])[0], run.info.run_name, run.info.run_id)


def read_finished(found: Sequence[Any], store: Store) -> tuple[list[FinishedRun], list[str]]:
    """The runs of MLflow that have results, and a note on those that have none."""
    runs, without = [], []
    for run, folder in zip(found, store.folders(found), strict=True):
        if (folder / "metrics.json").is_file():
            runs.append(read_run(folder, run.info.run_name, run.info.run_id))
        else:
            without.append(f"{run.info.run_name} ({run.info.status.lower()})")
    return runs, [f"left out, without results: {', '.join(without)}"] if without else []


# The terminal


def show(comparison: Comparison, console: Console) -> None:
    """Print what differs, the figures, the differences, the costs and what was measured."""
    for warning in comparison.warnings:
        console.print(Text(f" {warning} ", style="bold white on red"), soft_wrap=True)
    groups = comparison.groups[:SHOWN]
    names = [group.name for group in groups]
    if comparison.parameters:
        _print_columns(console, "settings that differ", names, comparison.parameters)
    table = _table(
        f"metrics, percent, with {LEVEL:.0%} intervals", ("", *comparison.metrics), right=True
    )
    for group in groups:
        seeds = f" × {len(group.runs)}" if len(group.runs) > 1 else ""
        table.add_row(
            f"{group.name}{seeds}", *(_score(group.figures[name]) for name in comparison.metrics)
        )
    for name, numbers in comparison.references.items():
        scores = (f"{numbers[metric]:.2f}" for metric in comparison.metrics)
        table.add_row(f"({name})", *scores, style="dim")
    console.print(table)
    if any(f.difference for group in groups for f in group.figures.values()):
        table = _table(
            f"difference to {comparison.baseline.name}; bold: clear of zero"
            + "".join(f"\n{caveat}" for caveat in comparison.caveats),
            ("", *comparison.metrics),
            right=True,
        )
        for group in groups[1:]:
            gaps = [_difference(group.figures[name]) for name in comparison.metrics]
            table.add_row(group.name, *gaps)
        console.print(table)
    costs = [name for name in COSTS if any(name in group.costs for group in groups)]
    if costs:
        table = _table("costs", ("", *costs), right=True)
        for group in groups:
            cells = [quantity(group.costs[c]) if c in group.costs else "–" for c in costs]
            table.add_row(group.name, *cells)
        console.print(table)
    if comparison.provenance:
        _print_columns(console, "provenance that differs", names, comparison.provenance)
    for key, value in comparison.shared.items():
        console.print(f"{key}: {value}", soft_wrap=True)
    hidden = len(comparison.groups) - len(groups)
    if hidden:
        console.print(f"and {hidden} more; the page and the tables have all of them")
    for note in comparison.notes:
        console.print(f"note: {note}", soft_wrap=True)


def _table(title: str, heads: Sequence[str], right: bool = False) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if right and index else "left", overflow="fold")
    return table


def _print_columns(
    console: Console, title: str, names: Sequence[str], columns: dict[str, tuple[str, ...]]
) -> None:
    """One row a setting while the runs fit beside each other, else one row a run."""
    if len(names) <= BESIDE:
        table = _table(title, ("", *names))
        for key, values in columns.items():
            table.add_row(key, *values[: len(names)])
    else:
        shown = list(columns)[:BESIDE]
        more = f", {len(shown)} of {len(columns)}" if len(shown) < len(columns) else ""
        table = _table(title + more, ("", *shown))
        for index, name in enumerate(names):
            table.add_row(name, *(columns[key][index] for key in shown))
    console.print(table)


def _score(figure: Figure) -> Text:
    deviation = "" if figure.deviation is None else f"\n± {figure.deviation:.2f}"
    text = Text(f"{figure.value:.2f}{deviation}")
    if figure.interval is not None:
        low, high = figure.interval
        text.append(f"\n{low:.1f}–{high:.1f}", style="dim")
    return text


def _difference(figure: Figure) -> Text:
    gap = figure.difference
    if gap is None:
        return Text("–")
    low, high = gap.interval
    text = f"{signed(gap.value, plus=True)}\n{signed(low, 1, True)}…{signed(high, 1, True)}"
    return Text(text, style="bold" if gap.clear else "dim")


if __name__ == "__main__":
    sys.exit(main())
