import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from launch.node import main, node_flags

ROOT = Path(__file__).resolve().parents[2]
TWO_NODES = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "sdst-node-0-0.sdst",
    "PET_MASTER_PORT": "29400",
}
Start = Callable[..., subprocess.Popen[str]]


def flag(flags: list[str], name: str) -> str:
    return flags[flags.index(name) + 1]


def test_a_nodes_part_is_that_of_the_trainers_variables() -> None:
    flags = node_flags(TWO_NODES)
    assert flag(flags, "--num_machines") == "2"
    assert flag(flags, "--num_processes") == "8"
    assert flag(flags, "--machine_rank") == "1"
    assert flag(flags, "--main_process_ip") == "sdst-node-0-0.sdst"
    assert flag(flags, "--main_process_port") == "29400"


def test_without_variables_there_is_one_process() -> None:
    flags = node_flags({})
    assert flag(flags, "--num_processes") == "1"
    assert "--machine_rank" not in flags


@pytest.mark.parametrize(
    "fault", [{"PET_NPROC_PER_NODE": "auto"}, {"PET_NNODES": "0"}, {"PET_MASTER_ADDR": None}]
)
def test_a_part_that_is_not_told_in_full_is_refused(fault: dict[str, str | None]) -> None:
    told = TWO_NODES | fault
    with pytest.raises(InputError, match=next(iter(fault))):
        node_flags({name: value for name, value in told.items() if value is not None})


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def start(script: str, processes: int) -> subprocess.Popen[str]:
        (tmp_path / "script.py").write_text(script)
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "launch.node",
                "--main_process_port",
                "0",
                str(tmp_path / "script.py"),
                str(tmp_path),
            ],
            cwd=ROOT,
            env=os.environ
            | {"PET_NPROC_PER_NODE": str(processes), "ACCELERATE_USE_CPU": "true"}
            | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("processes", [1, 2])
def test_it_ends_with_the_status_of_its_processes(start: Start, processes: int) -> None:
    process = start("import sys; sys.exit(2)", processes)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "Traceback" not in said


WAITS = """
import pathlib, signal, sys, os, time
def stop(*_):
    pathlib.Path(sys.argv[1], "saved" + os.environ.get("RANK", "0")).touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], "ready" + os.environ.get("RANK", "0")).touch()
while True:
    time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_reaches_the_processes_and_ends_it_as_preempted(
    start: Start, processes: int, tmp_path: Path
) -> None:
    process = start(WAITS, processes)
    while len(list(tmp_path.glob("ready*"))) < processes:
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    assert process.returncode == os.EX_TEMPFAIL
    assert len(list(tmp_path.glob("saved*"))) == processes


@pytest.mark.parametrize(("status", "in_a_step"), [(76, 1), (75, 75), (2, 2), (-9, 137)])
def test_of_a_slurm_step_a_node_that_lost_the_others_says_less_than_the_one_that_says_why(
    status: int, in_a_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun reports the largest status of its tasks."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def launch(_: object) -> None:
        failure = ProcessFailure(local_rank=0, pid=1, exitcode=status, error_file="")
        raise ChildFailedError("trainer", {0: failure})

    monkeypatch.setattr("accelerate.commands.launch.launch_command", launch)
    for name, value in TWO_NODES.items():
        monkeypatch.setenv(name, value)
    assert main(["trainer/main.py"]) == (status if status > 0 else 137)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert main(["trainer/main.py"]) == in_a_step
