"""What a cluster's environment says of a node's part, and what a job's status asks for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from data_pipeline.errors import InputError
from launch.allotment import PORTS, first_host, first_port, goes_on, part, told_to_slurm

ROOT = Path(__file__).resolve().parents[2]
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "1",
    "SLURM_JOB_ID": "4711",
    "SLURM_GPUS_ON_NODE": "4",
}
LISTS = {
    "n1": "n1",
    "n[1-2]": "n1",
    "gpu[007-012,15],login": "gpu007",
    "gpu[5,7-9]": "gpu5",
    "login,gpu[1-2]": "login",
    "rack[3-4]n[08-09]": "rack3n08",
}


def test_a_task_of_a_step_knows_its_part_in_the_job() -> None:
    ours = part(STEP)
    assert (ours.nodes, ours.processes, ours.rank, ours.address) == (2, 4, 1, "gpu07")
    assert ours.port == first_port(4711)


def test_variables_of_torchrun_are_stronger_than_slurms() -> None:
    ours = part(STEP | {"PET_NPROC_PER_NODE": "2", "PET_MASTER_PORT": "29500"})
    assert (ours.nodes, ours.processes, ours.port) == (2, 2, 29500)


@pytest.mark.parametrize("gpus", [{}, {"SLURM_GPUS_ON_NODE": "0"}])
def test_without_gpus_a_node_has_one_process(gpus: dict[str, str]) -> None:
    told = {name: value for name, value in STEP.items() if name != "SLURM_GPUS_ON_NODE"}
    assert part(told | gpus).processes == 1


def test_an_allocation_without_a_step_is_one_node() -> None:
    """As in the shell of `salloc`, and in a batch script itself."""
    assert part({"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}).nodes == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"SLURM_STEP_NUM_TASKS": "8"}, "8 tasks on 2 nodes.*--ntasks-per-node=1"),
        ({"SLURM_STEP_NUM_NODES": "two"}, "SLURM_STEP_NUM_NODES: 'two' is no number"),
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST: '' is no list of hosts"),
        ({"PET_NODE_RANK": "-1"}, "PET_NODE_RANK: '-1' is no number of at least 0"),
        ({"PET_MASTER_PORT": "9" * 5000}, "PET_MASTER_PORT: '999"),
    ],
)
def test_a_part_that_cannot_be_is_refused_in_one_line(fault: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        part(STEP | fault)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("names", "first"), LISTS.items())
def test_the_first_host_of_a_list_is_the_one_that_slurm_names(
    names: str, first: str, tmp_path: Path
) -> None:
    assert first_host(names) == first
    if shutil.which("scontrol"):
        (tmp_path / "slurm.conf").write_text("ClusterName=none\nSlurmctldHost=localhost\n")
        own = os.environ | {"SLURM_CONF": str(tmp_path / "slurm.conf")}
        words = ["scontrol", "show", "hostnames", names]
        told = subprocess.run(words, capture_output=True, text=True, check=True, env=own).stdout
        assert told.split()[0] == first


def test_jobs_at_the_same_time_have_ports_of_their_own_below_those_that_linux_gives_away() -> None:
    ports = [first_port(job) for job in range(990_000, 991_400)]
    assert len({port // PORTS for port in ports}) == len(ports)
    assert all(port >= 1024 and port + PORTS <= 32768 for port in ports)


def test_statuses_mean_on_slurm_what_they_mean_in_the_manifests() -> None:
    [file] = (ROOT / "kubernetes").glob("components/training/runtime.yaml")
    runtime = yaml.safe_load(file.read_text())
    jobset = runtime["spec"]["template"]["spec"]
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    named = {
        status
        for rule in job["podFailurePolicy"]["rules"]
        for status in rule.get("onExitCodes", {}).get("values", ())
    }
    limit = jobset["failurePolicy"]["maxRestarts"]
    assert named == {2, 75}  # the rest restarts and is counted
    assert [goes_on(2, 0), goes_on(75, limit)] == [False, True]
    assert all(goes_on(each, limit - 1) and not goes_on(each, limit) for each in (1, 76, 137, 143))


def test_srun_tells_the_status_that_says_why() -> None:
    """It reports the largest of its tasks'."""
    assert max(told_to_slurm(2), told_to_slurm(76)) == 2
    assert max(told_to_slurm(75), told_to_slurm(76)) == 75
    assert goes_on(max(told_to_slurm(76), told_to_slurm(76)), 0)
