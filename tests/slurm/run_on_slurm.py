"""Run the jobs of launch/slurm on a real Slurm of three nodes, on this machine.

    python -m tests.slurm.run_on_slurm --work DIR [what …]

    pipeline      pipeline.sh with the quick start's small form, three extractions on one host
    extraction    on two nodes, of which one is killed, then the one with Ray's head; the same bytes
    undisturbed signalled limit preempted drained killed
                  training on two nodes: told to stop, at its time limit, preempted by a job of
                  higher priority, with a node drained, with a node killed; the same weights
    cancelled     a training that stays ended, and goes on when it is submitted again
    wrong         one with a mistaken setting: it must not be tried again
    sweep         an array of two trials, one of which is told to stop, and their comparison

In this order, all by default; the later ones use the features that `pipeline` made. Needs root, the
`ip` command and Debian's packages slurm-wlm and munge; leaves nothing running.
"""

import argparse
import hashlib
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.slurm.jobs import SCRIPTS, Job, Training, disturbed
from tests.slurm.slurm import ROOT, Slurm, missing

DISTURBANCES = ("undisturbed", "signalled", "limit", "preempted", "drained", "killed")
WHAT = ("pipeline", "extraction", *DISTURBANCES, "cancelled", "wrong", "sweep")
SPLITS = {"train": "train", "selection": "dev", "report": "val"}


def main() -> int:
    """Do what is asked for, and print a line of JSON about each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for all files and logs")
    parser.add_argument("--videos", type=int, default=20, help="videos of the quick start")
    parser.add_argument("--epochs", type=int, default=40, help="of a training that is disturbed")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of one wait")
    parser.add_argument("what", nargs="*", default=WHAT, help=", ".join(WHAT))
    given = parser.parse_args()
    if unknown := set(given.what) - set(WHAT):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(WHAT)}")
    if why := missing():
        raise SystemExit(f"error: {why}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the daemons end with us
    work = given.work.resolve()
    make_videos(work / "data", given.videos)
    weights = set()
    with Slurm(work / "slurm", nodes=3) as slurm:
        for what in [each for each in WHAT if each in given.what]:
            began = time.monotonic()
            if what in DISTURBANCES:
                told = train(slurm, what, given.epochs, given.limit)
                weights.add(told["weights"])
            else:
                told = OTHERS[what](slurm, given.limit)
            told["seconds"] = round(time.monotonic() - began, 1)
            print(json.dumps({"what": what, **told}), flush=True)
    if len(weights) > 1:
        print("THE WEIGHTS DIFFER")
        return 1
    return 0


def make_videos(data: Path, videos: int) -> None:
    from data_pipeline.quickstart.generate import generate

    generate(data, videos, workers=2)


def features_of(slurm: Slurm) -> Path:
    return slurm.work.parent / "features"


def flags(slurm: Slurm) -> list[str]:
    """The small form: of the model, and of what is recorded."""
    return [
        *("--data.batch_size=16", "--model.width=64", "--checkpoints.every=3", "--videos=null"),
        *("--tracking.mlflow=false", "--tracking.every=1", "--timeout=60", "--eval.every=1000"),
    ]


def training_flags(slurm: Slurm, epochs: int) -> list[str]:
    sets = [f"--data.{role}={features_of(slurm)}/{split}" for role, split in SPLITS.items()]
    config = f"--config={ROOT}/configs/quickstart.yaml"
    return [config, *sets, *flags(slurm), f"--epochs={epochs}"]


def files(folder: Path) -> dict[str, str]:
    """Hashes of a feature set's files, less those that tell times."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
        if path.name not in ("summary.json", ".lock")
    }


def pipeline(slurm: Slurm, limit: float) -> dict[str, Any]:
    """Extraction of three splits on one host at the same time, training on two, evaluation."""
    for name in ("features", "runs/pipeline"):
        shutil.rmtree(slurm.work.parent / name, ignore_errors=True)
    shutil.rmtree(slurm.work / "runs" / "pipeline", ignore_errors=True)
    log = f"--output={slurm.work}/pipeline-%j.out"
    said = slurm.run(
        str(SCRIPTS / "pipeline.sh"), *flags(slurm), "--epochs=2",
        ANNOTATIONS=str(slurm.work.parent / "data"), FEATURES=str(features_of(slurm)),
        RUNS=str(slurm.work / "runs"), RUN="pipeline",
        EXTRACT_FLAGS=f"--nodelist=n1 --gpus-per-node=0 --cpus-per-task=2 {log}",
        TRAIN_FLAGS=f"--nodes=2 --cpus-per-task=2 {log}",
        EVALUATE_FLAGS=f"--cpus-per-task=2 {log}",
    )  # fmt: skip
    numbers = [line.rpartition(" ")[2] for line in said.splitlines()]
    jobs = [Job(slurm, number, slurm.work / f"pipeline-{number}.out") for number in numbers]
    at_once = 0
    while jobs[-1].known["JobState"] in ("PENDING", "RUNNING", "COMPLETING"):
        running = [job.known["JobState"] == "RUNNING" for job in jobs[:3]]
        at_once = max(at_once, sum(running))
        time.sleep(0.5)
    ends = {job.number: job.until_ended(limit) for job in jobs}
    folder = slurm.work / "runs" / "pipeline"
    made = [folder / "metrics.json", folder / "evaluation" / "val" / "predictions.jsonl"]
    if set(ends.values()) != {("COMPLETED", 0)} or not all(each.is_file() for each in made):
        raise SystemExit(f"pipeline: {ends}; see {slurm.work}")
    return {"jobs": len(jobs), "extractions at once on one host": at_once}


def extraction(slurm: Slurm, limit: float) -> dict[str, Any]:
    """Features by two nodes are the same where one of them is lost on the way."""
    data = slurm.work.parent / "data"
    told: dict[str, Any] = {}
    expected: dict[str, str] = {}
    for lost in ("none", "n2", "n1"):  # n1 has Ray's head, and the batch script
        output = slurm.work.parent / f"features-{lost}"
        shutil.rmtree(output, ignore_errors=True)
        job = Job.submit(
            slurm, f"extract-{lost}", "--nodes=2", "--cpus-per-task=2",
            str(SCRIPTS / "extract.sbatch"), f"--config={ROOT}/configs/extract/quickstart.yaml",
            f"--annotations={data}/train.jsonl", f"--videos={data}/videos", "--split=train",
            f"--output={output}", "--sharding.videos=1",
        )  # fmt: skip
        if lost != "none":
            job.until(lambda output=output: any(output.glob("0*.tar")), limit)
            slurm.kill(lost)
            job.until_requeued(limit)
        end = job.until_ended(limit)
        made = json.loads((output / "summary.json").read_text())
        expected = expected or files(output)
        if end != ("COMPLETED", 0) or files(output) != expected or job.restarts != (lost != "none"):
            raise SystemExit(f"extraction, lost {lost}: {end}; see {job.log}")
        if lost != "none":
            told[f"{lost} lost"] = {
                "goes on on": job.known["NodeList"],
                "shards": made["shards"],
                "made after": made["shards_made"],
            }
            slurm.boot(lost)
            slurm.wait(lambda lost=lost: slurm.states().get(lost) == "idle", limit)
    left = [str(path) for path in Path("/tmp").glob(f"sdst-ray-{job.number}-*")]
    return told | {"files": len(expected), "folders of Ray left": left}


def train(slurm: Slurm, how: str, epochs: int, limit: float) -> dict[str, Any]:
    """A training of two nodes, as it is or disturbed."""
    shutil.rmtree(slurm.work / "runs" / how, ignore_errors=True)
    training = Training.start(slurm, how, 2, *training_flags(slurm, epochs))
    if how != "undisturbed":
        return disturbed(training, how, limit)
    end = training.until_ended(limit)
    if end != ("COMPLETED", 0):
        raise SystemExit(f"{how}: {end}; see {training.log}")
    return {"steps": training.step, "weights": training.weights}


def cancelled(slurm: Slurm, limit: float) -> dict[str, Any]:
    """scancel ends a training for good, with all its steps saved; the same command goes on."""
    shutil.rmtree(slurm.work / "runs" / "cancelled", ignore_errors=True)
    words = training_flags(slurm, 4)
    training = Training.start(slurm, "cancelled", 2, *words)
    training.until(lambda: training.step >= 3, limit)
    slurm.run("scancel", training.number)
    state, _ = training.until_ended(limit)
    slurm.wait(lambda: slurm.states()["n1"] == "idle", limit)
    reached, saved = training.step, (training.folder / "checkpoints" / "latest").resolve().name
    again = Training.start(slurm, "cancelled", 2, *words)
    end = again.until_ended(limit)
    if state != "CANCELLED" or training.restarts or end != ("COMPLETED", 0):
        raise SystemExit(f"cancelled: {state}, then {end}; see {training.log}")
    return {"step reached": reached, "saved": saved, "then": end[0]}


def wrong(slurm: Slurm, limit: float) -> dict[str, Any]:
    """A batch that two nodes cannot share."""
    shutil.rmtree(slurm.work / "runs" / "wrong", ignore_errors=True)
    words = [each for each in training_flags(slurm, 1) if "batch_size" not in each]
    training = Training.start(slurm, "wrong", 2, *words, "--data.batch_size=15")
    end = training.until_ended(limit)
    if end != ("FAILED", 2) or training.restarts:
        raise SystemExit(f"wrong: {end}, {training.restarts} restarts; see {training.log}")
    [line] = {line for line in training.log.read_text().splitlines() if "data.batch_size" in line}
    return {"state": end[0], "status": end[1], "said": line}


def sweep(slurm: Slurm, limit: float) -> dict[str, Any]:
    """Two trials side by side; one is told to stop, requeued, and goes on; then the comparison."""
    shutil.rmtree(slurm.work / "runs" / "small", ignore_errors=True)
    plan = [f"--config={ROOT}/configs/quickstart.yaml", "--grid=epochs=20,21", "--name=small"]
    plan += [f"--runs={slurm.work}/runs"]
    settings = [*flags(slurm), *training_flags(slurm, 1)[1:4]]
    plan += [f"--set={each.removeprefix('--')}" for each in settings]
    names = slurm.run("python", "-m", "launch.sweep", *plan, "--list").split()
    array = Job.submit(
        slurm, "sweep-%a", f"--array=0-{len(names) - 1}", "--cpus-per-task=2",
        str(SCRIPTS / "sweep.sbatch"), *plan,
    )  # fmt: skip
    trials = [Job(slurm, f"{array.number}_{each}", array.log) for each in range(len(names))]
    last = Job.submit(
        slurm, "compare", f"--dependency=afterok:{array.number}",
        f"--wrap=python -m launch.sweep {' '.join(plan)}",
    )  # fmt: skip
    folder = slurm.work / "runs" / "small"
    begun = folder / names[0] / "metrics.jsonl"
    trials[0].until(lambda: begun.is_file() and begun.stat().st_size > 0, limit)
    slurm.run("scancel", "--signal=TERM", trials[0].number)
    trials[0].until_requeued(limit)
    end = last.until_ended(limit)
    restarts = [trial.restarts for trial in trials]
    if end != ("COMPLETED", 0) or not (folder / "comparison" / "comparison.html").is_file():
        raise SystemExit(f"sweep: {end}; see {last.log}")
    return {"trials": len(names), "restarts": restarts}


OTHERS = {
    "pipeline": pipeline,
    "extraction": extraction,
    "cancelled": cancelled,
    "wrong": wrong,
    "sweep": sweep,
}

if __name__ == "__main__":
    sys.exit(main())
