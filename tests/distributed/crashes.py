"""Kill training at random moments, over and over, and compare what comes of it with a quiet run.

    python tests/distributed/crashes.py --processes 2 --kills 20

Each attempt is killed (SIGKILL, one rank after the other) at a random moment of its training, every
second time when a checkpoint is being written, and then started again, until there were so many
kills; it is let finish when its steps are done, and then the next run begins. Every run must end
with the weights of the quiet one, bit for bit, and must have been given every pair. Prints a line
of JSON: how often it was killed, how many of them while a checkpoint was being written, and the
steps that were lost. Exit code 1 if any bit differs.

The ranks are forked from this process, which has imported everything: an attempt begins at once.
"""

import argparse
import json
import multiprocessing
import os
import random
import runpy
import socket
import sys
import tempfile
import time
from pathlib import Path

import torch._dynamo  # the first optimizer of a process imports it: a second each  # noqa: F401

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"

program = runpy.run_path(str(Path(__file__).with_name("program.py")), run_name="program")
build = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["build_feature_set"]

STEPS_PER_EPOCH, EPOCHS = 12, 4
FLAGS = {
    "epochs": EPOCHS,
    "data.batch_size": 4,
    "data.order.lanes": 8,
    "model.video_width": 12,
    "model.text_width": 10,
    "model.layers": "[-1, -2]",
    "model.width": 32,
    "model.heads": 4,
    "model.queries": 5,
    "optim.warmup": 5,
    "optim.averaging": 0.99,
    "tracking.mlflow": "false",
    "checkpoints.every": 3,
    "deterministic": "true",
}


def run_rank(rank, world, port, flags, log):
    environment = {"PAUSE": "0.02"}
    if world > 1:
        environment |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    program["rank_main"](flags, environment, log)


def start(world, flags, log):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=run_rank, args=(rank, world, port, flags, log)) for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def steps_begun(run):
    """Steps that any rank of any attempt has begun: (step, which attempt's process)."""
    return [
        (json.loads(line)["step"], file.name)
        for file in run.glob("pairs-*.jsonl")
        for line in file.read_text().splitlines()
        if line.endswith("}")
    ]


def newest_step(run):
    names = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
    return int(names[-1].split("_")[1]) if names else 0


def writing(run):
    """Whether a checkpoint is being written."""
    return any((run / "checkpoints").glob(".step_*.tmp"))


def result(run):
    """What two runs must have alike."""
    latest = run / "checkpoints" / "latest"
    files = [latest / "weights.safetensors", latest / "states.safetensors",
             run / "model" / "model.safetensors", run / "predictions.jsonl"]  # fmt: skip
    return [file.read_bytes() for file in files]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    for seed, split in enumerate(("train", "dev", "val")):
        build(folder / split, videos=16 if split == "train" else 4, seed=seed)
    data = {"data.train": "train", "data.selection": "dev", "data.report": "val"}
    flags = [f"--{key}={value}" for key, value in FLAGS.items()]
    flags += [f"--{key}={folder / split}" for key, split in data.items()] + [f"--runs={folder}"]

    begin = time.monotonic()
    quiet = start(options.processes, [*flags, "--name=quiet"], folder / "quiet.log")
    for rank in quiet:
        rank.join()
    assert [rank.exitcode for rank in quiet] == [0] * options.processes, (
        folder / "quiet.log"
    ).read_text()
    expected, kills, met, lost, runs = result(folder / "quiet"), 0, 0, [], 0
    same = True
    while kills < options.kills:
        name, runs = f"run{runs}", runs + 1
        run = folder / name
        finished = False
        while not finished:
            before = len(steps_begun(run))
            ranks = start(options.processes, [*flags, f"--name={name}"], folder / f"{name}.log")
            if kills < options.kills:
                while len(steps_begun(run)) == before and any(rank.is_alive() for rank in ranks):
                    time.sleep(0.005)
                deadline = time.monotonic() + chance.uniform(0, 2.0)
                while time.monotonic() < deadline and any(rank.is_alive() for rank in ranks):
                    time.sleep(0.005)
                while kills % 2 and not writing(run) and all(rank.is_alive() for rank in ranks):
                    pass
                if all(rank.is_alive() for rank in ranks):
                    # The launcher kills the others when one is gone; now and then all go at once.
                    for rank in chance.sample(ranks, len(ranks)):
                        rank.kill()
                        time.sleep(chance.choice((0, 0.05)))
                    kills += 1
                    met += writing(run)
                    done = max((step for step, _ in steps_begun(run)), default=0)
                    lost.append(max(0, done - newest_step(run)))
            for rank in ranks:
                rank.join()
            finished = all(rank.exitcode == 0 for rank in ranks)
            assert finished or kills <= options.kills, (folder / f"{name}.log").read_text()
        same &= result(run) == expected
        # The last time that a step was begun counts; the steps before were lost with a crash.
        steps = {step for step, _ in steps_begun(run)}
        same &= steps == set(range(STEPS_PER_EPOCH * EPOCHS))
    print(json.dumps({
        "processes": options.processes, "kills": kills, "runs": runs, "while writing": met,
        "bitwise the same": same, "steps lost, mean": round(sum(lost) / len(lost), 2),
        "steps lost, most": max(lost), "seconds": round(time.monotonic() - begin),
    }))  # fmt: skip
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
