"""What does a cluster tell a node of its part in a job, and what follows from how the job ended?

Kubernetes and Slurm are answered here alike: `launch.node` and the programs of `launch/slurm` take
their part from here, and decide by the same statuses. It needs nothing but Python: a batch script
runs beside the container that has the packages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from data_pipeline.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    EXIT_PREEMPTED,
    InputError,
)

FIRST_PORT, PORTS, RANGES = 10_000, 16, 1_400
"""Where jobs' ports begin, how many a job has, and how many jobs a host tells apart: all below
32768, from where Linux gives ports to whoever asks for any."""

RESTARTS = 10
"""Times that a job is started again after a fault that may pass; as often as Kubernetes does."""


@dataclass(frozen=True)
class Part:
    """A node's part in a job.

    Attributes:
        nodes: of the job
        processes: on every node
        rank: of this node, from 0
        address: of the first node
        port: the first of the job's PORTS
    """

    nodes: int
    processes: int
    rank: int
    address: str
    port: int


def part(environment: Mapping[str, str]) -> Part:
    """This node's part: what PET_* variables say, else Slurm of the step that this is a task of.

    One node with one process by default. Raises InputError for a part that is not told in full.
    """
    told = {**_of_slurm(environment), **environment}
    nodes = _number(told, "PET_NNODES", 1)
    needed = ("PET_NODE_RANK", "PET_MASTER_ADDR")
    if nodes > 1 and (missing := [name for name in needed if name not in told]):
        raise InputError(f"{missing[0]}: not set, and there are {nodes} nodes")
    return Part(
        nodes=nodes,
        processes=_number(told, "PET_NPROC_PER_NODE", 1),
        rank=_number(told, "PET_NODE_RANK", 0, least=0),
        address=told.get("PET_MASTER_ADDR", "127.0.0.1"),
        port=_number(told, "PET_MASTER_PORT", 29400),
    )


def in_slurm(environment: Mapping[str, str]) -> bool:
    """Whether this is a task that `srun` started."""
    return "SLURM_STEP_ID" in environment


def _of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """A Slurm step in the variables of torchrun; none outside of a step."""
    if not in_slurm(environment):
        return {}
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", 1)
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", nodes)
    if tasks != nodes:
        raise InputError(
            f"SLURM_STEP_NUM_TASKS: {tasks} tasks on {nodes} nodes, but one launcher a node starts "
            "all of its processes; start it with srun --ntasks-per-node=1"
        )
    return {
        "PET_NNODES": str(nodes),
        # Without GPUs, one process: it takes all cores.
        "PET_NPROC_PER_NODE": str(max(1, _number(environment, "SLURM_GPUS_ON_NODE", 0, least=0))),
        "PET_NODE_RANK": environment.get("SLURM_PROCID", "0"),
        "PET_MASTER_ADDR": first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1")),
        "PET_MASTER_PORT": str(first_port(_number(environment, "SLURM_JOB_ID", 1))),
    }


def first_host(names: str) -> str:
    """The first of Slurm's list of hosts: `gpu[007-012,15],login` is `gpu007`.

    `scontrol show hostnames` would tell, but is in no container.
    """
    found = re.match(r"(?:[^,\[]|\[[^\]]*\])+", names)
    if found is None:
        raise InputError(f"SLURM_STEP_NODELIST: {names[:40]!r} is no list of hosts")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", found[0])


def first_port(job: int) -> int:
    """Where the ports of a job begin; jobs that run at the same time rarely share them."""
    return FIRST_PORT + job % RANGES * PORTS


def _number(environment: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    value = environment.get(name, str(default))
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) >= least):
        mend = (
            "set numNodes and numProcPerNode of the TrainJob"
            if name.startswith("PET")
            else ("is this a task of srun?")
        )
        raise InputError(f"{name}: {value[:40]!r} is no number of at least {least}; {mend}")
    return int(value)


def goes_on(status: int, restarts: int) -> bool:
    """Whether a job that ended with `status` is to be started again, the (restarts + 1)-th time.

    After SIGTERM it is, always; after success, a fault of the user's or Ctrl-C never. What is left,
    a lost or killed process, an error of the machine, may pass: so often, and no more.
    """
    if status == EXIT_PREEMPTED:
        return True
    return status not in (0, EXIT_BAD_INPUT, EXIT_INTERRUPTED) and restarts < RESTARTS


def told_to_slurm(status: int) -> int:
    """The status of a task of which srun is to report the largest.

    A node that merely lost the others must not outvote the one that says why.
    """
    return 1 if status == EXIT_LOST else status


def as_shells_report(code: int) -> int:
    """128 + N for a process that signal N ended, which Python calls -N."""
    return code if code >= 0 else 128 - code
