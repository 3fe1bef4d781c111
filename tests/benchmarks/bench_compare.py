"""How long does it take to compare 200 runs of an MLflow experiment?

python -m tests.benchmarks.bench_compare

Makes an sqlite store with 200 finished runs of QVHighlights val's size (1550 queries, 17 figures,
80 training records each), then times the command, imports and page included, in a process of its
own. The baseline is the same command on two of the runs: start-up and imports, mostly.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np

from data_pipeline.annotations import write_annotations
from tests.benchmarks.bench_metrics import generated
from trainer.cli import dump_config
from trainer.config import Config
from trainer.metrics import Evaluation, evaluate
from trainer.metrics.storage import write_evaluation

RUNS, SEEDS = 200, 2
ROOT = Path(__file__).resolve().parents[2]


def make_store(folder: Path) -> list[Path]:
    """The folders of the runs."""
    folders = []
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    owner = client.create_experiment("bench", artifact_location=(folder / "kept").as_uri())
    rows, annotations = generated(1550)
    base = evaluate(rows, annotations)
    generator = np.random.default_rng(0)
    predictions = "".join(json.dumps(row) + "\n" for row in rows)
    for number in range(RUNS):
        run = client.create_run(owner, run_name=f"run-{number}").info
        kept = Path(run.artifact_uri.removeprefix("file://"))
        kept.mkdir(parents=True)
        better = {k: np.clip(v + generator.normal(0, 0.1), 0, 1) for k, v in base.per_query.items()}
        summary = {k: float(round(100 * np.nanmean(v), 2)) for k, v in better.items()}
        write_evaluation(
            kept / "per_query.json",
            Evaluation(base.dataset, summary, better, base.qids, base.vids),
        )
        write_annotations(kept / "annotations.jsonl", annotations)
        (kept / "predictions.jsonl").write_text(predictions)
        config = Config(name=f"run-{number}", seed=number % SEEDS, epochs=1 + number // SEEDS)
        (kept / "config.yaml").write_text(dump_config(config))
        origin = {"dataset": "qvhighlights", "report": "val", "seed": str(number % SEEDS)}
        result = {"metrics": summary, "trainable_parameters": number, "provenance": origin}
        (kept / "metrics.json").write_text(json.dumps(result))
        with open(kept / "metrics.jsonl", "w", encoding="utf-8") as file:
            for step in range(1, 81):
                record = {"kind": "train", "step": step, "epoch": step / 4, "time": 1.0 * step}
                file.write(json.dumps(record | {"loss": 9 / step, "pairs_per_second": 90.0}) + "\n")
        client.set_terminated(run.run_id)
        folders.append(kept)
    return folders


def time_command(folder: Path, *runs: str) -> tuple[float, float, float]:
    """Wall and processor seconds and peak MB of one comparison."""
    command = [sys.executable, "-m", "launch.compare", *runs, "--output", str(folder / "out")]
    where = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONPATH": str(ROOT)}
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | where, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, "the comparison failed"
    wall = time.perf_counter() - begin
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = make_store(folder)
        two = time_command(folder, str(folders[0]), str(folders[-1]))
        every = time_command(folder, "--experiment", "bench")
        for label, (wall, busy, memory) in (("2 runs", two), (f"{RUNS} runs", every)):
            print(f"{label}: {wall:.1f} s wall, {busy:.1f} s processor, {memory:.0f} MB")
        page = (folder / "out" / "comparison.html").stat().st_size / 1e6
        print(f"{every[1] / two[1]:.1f} x the processor time of 2 runs; page {page:.2f} MB")


if __name__ == "__main__":
    main()
