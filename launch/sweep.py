"""Train a grid of settings, or samples of it, on Ray, and compare the results.

    python -m launch.sweep --config C.yaml --grid model.sparse_attention=rdsa,cross --seeds 3
    python -m launch.sweep configs/ablations/attention.yaml

Each trial is a run in <runs>/<name>/, nested under one MLflow run. Trials that fail are reported
and the rest goes on. The same command goes on after a kill: finished trials stay, begun ones
resume. It ends with a comparison of all finished trials, in <runs>/<name>/comparison.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError, told
from data_pipeline.output import check_folder, make_folder, write_text
from data_pipeline.untrusted import read_json, reading
from launch import compare
from launch.mlflow_runs import Store
from launch.sweep_plan import Plan, Trial, parse_grid, parse_setting, read_plan, trials
from trainer.cli import command, make_parser, parse, parse_config, terminal
from trainer.config import Config

TRAINER = Path(__file__).resolve().parent.parent / "trainer" / "main.py"
TRIALS_FAILED = 1
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
    given = parse(parser, args)
    plan = make_plan(given)
    folder = given.runs / plan.name
    flags = {
        trial.name: trainer_flags(plan, trial, folder, given.set or []) for trial in trials(plan)
    }
    # A setting that the trainer would refuse is told once, before anything is trained.
    configs = [parse_config(Config, line) for line in flags.values()]
    check_folder(folder)
    parent = open_parent(plan, folder) if configs[0].tracking.mlflow else None
    from data_pipeline.extraction.ray_session import ray_session

    with ray_session():
        failed = train_all(flags, folder, parent, given)
    finished = [folder / name for name in flags if is_finished(folder / name)]
    if finished:
        log = ["--log-to", parent] if parent else []
        output = folder / "comparison"
        compare.main([*map(str, finished), "--output", str(output), *log])
    if parent:
        Store().end(parent, "FAILED" if failed else "FINISHED")
    for name, reason in failed.items():
        CONSOLE.print(f"failed: {name}: {reason}", style="bold red", soft_wrap=True)
    CONSOLE.print(f"{len(finished)} of {len(flags)} trials are finished", highlight=False)
    return TRIALS_FAILED if failed else 0


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


def open_parent(plan: Plan, folder: Path) -> str:
    """The MLflow run that the trials are nested under: that of the first call, or a new one."""
    state = folder / "sweep.json"
    if state.is_file():
        with reading(state, "remove it: the sweep then gets a new run in MLflow"):
            return str(read_json(state)["mlflow_run"])
    parent = Store().create(plan.name, plan.name)
    write_text(state, json.dumps({"mlflow_run": parent}))
    return parent


def train_all(
    flags: dict[str, list[str]], folder: Path, parent: str | None, given: Any
) -> dict[str, str]:
    """Run every trial that is not finished; name -> reason of those that failed."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": str(max(1, int(given.cpus)))}
    if parent:
        environment["MLFLOW_PARENT_RUN_ID"] = parent
    import ray

    remote = ray.remote(run_trial).options(num_cpus=given.cpus, num_gpus=given.gpus, max_retries=0)
    running = {}
    for name, line in flags.items():
        if is_finished(folder / name):
            CONSOLE.print(f"finished before: {name}", highlight=False)
            continue
        log = (folder / "logs" / f"{name}.log").absolute()
        make_folder(log.parent)
        running[remote.remote(line, environment, os.getcwd(), str(log))] = (name, log)
    failed: dict[str, str] = {}
    while running:
        [done], _ = ray.wait(list(running))
        name, log = running.pop(done)
        try:
            status = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            failed[name] = told(error.cause)
            continue
        except ray.exceptions.RayError as error:  # its worker or its machine was lost
            failed[name] = str(error).partition("\n")[0]
            continue
        if status:
            failed[name] = f"status {status}, {_last_line(log)} ({log})"
        CONSOLE.print(f"{'failed' if status else 'trained'}: {name}", highlight=False)
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
