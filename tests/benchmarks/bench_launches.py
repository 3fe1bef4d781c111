"""Does each file in configs/accelerate launch what it says, and how long do checkpoints stop it?

    python -m tests.benchmarks.bench_launches               (about four minutes)

Starts the trainer by `accelerate launch --config_file configs/accelerate/X.yaml` for every X, with
the model of the paper (4.3 M parameters, averaged weights besides), on generated features of few,
short videos, and saves at every second step. A file for several GPUs gets as many processes as the
machine has GPUs; where it has none, two processes on processors take their place:
`--num_processes 2`, and DS_ACCELERATOR=cpu for DeepSpeed.

A row for each file: what the trainer says it got, the seconds of a step, the seconds that a
checkpoint stopped it (the median and the longest; the first one also meets its memory for the first
time), those that writing took beside the training (the baseline: what the pause would be, if it
were not written beside), and the bytes of a checkpoint.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from data_pipeline.annotations import Annotation
from tests.benchmarks.generated_features import FeatureConfig, generate

ROOT = Path(__file__).resolve().parents[2]
FILES = ("one_gpu", "cpu", "ddp", "zero1", "zero2", "zero3")
STEPS, EVERY = 16, 2


def make_features(folder: Path) -> None:
    rows = [
        Annotation(str(n), f"thing {n % 7} moves", f"v{n}", 40.0, ((8.0, 20.0),)) for n in range(32)
    ]
    generate(rows, folder, "train", FeatureConfig())


def launch(file: str, folder: Path, port: int) -> str:
    """Run the trainer under a file; what it printed."""
    flags = {
        "runs": folder,
        "name": file,
        "epochs": STEPS // 4,
        "data.train": folder / "train",
        "data.batch_size": 8,
        "model.queries": 30,
        "optim.averaging": 0.999,
        "checkpoints.every": EVERY,
        "tracking.every": 1,
        "tracking.mlflow": "false",
    }
    gpus = 0 if file == "cpu" else torch.cuda.device_count()
    processes = [] if file == "one_gpu" else ["--num_processes", str(gpus or 2)]
    on_cpus = {"DS_ACCELERATOR": "cpu"} if file.startswith("zero") and not gpus else {}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"),
            *("--config_file", f"configs/accelerate/{file}.yaml", *processes),
            *("--main_process_port", str(port), "trainer/main.py"),
            *(f"--{key}={value}" for key, value in flags.items()),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | on_cpus,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{file}: the launcher ended with {done.returncode}\n{done.stdout}")
    return done.stdout


def figures(folder: Path, said: str) -> list[str]:
    """A row of the table from what a run said and wrote."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    steps = [record["step_seconds"] for record in records if record["kind"] == "train"]
    saved = [record for record in records if record["kind"] == "checkpoint" and record["pause"]]
    pauses = [record["pause"] for record in saved]
    writing = [record["previous_write"] for record in saved[1:]]
    size = sum(file.stat().st_size for file in (folder / "checkpoints/latest").iterdir())
    got = re.search(r"\d+ process\(es\).*?, (\w+(?: ZeRO \d)?), (\w+),", said)
    assert got is not None, said
    return [
        f"{got[1]}, {got[2]}",
        str(len(steps)),
        f"{statistics.median(steps):.2f}",
        f"{statistics.median(pauses):.3f}",
        f"{max(pauses):.3f}",
        f"{statistics.median(writing):.3f}",
        f"{size / 2**20:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="*", default=FILES)
    options = parser.parse_args()
    table = Table("file", "got", "steps", "step, s", "pause, s", "longest", "write, s", "MiB")
    with tempfile.TemporaryDirectory(prefix="bench-launches-") as name:
        folder = Path(name)
        make_features(folder / "train")
        for number, file in enumerate(options.files):
            said = launch(file, folder, 29700 + number)
            table.add_row(file, *figures(folder / file, said))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
