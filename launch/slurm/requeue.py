"""Run the command of a Slurm job, and put the job back into the queue where that goes on later.

    exec python -m launch.slurm.requeue [--final 1] srun python -m launch.node trainer/main.py …

The last line of a batch script. The status of the command decides, as on Kubernetes: 75, stopped by
SIGTERM and saved, requeues the job; 0, 2 (a fault of the user's), 130 and those that --final names
never do; anything else may pass, and requeues it up to 10 times. A job that Slurm itself ends, by
`scancel` or for one of a higher priority, is left to Slurm.

It needs nothing but Python: it runs beside the container that has the packages.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

from data_pipeline.errors import EXIT_BAD_INPUT, InputError
from launch.allotment import RESTARTS, as_shells_report, goes_on


def main() -> int:
    """Run the command; the status is its own, or 2 where that cannot be."""
    try:
        return requeue(sys.argv[1:])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def requeue(args: list[str]) -> int:
    """Run the command, and requeue the job where its status asks for it."""
    final, words = split(args)
    try:
        job, restarts = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    except (KeyError, ValueError):
        raise InputError(
            "SLURM_JOB_ID: not set, so this is no job; submit it with sbatch (launch/slurm)"
        ) from None
    status, ended = run(words)
    if ended or status in final or not goes_on(status, restarts):
        if status and not ended and goes_on(status, 0) and status not in final:
            print(f"error: status {status} after {RESTARTS} restarts: given up", file=sys.stderr)
        return status
    print(f"status {status}: the job goes back into the queue and goes on later", flush=True)
    asked = subprocess.run(["scontrol", "requeue", job], check=False)
    if asked.returncode:
        print(
            f"error: job {job} cannot be requeued (is it submitted with --no-requeue?); "
            "submit the same command again, and it goes on",
            file=sys.stderr,
        )
    return status


def split(args: list[str]) -> tuple[set[int], list[str]]:
    """The statuses after --final, and the command."""
    final = set()
    while args[:1] == ["--final"]:
        if len(args) < 2 or not args[1].isdecimal():
            raise InputError("--final: give the status after which the job is over, as --final 1")
        final.add(int(args[1]))
        args = args[2:]
    if not args or args[0].startswith("-"):
        raise InputError(f"{args[0] if args else 'no command'}: give the command to run, srun …")
    return final, args


def run(words: list[str]) -> tuple[int, bool]:
    """The command's status, and whether Slurm ended the job meanwhile.

    `--signal=TERM@90` and a preemption's grace time send SIGTERM to the steps alone; where this
    process gets one, the job is over.
    """
    ended = False

    def note(_: int, __: FrameType | None) -> None:
        nonlocal ended
        ended = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        process = subprocess.Popen(words)
    except OSError as error:
        raise InputError(f"{words[0]}: {error.strerror}; is it on PATH?") from error
    try:
        return as_shells_report(process.wait()), ended
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
