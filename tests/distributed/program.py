"""A rank of a test: the trainer's own main, which also notes the pairs of every step.

Environment: SIGNAL="<rank>:<step>:<number>" sends this rank a signal when it begins that step, to
its whole process group if the number is negative; SPOIL="<rank>:<step>" makes a feature of that
rank's first pair infinite; PAUSE is seconds added to every step.
"""

import json
import os
import sys
import time
from pathlib import Path
from unittest import mock

import trainer.training.loop
from trainer.main import main

ROOT = Path(__file__).parents[2]
original = trainer.training.loop.gradient


def noted(learner, criterion, batch, accelerator, config, state):
    rank = accelerator.process_index
    file = config.folder / f"pairs-{rank}-{os.getpid()}.jsonl"
    qids = [annotation.qid for annotation in batch.annotations]
    record = {"step": state.step, "rank": rank, "qids": qids}
    with open(file, "a") as out:
        out.write(json.dumps(record) + "\n")
    whom, step, number = map(int, os.environ.get("SIGNAL", "-1:-1:0").split(":"))
    if (whom, step) == (rank, state.step):
        if number > 0:
            os.kill(os.getpid(), number)
        else:
            os.killpg(0, -number)
    if os.environ.get("SPOIL") == f"{rank}:{state.step}":
        batch.video[0, 0] = float("inf")
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return original(learner, criterion, batch, accelerator, config, state)


def noting_main(flags):
    """The trainer's main, noting pairs; only for a process of its own."""
    trainer.training.loop.gradient = noted
    return main(flags)


def launched(file, processes):
    """What `accelerate launch --config_file configs/accelerate/<file>.yaml` would give its ranks.

    The launcher is called as a user calls it, up to where it would start processes.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser

    words = [f"--config_file=configs/accelerate/{file}.yaml", f"--num_processes={processes}"]
    os.chdir(ROOT)  # from where the files name each other
    given = {}

    def start(_):
        given.update(os.environ)

    with mock.patch("torch.distributed.run.run", start):
        launch_command(launch_command_parser().parse_args([*words, "trainer/main.py"]))
    return given


def rank_main(flags, environment, log, file=None):
    """Run as a process of its own, with more environment and its output in a file; `file` of
    configs/accelerate says how it is launched."""
    os.environ |= environment
    os.setsid()  # a process group of its own, as a launcher gives it
    with open(log, "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if file:
        os.environ |= launched(file, environment["WORLD_SIZE"])
    sys.exit(noting_main(flags))


if __name__ == "__main__":
    sys.exit(noting_main(sys.argv[1:]))
