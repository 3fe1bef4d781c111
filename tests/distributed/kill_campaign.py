"""Does extraction come to the same bytes whatever dies on the way?

    python -m tests.distributed.kill_campaign --disturbances 30
    python -m tests.distributed.kill_campaign --hosts namespaces
    python -m tests.distributed.kill_campaign --tars true

Starts a Ray cluster of three nodes on this machine, makes features undisturbed, then makes them
again and again while, at random moments, an actor is killed, the driver, or a whole node, all by
SIGKILL. With `namespaces` every node is a host with an address of its own (root and the `ip`
command are needed), and a host may also lose its cable. A killed driver is started again by the
same command, a lost node is replaced. After each extraction all files are compared with the
undisturbed ones, and once more after a run on top, which must find nothing to do. Prints a line per
disturbance; the status is 0 if no byte differs.
"""

import hashlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from tests.data_pipeline.conftest import write_video
from tests.data_pipeline.extraction.archives import write_tar
from tests.distributed.namespaces import Host, Network

ROOT = Path(__file__).resolve().parents[2]
ACTORS = {"encoder": "Extractor", "decoder": "Decoder"}
HEALTH = {"health_check_period_ms": 1000, "health_check_failure_threshold": 10}
STORE = 100 * 2**20
CONFIG = """
encoder:
  video_layers: [4, 16]
  video_options: {image_size: 64}
  text_layers: [5]
  clip_length: 0.5
  batch: 4
sharding:
  videos: 2
"""


def main(
    disturbances: int = 30,
    folder: Path | None = None,
    hosts: Literal["processes", "namespaces"] = "processes",
    videos: int = 16,
    tars: bool = False,
    longest_wait: float = 20.0,
    seed: int = 0,
    limit: float = 3600.0,
) -> int:
    """Disturb extractions until enough has been killed.

    Args:
        disturbances: how often to kill something
        folder: where inputs and outputs go; default: a new temporary one
        hosts: what the cluster's nodes are
        videos: videos of the set
        tars: the videos lie in tars of two, with captions
        longest_wait: seconds between two disturbances, at most
        seed: of the moments and victims
        limit: seconds after which no further extraction is begun
    """
    began, rng = time.monotonic(), random.Random(seed)
    folder = folder or Path(tempfile.mkdtemp(prefix="sdst-campaign"))
    make_inputs(folder, videos, tars)
    # What the cluster's processes inherit: by it they are told from those of other clusters.
    os.environ["SDST_CAMPAIGN"] = str(folder)
    os.environ["PYTHONPATH"] = str(ROOT)
    # Other programs that look for a running Ray are not to find this one.
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray")
    os.environ |= {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    # `ray start --head` asks for the token of ~/.ray, if there is one, which what joins the cluster
    # shows only when told to: all wait for each other in vain.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    print(f"{folder}, Ray's logs in {os.environ['RAY_TMPDIR']}", flush=True)
    killed: Counter[str] = Counter()
    differing = runs = 0
    with ExitStack() as stack:
        stack.enter_context(ending_all(folder))
        cluster: Processes | Namespaces
        if hosts == "processes":
            cluster = Processes()
        else:
            cluster = Namespaces(stack.enter_context(Network()))
        expected = undisturbed(cluster, folder)
        print(f"undisturbed: {len(expected)} files, {time.monotonic() - began:.0f} s", flush=True)
        while killed.total() < disturbances and time.monotonic() - began < limit:
            runs += 1
            output = folder / f"run{runs}"
            for kind in disturbed(cluster, folder, output, rng, longest_wait):
                killed[kind] += 1
                passed = time.monotonic() - began
                print(f"{passed:6.0f} s, run {runs}: lost {kind} ({killed.total()})", flush=True)
            finished = hashes(output)
            again = drive(cluster, folder, output).wait()
            made = json.loads((output / "summary.json").read_text())["shards_made"]
            same = finished == expected == hashes(output) and again == 0 and made == 0
            differing += not same
            print(f"run {runs}: {'the same bytes' if same else 'DIFFERENT BYTES'}", flush=True)
    kinds = ", ".join(f"{count} {kind}s" for kind, count in killed.items())
    print(f"{runs} extractions, {killed.total()} losses ({kinds}): {differing} differ")
    return int(differing > 0 or killed.total() < disturbances)


def make_inputs(folder: Path, videos: int, tars: bool) -> None:
    """extract.yaml, and annotations.jsonl with videos/, or tars/."""
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    (folder / "tars").mkdir(exist_ok=True)
    rows = []
    for number in range(videos):
        frames = 20 + 7 * number
        write_video(folder / "videos" / f"v{number}.mp4", frames=frames)
        row = {"qid": number, "query": f"thing {number % 5}", "vid": f"v{number}"}
        rows.append(row | {"duration": frames / 10, "relevant_windows": [[0, 1]]})
    if not tars:
        (folder / "annotations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        inputs = f"annotations: {folder}/annotations.jsonl\nvideos: {folder}/videos\n"
    else:
        for first in range(0, videos, 2):
            members = []
            for row in rows[first : first + 2]:
                video = folder / "videos" / f"{row['vid']}.mp4"
                members += [(video.name, video.read_bytes())]
                members += [(f"{row['vid']}.txt", str(row["query"]).encode())]
            write_tar(folder / "tars" / f"{first:03d}.tar", members)
        inputs = f"videos: {folder}/tars\ncaptions: true\n"
    (folder / "extract.yaml").write_text(CONFIG + inputs)


class Processes:
    """A Ray cluster of a head without processors and two nodes of one processor."""

    kinds = (*ACTORS, "driver", "node")

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()
        self._add(num_cpus=0, include_dashboard=False, no_monitor=True, _system_config=HEALTH)
        self.address: str = self._cluster.address
        self._nodes = [self._add(), self._add()]

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a driver."""
        return subprocess.Popen(command, **options)

    def lose_node(self, _: str, rng: random.Random) -> None:
        """Kill a node with all its processes, and bring up another."""
        node = self._nodes.pop(rng.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._add())

    def _add(self, **options: Any) -> Any:
        options = {
            "num_cpus": 1,
            "object_store_memory": STORE,
            "include_log_monitor": False,
            **options,
        }
        for attempt in range(10):
            try:
                return self._cluster.add_node(wait=False, **options)
            except Exception:  # Ray gives a node 30 s to start, too few where much else runs
                if attempt == 9:
                    raise
        raise AssertionError


class Namespaces:
    """The same cluster with every node on a host of its own. The driver runs beside the head."""

    kinds = (*ACTORS, "driver", "node", "cable")

    def __init__(self, network: Network) -> None:
        self._network = network
        self.address = f"{network.hub.address}:6379"
        self._ray(
            network.hub,
            *("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false"),
            f"--system-config={json.dumps(HEALTH)}",
        )
        self._nodes = [self._add(), self._add()]
        self._cut: list[Host] = []

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a driver."""
        return self._network.start(self._network.hub, command, **options)

    def lose_node(self, kind: str, rng: random.Random) -> None:
        """Kill a host, or pull its cable, and bring up another.

        A host without its cable goes on, and writes to the disk that all share, until the next one
        is lost.
        """
        for host in self._cut:
            self._network.kill(host)
        host = self._nodes.pop(rng.randrange(len(self._nodes)))
        if kind == "node":
            self._network.kill(host)
        else:
            self._network.cut(host)
        self._cut = [host] if kind == "cable" else []
        self._nodes.append(self._add())

    def _add(self) -> Host:
        host = self._network.add()
        self._ray(host, f"--address={self.address}", "--num-cpus=1")
        return host

    def _ray(self, host: Host, *flags: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
        command += [f"--node-ip-address={host.address}", f"--object-store-memory={STORE}", *flags]
        for _ in range(10):
            started = self._network.start(
                host, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            output, _ = started.communicate()
            if started.returncode == 0:
                return
        raise RuntimeError(f"Ray does not start on {host}: {output.decode()}")


def drive(hosts: Processes | Namespaces, folder: Path, output: Path) -> subprocess.Popen[bytes]:
    """The extraction command, on the cluster."""
    return hosts.start(
        [
            *(sys.executable, "-m", "launch.extract", "--config", str(folder / "extract.yaml")),
            *("--split", "train", "--output", str(output)),
        ],
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": hosts.address},
        stdout=subprocess.DEVNULL,
    )


def undisturbed(hosts: Processes | Namespaces, folder: Path) -> dict[str, str]:
    """Hashes of what an extraction makes when nothing dies."""
    if drive(hosts, folder, folder / "undisturbed").wait():
        raise RuntimeError("the undisturbed extraction failed")
    return hashes(folder / "undisturbed")


def disturbed(
    hosts: Processes | Namespaces,
    folder: Path,
    output: Path,
    rng: random.Random,
    longest_wait: float,
) -> Iterator[str]:
    """Make features into `output` and kill on the way; yields what was killed."""
    driver = drive(hosts, folder, output)
    kind = ""
    while True:
        try:
            status = driver.wait(rng.uniform(0, 2 if kind else longest_wait))
        except subprocess.TimeoutExpired:
            kind = kind or rng.choice(hosts.kinds)
            if kind == "driver":
                driver.kill()
                driver.wait()
                driver = drive(hosts, folder, output)
            elif kind not in ACTORS:
                hosts.lose_node(kind, rng)
            elif not kill_actor(ACTORS[kind], folder, rng):
                # None has started yet. Another kind in its place would spare the decoders, which
                # live for a small part of a run.
                continue
            yield kind
            kind = ""
        else:
            if status:
                raise RuntimeError(f"the extraction ended with status {status}")
            return


def kill_actor(kind: str, folder: Path, rng: random.Random) -> bool:
    """Kill the process of an actor of the campaign's cluster, if there is one."""
    actors = processes(folder, f"ray::{kind}")
    if not actors:
        return False
    try:
        os.kill(rng.choice(actors), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def processes(folder: Path, title: str = "") -> list[int]:
    """Ids of the campaign's living processes whose command line begins with `title`."""
    mark = f"SDST_CAMPAIGN={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            named = (process / "cmdline").read_bytes().startswith(title.encode())
            if named and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return sorted(found)


@contextmanager
def ending_all(folder: Path) -> Iterator[None]:
    """Kill all of the campaign's processes at the end, also if a signal asks for it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    finally:
        while left := processes(folder):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


def stop(number: int, _: object) -> None:
    """Unwind, once: a second signal must not keep the first from being tidied up after."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def hashes(output: Path) -> dict[str, str]:
    """SHA-256 of all files that must not depend on how the work went."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in ("summary.json", ".lock")
    }


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
