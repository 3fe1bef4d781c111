"""A rank of a test: the trainer's own main, which also notes the pairs of every step.

Environment: SIGNAL="<rank>:<step>:<number>" sends this rank a signal when it begins that step,
PAUSE is seconds added to every step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import trainer.loop
from trainer.main import main

original = trainer.loop.gradient


def noted(learner, criterion, batch, accelerator, config, state):
    rank = accelerator.process_index
    file = config.folder / f"pairs-{rank}-{os.getpid()}.jsonl"
    with open(file, "a") as out:
        out.write(
            json.dumps({"step": state.step, "qids": [a.qid for a in batch.annotations]}) + "\n"
        )
    whom, step, number = map(int, os.environ.get("SIGNAL", "-1:-1:0").split(":"))
    if (whom, step) == (rank, state.step):
        os.kill(os.getpid(), signal.Signals(number))
    time.sleep(float(os.environ.get("PAUSE", "0")))
    return original(learner, criterion, batch, accelerator, config, state)


trainer.loop.gradient = noted

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    sys.exit(main(sys.argv[1:]))
