"""Does the RayJob extract on a cluster of pods, and go on where a lost cluster stopped?

What KubeRay adds to the manifest is added here as it adds it: `ray start` with flags from
rayStartParams and limits, the workers' wait for the head, the pod that submits the entrypoint, and
a new cluster after a failure.
"""

import copy
import hashlib
import json
import math
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kubernetes.containers import Cluster, Object, Pod, cores, stop

HEAD, SUBMITTER = "ray-head", "ray-submitter"
SERVICE = "sdst-extraction-head-svc.sdst.svc.cluster.local"
BASH = ["/bin/bash", "-c", "--"]
READY = "until ray health-check --address {address} > /dev/null 2>&1; do sleep 5; done"
HEALTHY = (
    'python -c "import urllib.request; r=urllib.request.urlopen('
    "'{url}/api/gcs_healthz', timeout=10); exit(0 if b'success' in r.read() else 1)\""
)
SUBMIT = (
    "until {healthy} >/dev/null 2>&1 ; do sleep 2 ; done ; "
    "if ! ray job status --address {url} {id} >/dev/null 2>&1 ; then "
    "ray job submit --address {url} --no-wait --submission-id {id} -- {entrypoint} ; fi ; "
    "ray job logs --address {url} --follow {id}"
)
START = 300.0
"""Seconds within which every pod of a cluster must be ready."""
PROBE = {"httpGet": {"path": "/api/healthz", "port": 52365}, "timeoutSeconds": 5}


class RayJob:
    """The RayJob's clusters, one after the other, and the job on them."""

    def __init__(self, cluster: Cluster, log: Path, **extra: str) -> None:
        self._cluster, self._log, self._extra = cluster, log, extra
        self.spec: Object = cluster.find("RayJob", "sdst-extraction")["spec"]
        self.pods: list[Pod] = []
        self._tries = 0

    def start(self) -> None:
        """A new cluster, and on it the job."""
        self._tries += 1
        cluster = self.spec["rayClusterSpec"]
        head = cluster["headGroupSpec"]
        started = ray_start("ray start --head", head, {})
        address = {"RAY_ADDRESS": "127.0.0.1:6379"}
        given = [(HEAD, ray_pod(head["template"], started), address)]
        for group in cluster["workerGroupSpecs"]:
            started = ray_start("ray start", group, {"address": f"{SERVICE}:6379"})
            template = ray_pod(group["template"], started, wait_for=f"{SERVICE}:6379")
            for number in range(group["replicas"]):
                name = f"ray-{group['groupName']}-{number}"
                address = {"RAY_ADDRESS": f"{SERVICE}:6379"}
                given.append((name, template, address))
        self.pods = [self._pod(*each) for each in given]
        end = time.monotonic() + START
        while not self.healthy():  # the operator submits when every pod is ready
            if time.monotonic() > end:
                raise SystemExit(f"extraction: no cluster within {START:.0f} s; see {self._log}")
            for place, pod in enumerate(self.pods):
                if pod.code is not None:  # Ray gives up after 30 s; the kubelet starts it again
                    self.pods[place] = self._pod(*given[place])
            time.sleep(0.5)
        template = copy.deepcopy(self.spec["submitterPodTemplate"])
        [container] = template["spec"]["containers"]
        url = f"http://{SERVICE}:8265"
        command = SUBMIT.format(
            healthy=HEALTHY.format(url=url),
            url=url,
            id=self.job,
            entrypoint=self.spec["entrypoint"],
        )
        container |= {"command": ["/bin/bash", "-ce", "--"], "args": [command]}
        self.pods.append(self._pod(SUBMITTER, template, {}))

    def _pod(self, name: str, template: Object, further: dict[str, str]) -> Pod:
        return Pod(self._cluster, name, template, self._log, {**self._extra, **further})

    @property
    def job(self) -> str:
        return f"sdst-extraction-{self._tries}"

    def status(self) -> str | None:
        """What the operator hears from the head of the job; None while it hears nothing."""
        url = f"http://{self._cluster.network.address(HEAD)}:8265/api/jobs/{self.job}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(json.load(answer)["status"])
        except OSError:
            return None

    def actors(self) -> dict[str, list[str]]:
        """The classes of the actors that live on each pod; empty while the head does not say."""
        addresses = {self._cluster.network.address(pod.name): pod.name for pod in self.pods}
        try:
            names = {node["node_id"]: addresses[node["node_ip"]] for node in self._listed("nodes")}
            found: dict[str, list[str]] = {name: [] for name in names.values()}
            for actor in self._listed("actors"):
                if actor["state"] == "ALIVE":
                    found[names[actor["node_id"]]].append(actor["class_name"])
        except (OSError, KeyError):
            return {}
        return {name: sorted(classes) for name, classes in found.items()}

    def _listed(self, what: str) -> list[dict[str, Any]]:
        url = f"http://{self._cluster.network.address(HEAD)}:8265/api/v0/{what}?detail=1&limit=1000"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return list(json.load(answer)["data"]["result"]["result"])

    def healthy(self) -> bool:
        """Whether the probes that the operator gives to Ray's pods succeed on all of them."""
        return all(pod.probe("readinessProbe") for pod in self.pods)

    def until_it_ends(self, limit: float, watch: Callable[[], None] = lambda: None) -> str:
        """SUCCEEDED or FAILED; a cluster whose head is gone has failed."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            status = self.status()
            if status in ("SUCCEEDED", "FAILED", "STOPPED"):
                return status
            if self.pods[0].code is not None:
                return "FAILED"
            watch()
            time.sleep(0.3)
        raise SystemExit(f"extraction: not ended after {limit:.0f} s; see {self._log}")

    def delete(self) -> None:
        """As the operator deletes a cluster."""
        stop(self.pods)


def ray_start(command: str, group: Object, further: dict[str, str]) -> str:
    """The command that KubeRay makes of a group's parameters and limits."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    derived = {
        "num-cpus": str(math.ceil(float(cores(limits["cpu"])))),
        "memory": str(int(limits["memory"].removesuffix("Gi")) * 2**30),
        "metrics-export-port": "8080",
        "dashboard-agent-listen-port": "52365",
    }
    if "nvidia.com/gpu" in limits:
        derived["num-gpus"] = limits["nvidia.com/gpu"]
    flags = {**derived, **further, **group["rayStartParams"]}
    words = " ".join(f"--{name}={value}" for name, value in sorted(flags.items()))
    return f"ulimit -n 65536; {command} --block {words}"


def ray_pod(template: Object, command: str, wait_for: str | None = None) -> Object:
    """A pod of the cluster, with what KubeRay adds to its template."""
    pod = copy.deepcopy(template)
    spec = pod["spec"]
    [container] = spec["containers"]
    if wait_for:
        first = copy.deepcopy(container)
        first.pop("envFrom", None)
        limits = {"cpu": "200m", "memory": "256Mi"}
        first |= {"name": "wait-gcs-ready", "command": BASH, "resources": {"limits": limits}}
        first["args"] = [READY.format(address=wait_for)]
        spec["initContainers"] = [first]
    container |= {"command": BASH, "args": [command], "readinessProbe": PROBE}
    memory = container["resources"]["limits"]["memory"]
    shared = {"name": "shared-mem", "emptyDir": {"medium": "Memory", "sizeLimit": memory}}
    spec["volumes"] = [*spec["volumes"], shared]
    container["volumeMounts"] = [
        *container["volumeMounts"],
        {"name": "shared-mem", "mountPath": "/dev/shm"},
    ]
    return pod


def shards(folder: Path) -> dict[str, str]:
    """Hashes of a feature set's files, less those that tell times."""
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != "summary.json"]
    return {
        str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in sorted(files)
    }


def extract(cluster: Cluster, features: str, lose_the_head: bool, limit: float) -> dict[str, Any]:
    """Extract all splits, on a second cluster if the first loses its head; what happened.

    Nothing but the job itself may run on the head, and no shard that was made is made again.
    """
    log = cluster.work / f"{features}.log"
    log.unlink(missing_ok=True)
    job = RayJob(cluster, log, FEATURES=f"/data/{features}")
    folder = cluster.claim("sdst-data") / features
    told: dict[str, Any] = {}
    kept: dict[Path, int] = {}
    began = time.monotonic()

    def watch() -> None:
        made = {path: path.stat().st_mtime_ns for path in folder.rglob("[0-9]*.json")}
        if made and not told.get("actors"):
            told.setdefault("first shard after", round(time.monotonic() - began, 1))
            told["actors"] = job.actors()
        if told.get("actors") and lose_the_head and not kept:
            kept.update(made)
            job.pods[0].signal("KILL")

    job.start()
    status = job.until_it_ends(limit, watch)
    if kept:
        told |= {"shards kept": len(kept), "the job on the first cluster": status}
        job.delete()
        job.start()
        status = job.until_it_ends(limit)
    told["seconds"] = round(time.monotonic() - began, 1)
    job.delete()
    again = [path.name for path, made in kept.items() if path.stat().st_mtime_ns != made]
    idle = set(told.get("actors", {}).get(HEAD, ["not seen"])) <= {"JobSupervisor"}
    if status != "SUCCEEDED" or again or not idle or (lose_the_head and not kept):
        raise SystemExit(f"extraction: {status}, made again: {again}, {told}; see {log}")
    told["files"] = shards(folder)
    return told
