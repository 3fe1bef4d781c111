"""A real Slurm on this machine: a controller and nodes, each a host with an address of its own.

Debian's packages `slurm-wlm` and `munge` are all it takes, with root and the `ip` command. Hosts
are network namespaces with a name of their own; they share the machine's disks, as the nodes of a
cluster share a file system. Each tells Slurm of one GPU, which is not there.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.distributed.namespaces import Host, Network

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "unshare", "nsenter")
CPUS = 8
"""That a node says it has."""
CONFIGURATION = """
ClusterName=sdst
SlurmctldHost=controller({controller})
AuthType=auth/munge
AuthInfo=socket={work}/munge/socket
SlurmUser=root
SlurmctldPidFile={work}/slurmctld.pid
SlurmctldLogFile={work}/slurmctld.log
SlurmdPidFile={work}/%n.pid
SlurmdLogFile={work}/%n.log
SlurmdSpoolDir={work}/spool-%n
StateSaveLocation={work}/state
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2
"""
START = 60.0
"""Seconds that daemons may take until all nodes are idle."""


def missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not installed (apt-get install slurm-wlm munge iproute2)"
    return None if os.geteuid() == 0 else "hosts of a Slurm of its own need root"


class Slurm:
    """The cluster, for as long as a `with` statement lasts; then all of it is gone."""

    def __init__(self, work: Path, nodes: int) -> None:
        self.work = work.resolve()
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._network = Network()
        self._hosts: dict[str, Host] = {}

    def __enter__(self) -> "Slurm":
        for name in ("munge", "state", *(f"spool-{node}" for node in self.nodes)):
            shutil.rmtree(self.work / name, ignore_errors=True)  # of a cluster before
            (self.work / name).mkdir(parents=True)
        self._network.__enter__()
        try:
            self._hosts = {"controller": self._network.hub}
            self._hosts |= {name: self._network.add() for name in self.nodes}
            self._configure()
            self._munge()
            self._daemon("controller", ["slurmctld", "-D"])
            for name in self.nodes:
                self.boot(name)
            self.wait(lambda: self.states() == dict.fromkeys(self.nodes, "idle"), START)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._network.__exit__()

    def _configure(self) -> None:
        """The files that the hosts read: Slurm's, and each other's names."""
        lines = [CONFIGURATION.format(work=self.work, controller=self._network.hub.address)]
        lines += [
            f"NodeName={name} NodeAddr={self._hosts[name].address} CPUs={CPUS} "
            "RealMemory=16000 Gres=gpu:1\n"
            for name in self.nodes
        ]
        (self.work / "slurm.conf").write_text("".join(lines))
        (self.work / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        names = "".join(f"{host.address} {name}\n" for name, host in self._hosts.items())
        (self.work / "hosts").write_text(f"127.0.0.1 localhost\n{names}")

    def _munge(self) -> None:
        folder = self.work / "munge"
        key = folder / "key"
        key.write_bytes(os.urandom(64))
        for path, mode in ((folder, 0o700), (key, 0o600)):
            path.chmod(mode)
        words = ["munged", "--foreground", "--force", f"--key-file={key}"]
        words += [f"--{what}-file={folder}/{what}" for what in ("log", "pid", "seed")]
        self._daemon("controller", [*words, f"--socket={folder}/socket"])
        self.wait((folder / "socket").exists, START)

    def boot(self, name: str) -> None:
        """Start a node, one that was killed, too."""
        self._daemon(name, ["slurmd", "-D"])

    def kill(self, name: str) -> None:
        """Kill all that runs on a node at once, as a power failure does."""
        self._network.kill(self._hosts[name])

    def cut(self, name: str) -> None:
        """Pull a node's cable: what runs there goes on and reaches nobody."""
        self._network.cut(self._hosts[name])

    def _daemon(self, name: str, words: list[str]) -> None:
        with open(self.work / "daemons.log", "ab") as log:
            subprocess.Popen(
                self._on(name, words),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _on(self, name: str, words: Sequence[str]) -> list[str]:
        """A command line that runs `words` on a host.

        `ip netns exec` would hide the control groups, which Slurm asks for.
        """
        return [
            *("nsenter", f"--net=/run/netns/{self._hosts[name].name}"),
            *("unshare", "--uts", "--mount", "sh", "-c"),
            f'hostname {name} && mount --bind "$0" /etc/hosts && exec "$@"',
            *(str(self.work / "hosts"), *words),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell on the cluster has."""
        kept = {k: v for k, v in os.environ.items() if not re.match("SLURM|SBATCH|PET_|RAY_", k)}
        here = str(Path(sys.executable).parent)
        return kept | {
            "SLURM_CONF": str(self.work / "slurm.conf"),
            "PATH": os.pathsep.join([here, os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *words: str, **further: str) -> str:
        """What a command on the controller's host says; `further` is added to the environment."""
        done = subprocess.run(
            self._on("controller", words),
            capture_output=True,
            text=True,
            env=self.environment | further,
            cwd=ROOT,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout.strip()

    def states(self) -> dict[str, str]:
        """The state of every node."""
        try:
            lines = self.run("sinfo", "--noheader", "--Node", "--partition=normal", "-o", "%N %t")
        except RuntimeError:  # the controller is starting
            return {}
        return dict(line.split() for line in lines.splitlines())

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job."""
        told = self.run("scontrol", "--oneliner", "show", "job", number).split("\n")[0]
        return dict(re.findall(r"(\w+)=(\S*)", told))

    def wait(self, until: Callable[[], bool], limit: float) -> None:
        """Look until something is so."""
        end = time.monotonic() + limit
        while not until():
            if time.monotonic() > end:
                raise RuntimeError(f"not within {limit:.0f} s; see {self.work}")
            time.sleep(0.2)
