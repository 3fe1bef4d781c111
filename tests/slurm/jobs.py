"""A user's jobs on the Slurm of `tests.slurm.slurm`, and what may happen to them."""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.slurm.slurm import ROOT, Slurm

SCRIPTS = ROOT / "launch" / "slurm"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")


class Job:
    """A job that was submitted; its output is in `log`."""

    def __init__(self, slurm: Slurm, number: str, log: Path) -> None:
        self.slurm, self.number, self.log = slurm, number, log

    @classmethod
    def submit(cls, slurm: Slurm, name: str, *words: str) -> "Job":
        """Submit what `words` are to sbatch: flags, script, arguments."""
        log = slurm.work / f"{name}.out"
        log.unlink(missing_ok=True)
        number = slurm.run("sbatch", "--parsable", f"--output={log}", *words)
        return cls(slurm, number, log)

    @property
    def known(self) -> dict[str, str]:
        return self.slurm.job(self.number)

    @property
    def restarts(self) -> int:
        return int(self.known["Restarts"])

    def update(self, **values: str) -> None:
        """As `scontrol update`."""
        words = [f"{name}={value}" for name, value in values.items()]
        self.slurm.run("scontrol", "update", f"JobId={self.number}", *words)

    def until(self, so: Callable[[], bool], limit: float) -> None:
        """Look until something is so; a job that has ended before is an error."""

        def look() -> bool:
            if so():
                return True
            if (state := self.known["JobState"]) in ENDED:
                raise RuntimeError(f"job {self.number} is {state} already; see {self.log}")
            return False

        self.slurm.wait(look, limit)

    def until_requeued(self, limit: float) -> None:
        """Wait until the job is in the queue again, and spare it most of Slurm's two minutes there.

        Not all: nodes refuse a job while they still clear up after its last start.
        """
        self.until(lambda: self.restarts > 0 and self.known["JobState"] == "PENDING", limit)
        self.update(StartTime="now+8")

    def until_ended(self, limit: float) -> tuple[str, int]:
        """The state and the status that the job ends with."""
        self.slurm.wait(lambda: self.known["JobState"] in ENDED, limit)
        known = self.known
        return known["JobState"], int(known["ExitCode"].split(":")[0])


class Training(Job):
    """A training by train.sbatch, of the run that is named as the job."""

    folder: Path

    @classmethod
    def start(cls, slurm: Slurm, name: str, nodes: int, *flags: str) -> "Training":
        runs = slurm.work / "runs"
        own = [f"--nodes={nodes}", "--cpus-per-task=2", f"--job-name={name}"]
        given = [str(SCRIPTS / "train.sbatch"), *flags, f"--runs={runs}", f"--name={name}"]
        training = cls.submit(slurm, name, *own, *given)
        training.folder = runs / name
        return training  # type: ignore[return-value]

    @property
    def step(self) -> int:
        """The newest step that is recorded."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        except OSError:
            return 0
        # The last line may be half-written.
        steps = [re.match(r'\{"kind": "train", "step": (\d+),', line) for line in lines]
        return max((int(found[1]) for found in steps if found), default=0)

    @property
    def weights(self) -> str:
        """The hash of what was learned."""
        file = self.folder / "model" / "model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def disturb(training: Training, how: str) -> None:
    """What may happen to a job that has all its nodes but the last one of the cluster."""
    slurm, victim = training.slurm, training.slurm.nodes[1]
    if how == "signalled":
        slurm.run("scancel", "--signal=TERM", training.number)
    elif how == "limit":
        hours, minutes, seconds = map(int, training.known["RunTime"].split(":"))
        training.update(TimeLimit=str(math.ceil(hours * 60 + minutes + (seconds + 1) / 60)))
    elif how == "preempted":
        urgent = ["--partition=urgent", f"--nodelist={victim}", "--gpus-per-node=1"]
        Job.submit(slurm, "urgent", *urgent, "--wrap=sleep 3")
    elif how == "drained":
        slurm.run("scontrol", "update", f"NodeName={victim}", "State=DRAIN", "Reason=repair")
        slurm.run("scontrol", "requeue", training.number)
    elif how == "killed":
        slurm.kill(victim)
    else:
        raise ValueError(how)


def mend(slurm: Slurm, how: str) -> None:
    """Bring back the node that was taken away."""
    victim = slurm.nodes[1]
    if how == "killed":
        slurm.boot(victim)
    if how == "drained":
        slurm.run("scontrol", "update", f"NodeName={victim}", "State=RESUME")
    slurm.wait(lambda: slurm.states().get(victim) in ("idle", "mix", "alloc"), 60)


def disturbed(training: Training, how: str, limit: float) -> dict[str, object]:
    """Let a training begin, disturb it, and see it to its end; what happened, in seconds."""
    began = time.monotonic()
    training.until(lambda: training.step >= 3, limit)
    lasting = training.known["TimeLimit"]
    disturb(training, how)
    before, when = training.step, time.monotonic()
    training.until_requeued(limit)
    told: dict[str, object] = {"in the queue after": round(time.monotonic() - when, 1)}
    if how == "limit":
        training.update(TimeLimit=lasting)
    lines = len((training.folder / "metrics.jsonl").read_text().splitlines())
    reached = training.step
    training.until(lambda: training.known["JobState"] == "RUNNING", limit)
    nodes = training.known["NodeList"]
    state, status = training.until_ended(limit)
    if (state, status, training.restarts) != ("COMPLETED", 0, 1):
        raise SystemExit(f"{how}: {state}, {status}, {training.known}; see {training.log}")
    if how in ("killed", "drained") and nodes != "n[1,3]":
        raise SystemExit(f"{how}: goes on on {nodes}; see {training.log}")
    told |= {"step then": before, "step reached": reached, "nodes then": nodes}
    told["repeated"] = reached + 1 - first_step(training.folder / "metrics.jsonl", lines)
    mend(training.slurm, how)
    return told | {"seconds": round(time.monotonic() - began, 1), "weights": training.weights}


def first_step(file: Path, lines: int) -> int:
    """The first step that is recorded after so many lines."""
    records = map(json.loads, file.read_text().splitlines()[lines:])
    return int(next(each["step"] for each in records if each["kind"] == "train"))
