"""Run the training that the manifests describe in real containers, and take nodes away from it.

    python tests/kubernetes/run_in_containers.py --image localhost/sdst:0.1.0-cpu --work DIR \\
        undisturbed preempted killed cut

DIR/data holds the features, as `launch.quickstart --data DIR/data` makes them. A node is a
container in a network namespace of its own; a bridge joins them. Command, environment, mounts, user
and security context are those of the rendered `dev` overlay; PET_* variables are given as the
Kubeflow Trainer gives them; which end of a node restarts the training is read from the manifest's
policies. Needs root, podman, runc, iproute2 and kubectl.
"""

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
BRIDGE, SUBNET = "sdst0", "10.77.0"
MASTER = "sdst-node-0-0.sdst"
LOST = "Pod sdst/{name} has condition DisruptionTarget matching FailJob rule at index 1"
EXITED = "Container node for pod sdst/{name} failed with exit code {code} matching FailJob rule"


def rendered(overlay: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(ROOT / "kubernetes/overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.check_output(command, text=True)))


def sh(*words: str, check: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


@contextlib.contextmanager
def network(nodes: int) -> Iterator[None]:
    """A bridge, and one namespace per node with an `eth0` on it."""
    remove_network(nodes)
    sh("ip", "link", "add", BRIDGE, "type", "bridge")
    sh("ip", "link", "set", BRIDGE, "up")
    for node in range(nodes):
        name = f"sdst-{node}"
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", name, "master", BRIDGE, "up")
        inside = ("ip", "-n", name)
        sh(*inside, "address", "add", f"{SUBNET}.{node + 1}/24", "dev", "eth0")
        sh(*inside, "link", "set", "eth0", "up")
        sh(*inside, "link", "set", "lo", "up")
    try:
        yield
    finally:
        remove_network(nodes)


def remove_network(nodes: int) -> None:
    for node in range(nodes):
        sh("ip", "netns", "delete", f"sdst-{node}", check=False)
    sh("ip", "link", "delete", BRIDGE, check=False)


@dataclass
class Manifests:
    """What the rendered overlay says of a training, and where its claims lie on this machine."""

    image: str
    work: Path
    objects: list[dict[str, Any]] = field(default_factory=lambda: rendered("dev"))

    def data(self, name: str) -> dict[str, str]:
        return next(
            o["data"]
            for o in self.objects
            if o["kind"] == "ConfigMap" and o["metadata"]["name"] == name
        )

    @property
    def jobset(self) -> dict[str, Any]:
        runtime = next(o for o in self.objects if o["kind"] == "ClusterTrainingRuntime")
        return runtime["spec"]["template"]["spec"]

    @property
    def job(self) -> dict[str, Any]:
        return self.jobset["replicatedJobs"][0]["template"]["spec"]

    def command(self, name: str, node: int, extra: dict[str, str]) -> list[str]:
        """`podman run` of the training's container as the kubelet would start it."""
        pod = self.job["template"]["spec"]
        container, context = pod["containers"][0], pod["securityContext"]
        environment: dict[str, str] = {}
        for source in container["envFrom"]:
            if "configMapRef" in source:
                environment |= self.data(source["configMapRef"]["name"])
        environment |= {v["name"]: v["value"] for v in container["env"] if "value" in v} | extra
        words = [
            *("podman", "--runtime", "runc", "run", "--name", name, "--hostname", name),
            *("--network", f"ns:/run/netns/sdst-{node}", "--add-host", f"{MASTER}:{SUBNET}.1"),
            *("--add-host", f"{name}:{SUBNET}.{node + 1}"),
            *("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096"),
            *("--user", f"{context['runAsUser']}:{context['runAsGroup']}"),
            *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
        ]
        if container["securityContext"]["readOnlyRootFilesystem"]:
            words += ["--read-only", "--read-only-tmpfs=false"]
        mounts = {m["name"]: m for m in container["volumeMounts"]}
        for volume in pod["volumes"]:
            words += self.mount(volume, mounts[volume["name"]])
        for key, value in environment.items():
            words += ["--env", f"{key}={value}"]
        given = [*container["command"], *container["args"]]
        expanded = [re.sub(r"\$\((\w+)\)", lambda m: environment[m[1]], word) for word in given]
        return [*words, self.image, *expanded]

    def mount(self, volume: dict[str, Any], mount: dict[str, Any]) -> list[str]:
        place, suffix = mount["mountPath"], ":ro" if mount.get("readOnly") else ""
        if "emptyDir" in volume:
            size = volume["emptyDir"].get("sizeLimit", "1Gi").removesuffix("i").lower()
            if place == "/dev/shm":
                return ["--shm-size", size]
            return ["--tmpfs", f"{place}:rw,mode=1777,size={size}"]
        if "configMap" in volume:
            folder = self.work / "config" / volume["configMap"]["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for key, text in self.data(volume["configMap"]["name"]).items():
                (folder / key).write_text(text)
        else:
            claim = volume["persistentVolumeClaim"]["claimName"]
            folder = self.work / claim.removeprefix("sdst-")
            folder.mkdir(exist_ok=True)
            shutil.chown(folder, 1000, 1000)
        return ["--volume", f"{folder}:{place}{suffix}"]

    def verdict(self, name: str, code: int, lost: bool) -> str:
        """What the JobSet does about a node's end, by the policies of Job and JobSet."""
        reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        for rule in self.job["podFailurePolicy"]["rules"]:
            if lost and "onPodConditions" in rule:
                reason, message = "PodFailurePolicy", LOST.format(name=name)
            elif code in rule.get("onExitCodes", {}).get("values", ()):
                reason, message = "PodFailurePolicy", EXITED.format(name=name, code=code)
        for rule in self.jobset["failurePolicy"]["rules"]:
            patterns = rule.get("onJobFailureMessagePatterns", [""])
            if reason in rule["onJobFailureReasons"] and any(
                re.search(pattern, message) for pattern in patterns
            ):
                return str(rule["action"])
        return "RestartJobSet"


class Training:
    """All nodes of one run, started together and restarted together."""

    def __init__(self, manifests: Manifests, run: str, nodes: int) -> None:
        self._manifests, self._run, self._nodes = manifests, run, nodes
        self._log = manifests.work / f"{run}.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    def name(self, node: int) -> str:
        return f"sdst-node-0-{node}"

    def start(self) -> None:
        self._processes = []
        grace = self._manifests.job["template"]["spec"]["terminationGracePeriodSeconds"]
        for node in range(self._nodes):
            sh("podman", "rm", "--force", "--time", "0", self.name(node), check=False)
            sh("ip", "link", "set", f"sdst-{node}", "up")
            extra = {
                "RUN": self._run,
                "PET_NNODES": str(self._nodes),
                "PET_NPROC_PER_NODE": "1",
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": MASTER,
                "PET_MASTER_PORT": "29400",
            }
            words = self._manifests.command(self.name(node), node, extra)
            words.insert(words.index("run") + 1, f"--stop-timeout={grace}")
            with self._log.open("ab") as log:
                self._processes.append(subprocess.Popen(words, stdout=log, stderr=log))

    def until_one_ends(self, limit: float) -> tuple[int, int] | None:
        """The first node that ends with a fault and its status; None when all have succeeded."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            codes = [process.poll() for process in self._processes]
            for node, code in enumerate(codes):
                if code not in (None, 0):
                    return node, int(code or 0)
            if all(code == 0 for code in codes):
                return None
            time.sleep(0.2)
        raise SystemExit(f"{self._run}: not ended after {limit:.0f} s; see {self._log}")

    def stop(self) -> None:
        """As a deleted Job: SIGTERM to all that is left, SIGKILL after the grace period."""
        for node in range(self._nodes):
            subprocess.Popen(["podman", "stop", self.name(node)], **QUIET)
        for process in self._processes:
            process.wait()

    def steps(self) -> int:
        """Optimizer steps that are recorded."""
        file = self._manifests.work / "runs" / self._run / "metrics.jsonl"
        if not file.is_file():
            return 0
        records = [json.loads(line) for line in file.read_text().splitlines()]
        return max((r["step"] for r in records if r["kind"] == "train"), default=0)


def take_away(training: Training, how: str) -> float:
    """Disturb the second node; returns when."""
    name = training.name(1)
    if how == "preempted":
        sh("podman", "kill", "--signal", "TERM", name)
    elif how == "killed":
        sh("podman", "kill", "--signal", "KILL", name)
    else:
        sh("ip", "link", "set", "sdst-1", "down")
    return time.monotonic()


def carry_out(manifests: Manifests, how: str, nodes: int, limit: float) -> dict[str, Any]:
    """Train to the end, with one disturbance; what happened, with times."""
    shutil.rmtree(manifests.work / "runs" / how, ignore_errors=True)
    training = Training(manifests, how, nodes)
    told: dict[str, Any] = {"run": how}
    began = time.monotonic()
    training.start()
    if how != "undisturbed":
        while training.steps() < 1:
            if any(process.poll() is not None for process in training._processes):
                raise SystemExit(f"{how}: ended before its first step; see {training._log}")
            time.sleep(0.2)
        told["first step after"] = round(time.monotonic() - began, 1)
        told["step at disturbance"] = training.steps()
        disturbed = take_away(training, how)
    restarts = 0
    while (ended := training.until_one_ends(limit)) is not None:
        node, code = ended
        lost = how in ("killed", "cut") and node == 1
        action = manifests.verdict(training.name(node), code, lost)
        told.setdefault("ends", []).append({"node": node, "status": code, "then": action})
        if restarts == 0:
            told["noticed after"] = round(time.monotonic() - disturbed, 1)
        training.stop()
        if action == "FailJobSet" or restarts > 3:
            raise SystemExit(f"{how}: failed for good: {told}")
        restarts += 1
        before = training.steps()
        training.start()
        while training.steps() <= before and training._processes[0].poll() is None:
            time.sleep(0.2)
        told["training again after"] = round(time.monotonic() - disturbed, 1)
    told["seconds"] = round(time.monotonic() - began, 1)
    weights = manifests.work / "runs" / how / "model" / "model.safetensors"
    told["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="localhost/sdst:0.1.0-cpu")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of one training")
    parser.add_argument("--set", action="append", default=[], help="flag of the trainer")
    parser.add_argument("how", nargs="+", choices=["undisturbed", "preempted", "killed", "cut"])
    given = parser.parse_args()
    manifests = Manifests(given.image, given.work.resolve())
    container = manifests.job["template"]["spec"]["containers"][0]
    container["args"] += given.set
    results = []
    with network(given.nodes):
        for how in given.how:
            results.append(carry_out(manifests, how, given.nodes, given.limit))
            print(json.dumps(results[-1]), flush=True)
            for node in range(given.nodes):
                sh("podman", "rm", "--force", "--time", "0", f"sdst-node-0-{node}", check=False)
    same = len({result["weights"] for result in results}) == 1
    print("the same weights, bit by bit" if same else "THE WEIGHTS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
