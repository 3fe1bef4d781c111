"""Run one node's processes of a training and end as they did: process 1 of a training container.

    python -m launch.node [flags of accelerate launch] trainer/main.py --config mine.yaml

It is `accelerate launch` with two things that a cluster needs. A node is told its part of the
training in PET_* variables, by the Kubeflow Trainer or by a manifest, or in those of a Slurm step,
as which `srun --ntasks-per-node=1 python -m launch.node …` starts it; here they become flags. And
`accelerate launch` ends with status 1 whatever happened, while a cluster decides by the status
whether to start again; here it is the status of the first process that failed, or 75 after SIGTERM.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from data_pipeline.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED
from launch.allotment import as_shells_report, in_slurm, part, told_to_slurm
from trainer.cli import command

STATUS = {signal.SIGTERM: EXIT_PREEMPTED, signal.SIGINT: EXIT_INTERRUPTED}


@command
def main(args: list[str] | None = None) -> int:
    """Launch and wait; the status is that of the processes."""
    # The processes have 25 s from SIGTERM on (the trainer's `grace`); torchrun would give them 30.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "45")
    # Imported late: PyTorch takes seconds, a fault in the environment is told at once.
    words = [*node_flags(os.environ), *(sys.argv[1:] if args is None else args)]
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = launch_command_parser().parse_args(words)
    if options.config_file is None and not options.use_deepspeed:
        if options.num_processes == 1:
            become([options.training_script, *options.training_script_args])
        options.multi_gpu = True  # several processes; on CPUs, too, there is no other launcher
    try:
        launch_command(options)
    except ChildFailedError as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        ended = status(error)
        return told_to_slurm(ended) if in_slurm(os.environ) else ended
    except SignalException as stopped:
        return STATUS.get(signal.Signals(stopped.sigval), os.EX_SOFTWARE)
    return 0


def node_flags(environment: Mapping[str, str]) -> list[str]:
    """Flags of `accelerate launch` for this node's part; one node with one process by default.

    Raises InputError for a part that is not told in full.
    """
    told = part(environment)
    flags = [
        *("--num_machines", str(told.nodes), "--num_processes", str(told.nodes * told.processes)),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),  # the experiment decides
    ]
    if told.nodes > 1 or in_slurm(environment):  # where jobs share a host, each has its port
        flags += ["--machine_rank", str(told.rank), "--main_process_ip", told.address]
        flags += ["--main_process_port", str(told.port)]
    return flags


def become(words: list[str]) -> NoReturn:
    """Turn this process into the only one of the training, so that signals reach it directly."""
    os.execv(sys.executable, [sys.executable, *words])


def status(error: Any) -> int:
    """The exit status of the process that failed first, as shells report it."""
    _, failure = error.get_first_failure()
    return as_shells_report(int(failure.exitcode))


def describe(error: Any) -> str:
    """Which process failed first, in one line; what it said stands above."""
    rank, failure = error.get_first_failure()
    how = failure.signal_name() if failure.exitcode < 0 else f"status {failure.exitcode}"
    return f"process {rank} of {len(error.failures)} that failed ended first, with {how}"


if __name__ == "__main__":
    sys.exit(main())
