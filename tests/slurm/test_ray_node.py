"""A node of a job's Ray, as the only task of a step; Slurm itself is not needed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launch.allotment import PORTS, first_port

pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[2]
JOB = 1_000_000 + os.getpid() % 1_400
METRICS = {first_port(JOB) + 9, first_port(JOB) + 10}
"""Where Ray's last processes tell their metrics: by themselves always at 44217 and 44227."""
COMMAND = """
import pathlib, ray, sys, time
ray.init()
pathlib.Path(sys.argv[1]).write_text(str(ray.cluster_resources()))
while not pathlib.Path(sys.argv[1] + ".end").exists():
    time.sleep(0.1)
sys.exit(3)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        step = {
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_JOB_ID": str(JOB),
            "SLURM_CPUS_ON_NODE": "3",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "a" * 64,
            "PYTHONPATH": str(ROOT),
        }
        words = ["-m", "launch.slurm.ray_node", "-c", COMMAND, str(tmp_path / "ready")]
        started.append(
            subprocess.Popen(
                [sys.executable, *words],
                env=os.environ | step,
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        while not (tmp_path / "ready").exists():
            assert started[0].poll() is None, started[0].communicate()
            time.sleep(0.1)
        return started[0]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def listening(process: subprocess.Popen[str]) -> set[int]:
    """Ports at which the processes below this one listen, less those that the system gave."""
    below = psutil.Process(process.pid).children(recursive=True)
    ports = {
        each.laddr.port
        for child in below
        for each in child.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    return {port for port in ports if port < 32768}


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("ending", ["by itself", "SIGTERM", "the head is lost"])
def test_the_command_runs_on_the_jobs_own_ray_and_its_end_is_told(
    start, tmp_path: Path, ending: str
) -> None:
    process = start()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"sdst-ray-{JOB}-0"
    assert folder.is_dir()
    assert "'CPU': 3.0" in (tmp_path / "ready").read_text()
    end = time.monotonic() + 60
    while not (ports := listening(process)) >= METRICS:
        assert time.monotonic() < end, ports
        time.sleep(0.2)
    assert first_port(JOB) in ports
    assert ports <= set(range(first_port(JOB), first_port(JOB) + PORTS))
    if ending == "by itself":
        (tmp_path / "ready.end").touch()
    elif ending == "SIGTERM":
        os.kill(process.pid, signal.SIGTERM)
    else:
        below = psutil.Process(process.pid).children(recursive=True)
        [head] = [child for child in below if child.name() == "gcs_server"]
        head.kill()
    _, said = process.communicate(timeout=150)
    expected = {"by itself": 3, "SIGTERM": 75, "the head is lost": 76}
    assert process.returncode == expected[ending], said
    assert not folder.exists()


def test_a_node_that_is_told_to_stop_does_not_wait_for_a_head_that_will_not_come() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "2"}
    step |= {"SLURM_STEP_NODELIST": "127.0.0.1,other", "SLURM_PROCID": "1", "RAY_AUTH_TOKEN": "a"}
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"sdst-ray-{JOB}-1"
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.slurm.ray_node", "-c", "pass"],
        env=os.environ | step | {"SLURM_JOB_ID": str(JOB)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not folder.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=60)  # it would wait for five minutes
    finally:
        process.kill()
    assert process.returncode == 0  # the first node says what becomes of the job
    assert "node 1: Ray's head does not answer" in said


@pytest.mark.parametrize(
    ("missing", "said"),
    [("SLURM_STEP_ID", "start it with srun"), ("RAY_AUTH_TOKEN", "extract.sbatch makes one")],
)
def test_a_node_that_is_not_told_enough_is_refused_in_one_line(missing: str, said: str) -> None:
    step = {"SLURM_STEP_ID": "0", "RAY_AUTH_TOKEN": "a", "SLURM_PROCID": "0"}
    own = {name: value for name, value in step.items() if name != missing}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "RAY_AUTH"))}
    done = subprocess.run(
        [sys.executable, "-m", "launch.slurm.ray_node", "-c", "pass"],
        env=kept | own,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {missing}")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
