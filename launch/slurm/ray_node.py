"""Run one node of a Slurm job's own Ray, and on the first node a command that uses it.

    srun --ntasks-per-node=1 python -m launch.slurm.ray_node -m launch.extract --config C …

The first node has Ray's head and waits until all others have joined; then the command runs there,
and its status is the job's: 75 after SIGTERM, 76 where Ray is lost. The others end when the head is
gone. One range of ports a job and a temporary folder a node keep jobs on one host apart, and the
job's token (RAY_AUTH_TOKEN) keeps out who has none.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from data_pipeline.errors import EXIT_LOST, EXIT_PREEMPTED, InputError
from data_pipeline.extraction.ray_cluster import refusal
from data_pipeline.extraction.ray_session import (
    LONGEST_FOLDER,
    OBJECT_STORE_BYTES,
    WORKER_ENVIRONMENT,
    ray_session,
)
from launch.allotment import PORTS, Part, as_shells_report, in_slurm, part
from trainer.cli import command

ARRIVAL = 300.0
"""Seconds within which the head answers and all nodes have joined."""
PERIOD = 1.0
"""Seconds between two looks."""
REFUSALS = 5
"""Looks in a row without an answer after which the head counts as gone."""
NOTICE = 5.0
"""Seconds within which `ray start --block` ends after one of its processes."""
STOP = 30.0
"""Seconds that Ray's processes may take to end."""

HEAD_PORTS = ("port", "dashboard-port", "ray-client-server-port")
NODE_PORTS = (
    "node-manager-port", "object-manager-port", "runtime-env-agent-port", "metrics-export-port",
    "dashboard-agent-grpc-port", "dashboard-agent-listen-port",
)  # fmt: skip
METRICS_PORTS = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
"""What Ray listens at, in the order of the job's ports; its workers ask the system for theirs."""


@command
def main(args: list[str] | None = None) -> int:
    """Start Ray here, run the command or wait for the head's end, stop Ray."""
    words = sys.argv[1:] if args is None else args
    if not words:
        raise InputError("no command: give what python is to run on Ray, as -m launch.extract …")
    if not in_slurm(os.environ):
        raise InputError("SLURM_STEP_ID: not set; start it with srun --ntasks-per-node=1")
    if not os.environ.get("RAY_AUTH_TOKEN"):
        raise InputError("RAY_AUTH_TOKEN: not set; extract.sbatch makes one for all nodes of a job")
    ours = part(os.environ)
    os.environ["RAY_ADDRESS"] = f"{ours.address}:{ours.port}"
    stop = Stop()
    with folder(ours.rank) as place:
        if ours.rank == 0:
            return lead(ours, words, place, stop)
        follow(ours, place, stop)
    return 0


class Stop:
    """Notes SIGTERM, and hands it to the command that runs on Ray."""

    def __init__(self) -> None:
        self.asked = False
        self.command: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, _: int, __: FrameType | None) -> None:
        self.asked = True
        if self.command is not None:
            self.command.terminate()


def lead(ours: Part, words: list[str], place: str, stop: Stop) -> int:
    """Run Ray's head, and on it the command; returns the status to end with."""
    with ray_started(ours, place) as head:
        if not all_there(ours.nodes, head, stop):
            return EXIT_PREEMPTED if stop.asked else EXIT_LOST
        # In a session of its own: Slurm sends SIGTERM to a task's whole process group.
        stop.command = subprocess.Popen([sys.executable, *words], start_new_session=True)
        if stop.asked:
            stop.command.terminate()
        while (code := stop.command.poll()) is None and head.poll() is None:
            time.sleep(PERIOD)
        if code:  # perhaps because the head has just died, which is noticed in a moment
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(NOTICE)
        lost = code != 0 and head.poll() is not None
        if code is None:
            end(stop.command)
    if stop.asked and code != 0:
        return EXIT_PREEMPTED
    if lost:
        print("error: Ray's head has ended under the command", file=sys.stderr, flush=True)
        return EXIT_LOST
    return as_shells_report(stop.command.returncode)


def all_there(nodes: int, head: "subprocess.Popen[bytes]", stop: Stop) -> bool:
    """Wait until the head answers and all nodes have joined, but not for ever for the latter.

    False where the head ends or SIGTERM comes first.
    """
    latest = time.monotonic() + ARRIVAL
    while refusal(os.environ["RAY_ADDRESS"]):
        if stop.asked or head.poll() is not None or time.monotonic() > latest:
            return False
        time.sleep(PERIOD)
    try:
        with ray_session():
            while (there := alive()) < nodes:
                if stop.asked or head.poll() is not None:
                    return False
                if time.monotonic() > latest:
                    print(f"warning: {there} of {nodes} nodes have joined Ray; they go on alone")
                    break
                time.sleep(PERIOD)
    except (InputError, ray.exceptions.RayError) as error:  # it has ended since
        print(f"error: {error}", file=sys.stderr, flush=True)
        return False
    print(f"Ray: {there} nodes, {os.environ['RAY_ADDRESS']}", flush=True)
    return True


def alive() -> int:
    """How many nodes Ray has."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return sum(node["Alive"] for node in nodes)


def follow(ours: Part, place: str, stop: Stop) -> None:
    """Belong to the head's Ray until it is gone. What becomes of the job is the head's to say."""
    latest = time.monotonic() + ARRIVAL
    while refusal(os.environ["RAY_ADDRESS"]):
        if stop.asked or time.monotonic() > latest:
            print(f"node {ours.rank}: Ray's head does not answer", file=sys.stderr)
            return
        time.sleep(PERIOD)
    with ray_started(ours, place) as node:
        refused = 0
        while refused < REFUSALS and node.poll() is None:
            time.sleep(PERIOD)
            refused = refused + 1 if refusal(os.environ["RAY_ADDRESS"]) else 0
        if refused < REFUSALS and not refusal(os.environ["RAY_ADDRESS"]):
            print(f"node {ours.rank}: Ray has ended here; the others go on", file=sys.stderr)


def start_flags(ours: Part, place: str) -> list[str]:
    """What `ray start` is told of this node."""
    cpus = int(os.environ.get("SLURM_CPUS_ON_NODE", "1"))
    ports = ports_of(ours)
    flags = {name: ports[name] for name in NODE_PORTS} | {
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": cpus,
        "num-gpus": int(os.environ.get("SLURM_GPUS_ON_NODE", "0")),
        # Ray would take its share of the machine's memory, not of the job's.
        "object-store-memory": OBJECT_STORE_BYTES * cpus,
        "temp-dir": place,
    }
    if ours.rank == 0:
        flags |= {name: ports[name] for name in HEAD_PORTS} | {"include-dashboard": "false"}
    else:
        flags |= {"address": os.environ["RAY_ADDRESS"]}
    words = [f"--{name}={value}" for name, value in flags.items()]
    return [*(["--head"] if ours.rank == 0 else []), *words, "--block", "--disable-usage-stats"]


def ports_of(ours: Part) -> dict[str, int]:
    """Which of the job's ports is for what."""
    names = (*HEAD_PORTS, *NODE_PORTS, *METRICS_PORTS)
    return dict(zip(names, range(ours.port, ours.port + PORTS), strict=False))


@contextmanager
def ray_started(ours: Part, place: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Ray's processes on this node, for as long as this lasts."""
    ports = ports_of(ours)
    own = {name: str(ports[name]) for name in METRICS_PORTS}
    # What is told to end is not needed any more, and has nothing to hand over to the others.
    own["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *start_flags(ours, place)],
        env=WORKER_ENVIRONMENT | os.environ | own,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end, then see to it that its group has."""
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def folder(rank: int) -> Iterator[str]:
    """Where Ray may write on this node, with a short path for its sockets; removed at the end.

    What this job left here when it was killed is removed, too.
    """
    name = f"sdst-ray-{os.environ.get('SLURM_JOB_ID', '')}-{rank}"
    place = Path(os.environ.get("TMPDIR", "/tmp")) / name
    if len(os.fsencode(place)) > LONGEST_FOLDER:
        place = Path("/tmp") / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    try:
        yield str(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
