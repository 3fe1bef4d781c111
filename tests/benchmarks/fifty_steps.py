"""Do the configurations of the published data sets train, score and dump as they stand?

    python -m tests.benchmarks.fifty_steps --annotations ../shared/annotations

For each of QVHighlights, Charades-STA and TACoS: generated features in the encoders' true widths
over some of the real videos' rows, then `accelerate launch trainer/main.py --config
configs/<set>/sdst.yaml` for some 50 steps of the configured batch, its evaluations included, then
`--checkpoint … --eval --dump`. Only paths, epochs and MLflow differ from the file. What was dumped
is judged by `launch.evaluate`. Prints one row of figures for each set; ends with 1 if one failed.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from data_pipeline.annotations import write_annotations
from data_pipeline.features.shards import FeatureSet
from tests.benchmarks import generated_features

ROOT = Path(__file__).resolve().parents[2]
CONSOLE = Console(width=160)


@dataclass(frozen=True)
class Trial:
    """A data set's files by split, and how many videos of each, and epochs, make 50 steps."""

    files: dict[str, str]
    videos: dict[str, int]
    epochs: int
    roles: dict[str, str]
    clip_length: float = 2.0


TRIALS = {
    "qvhighlights": Trial(
        {split: f"highlight_{split}_release" for split in ("train", "val", "test")},
        {"train": 1290, "val": 120, "test": 60},
        5,
        {"selection": "val", "report": "val"},
    ),
    "charades": Trial(
        {split: f"charades_{split}" for split in ("train", "test")},
        {"train": 145, "test": 60},
        5,
        {"report": "test"},
        clip_length=1.0,
    ),
    "tacos": Trial(
        {split: f"tacos_{split}" for split in ("train", "val", "test")},
        {"train": 13, "val": 2, "test": 2},
        1,
        {"selection": "val", "report": "test"},
    ),
}


def make_features(trial: Trial, annotations: Path, folder: Path) -> None:
    for split, file in trial.files.items():
        flags = {
            "annotations": annotations / f"{file}.jsonl",
            "output": folder / split,
            "split": split,
            "videos": trial.videos[split],
            "features.clip_length": trial.clip_length,
        }
        if generated_features.main([f"--{key}={value}" for key, value in flags.items()]):
            raise SystemExit(1)


def launch(name: str, flags: dict[str, Any], threads: int, *more: str) -> tuple[float, float]:
    """Run the trainer as a user does; seconds, and the peak memory of its processes in GB."""
    words = [
        *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"),
        *("--config_file", "configs/accelerate/one_gpu.yaml"),
        *("--num_cpu_threads_per_process", str(threads)),
        *("trainer/main.py", "--config", f"configs/{name}/sdst.yaml"),
        *(f"--{key}={value}" for key, value in flags.items()),
        *more,
    ]
    began, peak = time.monotonic(), 0
    process = psutil.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(process))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{name}: the trainer ended with {process.returncode}")
    return time.monotonic() - began, peak / 1e9


def memory(process: psutil.Popen) -> int:
    """Proportional set size of a process and all that it started, in bytes."""
    total = 0
    try:
        for member in (process, *process.children(recursive=True)):
            total += member.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass
    return total


def dump(name: str, trial: Trial, flags: dict[str, Any], threads: int, run: Path) -> str:
    """Evaluate the kept model with --dump, and let `launch.evaluate` judge what was written."""
    data, folder = run.parent, run / "evaluation"
    splits = ["val", "test"] if "val" in trial.files else ["test"]
    roles = zip(["selection", "report"][-len(splits) :], splits, strict=True)
    given = flags | {f"data.{role}": data / split for role, split in roles}
    launch(name, given, threads, "--checkpoint", str(run / "model"), "--eval", "--dump")
    truths = {split: write_truth(data / split) for split in splits}
    if name == "qvhighlights":
        judge("--check", folder / "submission.zip", "--annotations", *truths.values())
        dumped = {split: folder / f"hl_{split}_submission.jsonl" for split in splits}
    else:
        dumped = {split: folder / split / "predictions.jsonl" for split in splits}
    said = []
    for split, file in dumped.items():
        line = f"{file.name} {len(file.read_text().splitlines())}"
        scores, again = folder / split / "metrics.json", folder / f"{split}.json"
        if scores.is_file():
            judge("--predictions", file, "--annotations", truths[split], "--dataset", name,
                  "--json", again)  # fmt: skip
            found, told = (json.loads(path.read_text())["metrics"] for path in (again, scores))
            if found != told:
                raise SystemExit(f"{file}: launch.evaluate does not find the trainer's scores")
            line += " (the trainer's scores)"
        said.append(line)
    return ", ".join(said)


def write_truth(features: Path) -> Path:
    """The annotations that a set of features holds, as JSONL beside it."""
    opened, path = FeatureSet(features), features.with_suffix(".jsonl")
    samples = (opened.read(index) for index in range(len(opened.samples)))
    write_annotations(path, [query.annotation for sample in samples for query in sample.queries])
    return path


def judge(*words: object) -> None:
    command = [sys.executable, "-m", "launch.evaluate", *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def attempt(name: str, annotations: Path, folder: Path, threads: int) -> list[str]:
    """Train, evaluate and dump one data set; its row of the table."""
    trial = TRIALS[name]
    make_features(trial, annotations, folder)
    flags: dict[str, Any] = {
        "runs": folder,
        "name": "run",
        "epochs": trial.epochs,
        "data.train": folder / "train",
        "tracking.every": 1,
        "tracking.mlflow": "false",
    }
    roles = {f"data.{role}": folder / split for role, split in trial.roles.items()}
    seconds, peak = launch(name, flags | roles, threads)
    run = folder / "run"
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    steps = [record for record in records if record["kind"] == "train"]
    losses = [record["loss"] for record in steps]
    dumped = dump(name, trial, flags, threads, run)
    result = json.loads((run / "metrics.json").read_text())
    evaluations = sum(record["kind"] == "eval" for record in records)
    return [
        name,
        str(len(steps)),
        f"{statistics.mean(losses[:5]):.2f} → {statistics.mean(losses[-5:]):.2f}",
        f"{statistics.median(record['pairs_per_second'] for record in steps):.1f}",
        f"{statistics.median(record['data_wait_share'] for record in steps):.1%}",
        f"{seconds:.0f}",
        f"{peak:.2f}",
        f"{evaluations} + 1, {result['provenance']['queries']} queries",
        dumped,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--threads", type=int, default=psutil.cpu_count())
    options = parser.parse_args()
    table = Table("", "steps", "loss, 5 steps", "pairs/s", "waits", "s", "GB", "scored", "dumped")
    folder = Path(tempfile.mkdtemp(prefix="fifty-steps-"))
    try:
        for name in options.only:
            (folder / name).mkdir()
            annotations = options.annotations.resolve() / name
            table.add_row(*attempt(name, annotations, folder / name, options.threads))
    finally:
        shutil.rmtree(folder)
        CONSOLE.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
