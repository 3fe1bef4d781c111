"""The whole main job on one machine: videos, features, a trained, evaluated, tracked model."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table

from launch import extract
from trainer.cli import command, parse_config, terminal
from trainer.tracking.tracking import redact, store_uri

ROOT = Path(__file__).resolve().parent.parent
ROLES = {"train": "train", "selection": "dev", "report": "val"}
"""What the trainer uses each split of the generated data for."""
CONSOLE = terminal()


@dataclass(frozen=True)
class QuickstartConfig:
    """The quick start.

    Attributes:
        data: folder of the generated videos, annotations and features
        runs: folder of the run
        name: the run's name
        videos: how many videos to make
        seed: of the generated data and of the training
        workers: processes that make and encode videos; default: one a core
        train: further flags for the trainer, such as `--epochs 2`
    """

    data: Path = Path("data/quickstart")
    runs: Path = Path("runs")
    name: str = "quickstart"
    videos: int = 280
    seed: int = 0
    workers: int | None = None
    train: tuple[str, ...] = ()


@command
def main(args: list[str] | None = None) -> None:
    """Do what is missing of the four stages, then say how long each took and where to look."""
    config = parse_config(QuickstartConfig, args, __doc__)
    stages: list[tuple[str, Callable[[QuickstartConfig], None]]] = [
        ("data", make_data),
        ("extraction", extract_features),
        ("training, evaluation, report", train),
    ]
    times = []
    for number, (name, stage) in enumerate(stages, start=1):
        CONSOLE.rule(f"{number}/{len(stages)} {name}", align="left")
        begin = time.perf_counter()
        stage(config)
        times.append((name, time.perf_counter() - begin))
    close(config, times)


def make_data(config: QuickstartConfig) -> None:
    """Videos and annotation files; what is there already is kept."""
    from data_pipeline.quickstart.generate import generate

    generate(config.data, config.videos, config.seed, config.workers)


def extract_features(config: QuickstartConfig) -> None:
    """Feature shards of every split by the extraction command, all on one Ray."""
    folders = [config.data / "features" / split for split in ROLES.values()]
    complete = all((folder / "manifest.json").is_file() for folder in folders)
    from data_pipeline.extraction.ray_session import ray_session

    with nullcontext() if complete else ray_session(config.workers):
        for split in ROLES.values():
            status = extract.main(
                [
                    *("--config", str(ROOT / "configs/extract/quickstart.yaml")),
                    *("--annotations", str(config.data / f"{split}.jsonl")),
                    *("--videos", str(config.data / "videos")),
                    *("--output", str(config.data / "features" / split)),
                    *("--split", split),
                ]
            )
            if status:
                raise SystemExit(status)


def train(config: QuickstartConfig) -> None:
    """The trainer as a user starts it; it resumes, and does nothing once the run is finished."""
    run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.accelerate_cli",
            "launch",
            *("--quiet", "--num_processes", "1", "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            # The launcher would otherwise give the process one core.
            *("--num_cpu_threads_per_process", str(config.workers or os.cpu_count() or 1)),
            str(ROOT / "trainer/main.py"),
            *("--config", str(ROOT / "configs/quickstart.yaml")),
            *("--name", config.name, "--runs", str(config.runs)),
            *("--seed", str(config.seed)),
            *(f"--data.{role}={config.data / 'features' / split}" for role, split in ROLES.items()),
            *("--videos", str(config.data / "videos")),
            *config.train,
        ]
    )


def run(words: Sequence[str]) -> None:
    """Run a launcher as a user would; a failure is ours, said once by what it launched.

    Ctrl-C reaches what it launched, once, through us, and we leave after that has: the launcher
    itself would leave with a trace before the training is saved.
    """
    launcher = psutil.Popen(words, start_new_session=True)
    try:
        status = launcher.wait()
    except BaseException:
        launched = launcher.children()
        for process in launched:
            process.send_signal(signal.SIGINT)
        if not launched:
            launcher.terminate()
        launcher.wait()
        raise
    if status:
        raise SystemExit(status)


def close(config: QuickstartConfig, times: Sequence[tuple[str, float]]) -> None:
    """The time of each stage, and where to look and what to try next."""
    table = Table("stage", "seconds", box=None)
    for name, seconds in [*times, ("everything", sum(seconds for _, seconds in times))]:
        table.add_row(name, f"{seconds:.1f}")
    CONSOLE.print(table)
    folder = config.runs / config.name
    video = min((config.data / "videos").glob("*.mp4"))
    sentence = shlex.quote("a red circle drifts to the left")
    environment = os.path.relpath(Path(sys.executable).parent)
    for line in (
        f"\nThe report:      {folder / 'report.html'}",
        f"Runs in MLflow:  {environment}/mlflow ui --backend-store-uri {redact(store_uri())}",
        f"Ask any video:   {environment}/python -m launch.predict {video} {sentence}",
    ):  # not wrapped: a command is there to be copied
        CONSOLE.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
