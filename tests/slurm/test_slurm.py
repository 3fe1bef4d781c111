"""A small form of `run_on_slurm`, where Slurm is at hand."""

from pathlib import Path

import pytest

from tests.slurm.jobs import Training, disturb
from tests.slurm.slurm import Slurm, missing

LIMIT = 300.0
"""Seconds of one wait, beside a busy machine."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory):
    if why := missing():
        pytest.skip(why)
    with Slurm(tmp_path_factory.mktemp("slurm"), nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def flags(tiny_run) -> list[str]:
    own = {"epochs": 8, "eval.every": 8, "tracking.every": 1, "checkpoints.every": 2}
    return [f"--{name}={value}" for name, value in (tiny_run | own).items()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_training_on_two_nodes_that_is_told_to_stop_is_requeued_and_ends_as_undisturbed(
    slurm: Slurm, flags: list[str]
) -> None:
    whole = Training.start(slurm, "whole", 2, *flags)
    stopped = Training.start(slurm, "stopped", 2, *flags)
    assert whole.until_ended(LIMIT) == ("COMPLETED", 0), whole.log.read_text()
    stopped.until(lambda: stopped.step >= 2, LIMIT)
    disturb(stopped, "signalled")
    stopped.until_requeued(LIMIT)
    reached = stopped.step
    assert stopped.until_ended(LIMIT) == ("COMPLETED", 0), stopped.log.read_text()
    said = stopped.log.read_text()
    assert "2 process(es) on 2 host(s)" in said
    assert f"stopped after step {reached}, which is saved" in said
    assert f"going on from step {reached}" in said
    assert stopped.restarts == 1
    assert whole.restarts == 0
    assert stopped.weights == whole.weights


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fault_of_the_users_is_never_tried_again(slurm: Slurm, flags: list[str]) -> None:
    wrong = Training.start(slurm, "wrong", 2, *flags, "--data.batch_size=15")
    assert wrong.until_ended(LIMIT) == ("FAILED", 2), wrong.log.read_text()
    assert wrong.restarts == 0


def test_a_name_of_the_rendezvous_is_that_of_a_host(slurm: Slurm, tmp_path: Path) -> None:
    """What every task of a step is told of its part."""
    code = "import os; from launch.allotment import part; print(part(os.environ))"
    said = slurm.run("srun", "--nodes=2", "--ntasks-per-node=1", "python", "-c", code)
    parts = sorted(said.splitlines())
    assert [f"rank={rank}, address='n1'" in line for rank, line in enumerate(parts)] == [True, True]
    assert len({line.rpartition("port=")[2] for line in parts}) == 1
