"""Train a grid of settings, or samples of it, on Ray, and compare the results.

    python -m launch.sweep --config C.yaml --grid model.sparse_attention=rdsa,cross --seeds 3
    python -m launch.sweep configs/ablations/attention.yaml

Each trial is a run in <runs>/<name>/, nested under one MLflow run. Trials that fail are reported
and the rest goes on. The same command goes on after a kill: finished trials stay, begun ones
resume. It ends with a comparison of all finished trials, in <runs>/<name>/comparison; or, for a
plan of parts such as configs/tvsum/folds.yaml, with their common score, in <runs>/<name>/pooled.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from data_pipeline.errors import InputError, told
from data_pipeline.holding import LOCK, lock
from data_pipeline.output import check_folder, make_folder, write_text
from data_pipeline.untrusted import read_json, reading
from launch import compare
from launch.mlflow_runs import Store
from launch.node import become
from launch.sweeping.plan import Plan, Trial, parse_grid, parse_setting, read_plan, trials
from launch.sweeping.pooled import pool, tell
from launch.sweeping.progress import SweepProgress
from trainer.cli import command, make_parser, parse, parse_config, terminal
from trainer.comparison.compare import Group
from trainer.comparison.compare import compare as compare_runs
from trainer.comparison.runs import read_run
from trainer.config import Config

TRAINER = Path(__file__).resolve().parent.parent / "trainer" / "main.py"
TRIALS_FAILED = 1
LOOK = 1.0  # seconds between two looks at how far the trials are
PARENT_DIES = 1  # PR_SET_PDEATHSIG of prctl(2)
CONSOLE = terminal()


@command
def main(args: list[str] | None = None) -> int:
    """Plan, train what is not finished, compare. Returns 1 if a trial failed."""
    parser = make_parser(__doc__)
    parser.add_argument("plan", nargs="?", type=Path | None, help="YAML file with the fields below")
    parser.add_argument("--config", type=Path | None, help="experiment that all trials share")
    parser.add_argument("--name", type=str | None, help="of the sweep")
    parser.add_argument(
        "--grid", type=str, action="append", help="KEY=VALUE,VALUE; may be repeated"
    )
    parser.add_argument("--seeds", type=int | None, help="seeds for every point")
    parser.add_argument("--samples", type=int | None, help="draw so many points of the grid")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--cpus", type=float, default=1, help="cores of a trial")
    parser.add_argument(
        "--gpus", type=float, default=0, help="GPUs of a trial, 0.5 for half of one"
    )
    parser.add_argument("--set", type=str, action="append", help="KEY=VALUE for every trial")
    parser.add_argument(
        "--list", action="store_true", help="print the trials' names, one a line, and train none"
    )
    parser.add_argument(
        "--trial", type=int | None, help="train this line of --list alone, from 0, without Ray"
    )
    given = parse(parser, args)
    plan = make_plan(given)
    folder = given.runs / plan.name
    flags = {
        trial.name: trainer_flags(plan, trial, folder, given.set or []) for trial in trials(plan)
    }
    # A setting that the trainer would refuse is told once, before anything is trained.
    configs = [parse_config(Config, line) for line in flags.values()]
    if given.list:
        print("\n".join(flags))
        return 0
    check_folder(folder)
    one = None if given.trial is None else chosen(flags, given.trial)
    parent = open_parent(plan, folder) if configs[0].tracking.mlflow else None
    if one is not None:
        become_trial(one, parent)
    epochs = {config.name: config.epochs for config in configs}
    failed = train_all(flags, epochs, folder, parent, given)
    finished = [folder / name for name in flags if is_finished(folder / name)]
    try:
        if plan.pool and not failed:
            tell(pool(finished, folder / "pooled"), folder / "pooled")
        elif finished and not plan.pool:
            conclude(finished, folder / "comparison", parent)
    finally:
        if parent:
            Store().end(parent, "FAILED" if failed else "FINISHED")
    for name, reason in failed.items():
        CONSOLE.print(f"failed: {name}: {reason}", style="bold red", soft_wrap=True)
    CONSOLE.print(f"{len(finished)} of {len(flags)} trials are finished", highlight=False)
    return TRIALS_FAILED if failed else 0


def conclude(finished: list[Path], output: Path, parent: str | None) -> None:
    """Compare the finished trials, name the best one, and keep both with the sweep's MLflow run."""
    runs = [read_run(folder, folder.name, str(folder)) for folder in finished]
    comparison = compare_runs(runs, runs[0])
    paths = compare.publish(comparison, output)
    metric = comparison.metrics[0]
    best = max(comparison.groups, key=lambda group: group.figures[metric].value)
    CONSOLE.print(f"best: {in_figures(best, metric, comparison.caveats)}", soft_wrap=True)
    if parent:
        store = Store()
        store.log(store.find(parent), paths, compare.ARTIFACTS)
        store.describe(
            parent,
            {"best_trial": best.name, "mlflow.note.content": f"Best: {in_figures(best, metric)}."},
            {f"best/{name}": figure.value for name, figure in best.figures.items()},
        )


def in_figures(group: Group, metric: str, caveats: tuple[str, ...] = ()) -> str:
    """A group's name and its figure, with the interval."""
    figure = group.figures[metric]
    seeds = f" × {len(group.runs)}" if len(group.runs) > 1 else ""
    text = f"{group.name}{seeds}, {metric} {figure.value:.2f}"
    if figure.interval is not None:
        text += f" [{figure.interval.low:.1f}, {figure.interval.high:.1f}]"
    return text + "".join(f" ({caveat})" for caveat in caveats)


def make_plan(given: Any) -> Plan:
    """The plan of the file, overridden by the flags."""
    values = read_plan(given.plan) if given.plan else {}
    for name in ("config", "name", "seeds", "samples"):
        if getattr(given, name) is not None:
            values[name] = getattr(given, name)
    if given.grid:
        values["grid"] = dict(parse_grid(text) for text in given.grid)
    if "config" not in values:
        raise InputError("--config is missing: name the experiment that all trials share")
    values.setdefault("name", f"sweep-{values['config'].stem}")
    return Plan(**values)


def trainer_flags(plan: Plan, trial: Trial, folder: Path, shared: list[str]) -> list[str]:
    """The trainer's command line for a trial; later flags win."""
    settings = {"tracking.experiment": plan.name} | dict(parse_setting(text) for text in shared)
    settings |= trial.settings | {"runs": folder, "name": trial.name}
    return ["--config", str(plan.config), *(f"--{k}={_flag(v)}" for k, v in settings.items())]


def is_finished(run: Path) -> bool:
    """Whether a run's folder has its scores."""
    return (run / "metrics.json").is_file()


def chosen(flags: dict[str, list[str]], number: int) -> list[str]:
    """The trainer's command line for the trial of this number."""
    if not 0 <= number < len(flags):
        raise InputError(
            f"--trial {number}: the sweep has {len(flags)} trials, 0 to {len(flags) - 1}; "
            "--list names them"
        )
    return list(flags.values())[number]


def become_trial(flags: list[str], parent: str | None) -> NoReturn:
    """Turn this process into the training of one trial, so that signals reach it directly."""
    if parent:
        os.environ["MLFLOW_PARENT_RUN_ID"] = parent
    become([str(TRAINER), *flags])


def open_parent(plan: Plan, folder: Path) -> str:
    """The MLflow run that the trials are nested under: that of the first call, or a new one."""
    make_folder(folder)
    state = folder / "sweep.json"
    with lock(folder / LOCK, wait=True):  # of several processes of one sweep, one makes it
        if state.is_file():
            with reading(state, "remove it: the sweep then gets a new run in MLflow"):
                return str(read_json(state)["mlflow_run"])
        parent = Store().create(plan.name, plan.name, described(plan))
        write_text(state, json.dumps({"mlflow_run": parent}))
        return parent


def described(plan: Plan) -> dict[str, str]:
    """The plan as parameters of the sweep's MLflow run."""
    varied = {f"grid.{key}": ", ".join(map(str, values)) for key, values in plan.grid.items()}
    varied |= {f"variants.{name}": str(settings) for name, settings in plan.variants.items()}
    samples = {} if plan.samples is None else {"samples": str(plan.samples)}
    return {"config": str(plan.config), "seeds": str(plan.seeds), **samples, **varied}


def train_all(
    flags: dict[str, list[str]],
    epochs: dict[str, int],
    folder: Path,
    parent: str | None,
    given: Any,
) -> dict[str, str]:
    """Run every trial that is not finished, for its `epochs`, and show how far each is.

    Returns name -> reason of those that failed.
    """
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(max(1, int(given.cpus)))}
    if parent:
        environment["MLFLOW_PARENT_RUN_ID"] = parent
    left = {}
    for name, line in flags.items():
        if is_finished(folder / name):
            CONSOLE.print(f"finished before: {name}", highlight=False)
        else:
            left[name] = line
    if not left:
        return {}
    from data_pipeline.extraction.ray_session import ray_session

    with ray_session():
        return train_on_ray(left, environment, epochs, folder, given)


def train_on_ray(
    flags: dict[str, list[str]],
    environment: dict[str, str],
    epochs: dict[str, int],
    folder: Path,
    given: Any,
) -> dict[str, str]:
    """Run these trials on the Ray that is there; name -> reason of those that failed."""
    import ray

    remote = ray.remote(run_trial).options(num_cpus=given.cpus, num_gpus=given.gpus, max_retries=0)
    running = {}
    for name, line in flags.items():
        log = (folder / "logs" / f"{name}.log").absolute()
        make_folder(log.parent)
        running[remote.remote(line, environment, os.getcwd(), str(log))] = (name, log)
    failed: dict[str, str] = {}
    with SweepProgress(CONSOLE, folder, epochs) as progress:
        while running:
            ended, _ = ray.wait(list(running), timeout=LOOK)
            progress.look(name for name, _ in running.values())
            for done in ended:
                name, log = running.pop(done)
                try:
                    status = ray.get(done)
                    if status:
                        failed[name] = f"status {status}, {_last_line(log)} ({log})"
                except ray.exceptions.RayTaskError as error:
                    failed[name] = told(error.cause)
                except ray.exceptions.RayError as error:  # its worker or its machine was lost
                    failed[name] = str(error).partition("\n")[0]
                progress.end(name, "failed" if name in failed else "trained")
    return failed


def run_trial(flags: list[str], environment: dict[str, str], place: str, log: str) -> int:
    """Train one run in a process of its own, which dies with this one; its exit status."""

    def die_with_parent() -> None:
        ctypes.CDLL(None).prctl(PARENT_DIES, signal.SIGKILL)

    # Ray tells its tasks which GPUs are theirs by this variable.
    devices = {k: v for k, v in os.environ.items() if k == "CUDA_VISIBLE_DEVICES"}
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.run(
            [sys.executable, str(TRAINER), *flags],
            cwd=place,
            env=environment | devices,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
            check=False,
        ).returncode


def _flag(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8").strip().splitlines() if log.is_file() else []
    return lines[-1].strip() if lines else "no output"


if __name__ == "__main__":
    sys.exit(main())
