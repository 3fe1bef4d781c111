"""A rank of a test: the trainer's own main, which also notes the pairs of every step.

Environment: SIGNAL="<rank>:<step>:<number>" sends this rank a signal when it begins that step,
PAUSE is seconds added to every step.
"""

import json
import os
import signal
import sys
import time

import torch._dynamo  # the first optimizer of a process imports it: seconds  # noqa: F401

import trainer.loop
from trainer.main import main

original = trainer.loop.gradient


def noted(learner, criterion, batch, accelerator, config, state):
    rank = accelerator.process_index
    file = config.folder / f"pairs-{rank}-{os.getpid()}.jsonl"
    record = {"step": state.step, "qids": [annotation.qid for annotation in batch.annotations]}
    with open(file, "a") as out:
        out.write(json.dumps(record) + "\n")
    whom, step, number = map(int, os.environ.get("SIGNAL", "-1:-1:0").split(":"))
    if (whom, step) == (rank, state.step):
        os.kill(os.getpid(), signal.Signals(number))
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return original(learner, criterion, batch, accelerator, config, state)


def noting_main(flags):
    """The trainer's main, noting pairs; only for a process of its own."""
    trainer.loop.gradient = noted
    return main(flags)


def rank_main(flags, environment, log):
    """Run as a process of its own, with more environment and its output in a file."""
    os.environ |= environment
    with open(log, "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    sys.exit(noting_main(flags))


if __name__ == "__main__":
    sys.exit(noting_main(sys.argv[1:]))
