"""One rank, or a whole host, is gone: the others say so, and the launcher starts them anew.

Hosts are network namespaces with an address each, joined by a pair of virtual cables; that needs
root and the `ip` command.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_rank_that_dies_is_noticed_by_the_other_which_says_so(ranks, flags):
    started = ranks.start(flags(name="run"), world=2, SIGNAL=f"1:7:{int(signal.SIGKILL)}")
    codes, outputs = ranks.wait(started)
    assert codes == [76, -9], outputs
    assert "rank 0: lost contact with another process" in outputs[0]
    assert ranks.run(flags(name="run"))[0] == [0]


def test_a_rank_that_hangs_is_given_up_after_the_configured_time(ranks, flags):
    started = ranks.start(
        flags(name="run", timeout=10), world=2, SIGNAL=f"1:7:{int(signal.SIGSTOP)}"
    )
    process, log = started[0]
    process.join(400)
    assert process.exitcode == 76, log.read_text()
    assert "lost contact" in log.read_text()


def test_a_full_disk_is_said_by_the_rank_that_writes_and_room_lets_both_go_on(
    ranks, flags, small_disk, fill
):
    given = flags(name=small_disk.name, **{"checkpoints.every": 2, "checkpoints.keep": 1})
    filler = fill()
    with open(filler, "r+b") as file:
        file.truncate(filler.stat().st_size - 24_000)  # for the configuration and the first records
    codes, outputs = ranks.run(given, world=2)
    assert codes == [2, 76], outputs
    [line] = [line for line in outputs[0].splitlines() if line.startswith("error: ")]
    assert "checkpoints/step_00000002: cannot be written: No space left on device" in line
    assert "training stopped at step 4 and goes on from the beginning" in line
    assert "Traceback" not in outputs[0]
    filler.unlink()
    assert ranks.run(given, world=2)[0] == [0, 0]


def test_the_launcher_starts_the_ranks_anew_when_one_is_lost(ranks, flags):
    """Both go on from the last checkpoint; the command is the one that the files give."""
    run, log = ranks.folder / "run", ranks.folder / "log"
    changes = {"checkpoints.every": 2, "epochs": 2, "eval.every": 2}
    with open(log, "w") as output:
        launcher = subprocess.Popen(
            [
                *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"),
                "--config_file=configs/accelerate/ddp.yaml", "--num_processes=2",
                "--rdzv_backend=c10d", "--max_restarts=3", "tests/distributed/program.py",
                *flags(name="run", **changes), f"--runs={ranks.folder}",
            ],
            env=os.environ | {
                "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PAUSE": "0.3",
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            },
            stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
    try:
        while not (run / "checkpoints" / "latest").exists():
            assert launcher.poll() is None, log.read_text()
            time.sleep(0.1)
        [noted] = run.glob("pairs-1-*.jsonl")
        os.kill(int(noted.stem.rpartition("-")[2]), signal.SIGKILL)
        assert launcher.wait(300) == 0, log.read_text()
    finally:
        launcher.terminate()  # it takes its ranks along
        launcher.wait()
    assert log.read_text().count("2 process(es) on 1 host(s)") == 2
    assert "going on from step" in log.read_text()
    assert ranks.records("run").keys() == set(range(1, 13))


@pytest.fixture
def hosts():
    """Two hosts, by name and address."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the ip command")
    names = [f"sdst{os.getpid()}{letter}" for letter in "ab"]
    made = [(name, f"10.77.0.{number}") for number, name in enumerate(names, start=1)]

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable", "netns",
               names[1])  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        for name, address in made:
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def kill_host(name):
    """Kill all that runs there; ranks have sessions of their own and outlive their launcher."""
    listing = subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=True)
    for pid in listing.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("fault", ["killed", "cut off"])
def test_the_remaining_host_goes_on_from_the_last_checkpoint(hosts, ranks, flags, fault):
    """Elastic rendezvous: one or two hosts; the first keeps the meeting place."""
    run = ranks.folder / "run"
    arguments = flags(
        name="run", timeout=15, **{"checkpoints.every": 2, "epochs": 3, "eval.every": 3}
    )
    launched = []
    for name, address in hosts:
        command = [
            "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run",
            "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d",
            f"--rdzv-endpoint={hosts[0][1]}:29400", "--rdzv-id=sdst", f"--local-addr={address}",
            # The name of the machine, by which a launcher knows its own address, is no host's here.
            f"--rdzv-conf=is_host={address == hosts[0][1]},last_call_timeout=8,"
            "keep_alive_interval=2,keep_alive_max_attempt=3",
            "--monitor-interval=1", str(ROOT / "tests/distributed/program.py"),
            *arguments, f"--runs={ranks.folder}",
        ]  # fmt: skip
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable",
            "PAUSE": "0.5", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }  # fmt: skip
        log = open(ranks.folder / f"host-{address}.log", "w")  # noqa: SIM115 - as long as the host
        launched.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )
        )
    try:
        while len(list(run.glob("pairs-*"))) < 2 or not (run / "checkpoints" / "latest").exists():
            assert all(host.poll() is None for host in launched), [
                file.read_text()[-3000:] for file in ranks.folder.glob("host-*.log")
            ]
            time.sleep(0.2)
        began = time.monotonic()
        if fault == "killed":
            kill_host(hosts[1][0])
        else:
            subprocess.run(["ip", "-n", hosts[0][0], "link", "set", "cable", "down"], check=True)
        while len(list(run.glob("pairs-*"))) < 3:
            assert launched[0].poll() is None, (ranks.folder / "host-10.77.0.1.log").read_text()
            time.sleep(0.2)
        print(f"{fault}: training again after {time.monotonic() - began:.0f} s")
        assert launched[0].wait(300) == 0, (ranks.folder / "host-10.77.0.1.log").read_text()
        assert (run / "metrics.json").exists()
    finally:
        for name, _ in hosts:
            kill_host(name)
        for host in launched:
            host.wait()
    output = (ranks.folder / "host-10.77.0.1.log").read_text()
    assert "lost contact with another process" in output
    assert "2 process(es) on 2 host(s)" in output
    assert "1 process(es) on 1 host(s)" in output
    assert ranks.records("run").keys() == set(range(1, 19))
