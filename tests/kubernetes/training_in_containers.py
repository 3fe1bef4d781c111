"""Does a training of several nodes survive what happens to nodes, by the manifests' own policies?

A node is a pod of the rendered runtime; PET_* variables are given as the Kubeflow Trainer gives
them; whether a node's end restarts the training is read from the policies of Job and JobSet.
"""

import hashlib
import json
import re
import shutil
import time
from typing import Any

from tests.kubernetes.containers import Cluster, Object, Pod, stop

MASTER = "sdst-node-0-0.sdst"
EVICTED = "Pod sdst/{name} has condition DisruptionTarget matching FailJob rule at index 1"
EXITED = "Container node for pod sdst/{name} failed with exit code {code} matching FailJob rule"
TRIES = 3
"""Restarts after one disturbance; more mean that it does not recover."""


def verdict(jobset: Object, name: str, code: int, evicted: bool = False) -> str:
    """What the JobSet does about a node's end, by its own policy and that of its Job."""
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    for rule in job["podFailurePolicy"]["rules"]:
        if evicted and "onPodConditions" in rule:
            reason, message = "PodFailurePolicy", EVICTED.format(name=name)
        elif code in rule.get("onExitCodes", {}).get("values", ()):
            reason, message = "PodFailurePolicy", EXITED.format(name=name, code=code)
    for rule in jobset["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(
            re.search(pattern, message) for pattern in patterns
        ):
            return str(rule["action"])
    return "RestartJobSet"


class Training:
    """All nodes of one run, started together and restarted together."""

    def __init__(self, cluster: Cluster, run: str, nodes: int, processes: int = 1) -> None:
        self._cluster, self._run, self._nodes, self._processes = cluster, run, nodes, processes
        runtimes = [each for each in cluster.objects if each["kind"] == "TrainingRuntime"]
        self.jobset: Object = runtimes[0]["spec"]["template"]["spec"]
        self.log = cluster.work / f"{run}.log"
        self.log.unlink(missing_ok=True)
        self.folder = cluster.claim("sdst-runs") / run
        self.pods: list[Pod] = []

    def start(self, **extra: str) -> None:
        template = self.jobset["replicatedJobs"][0]["template"]["spec"]["template"]
        self.pods = [
            Pod(
                self._cluster,
                f"sdst-node-0-{node}",
                template,
                self.log,
                {
                    "RUN": self._run,
                    "PET_NNODES": str(self._nodes),
                    "PET_NPROC_PER_NODE": str(self._processes),
                    "PET_NODE_RANK": str(node),
                    "PET_MASTER_ADDR": MASTER,
                    "PET_MASTER_PORT": "29400",
                    **extra,
                },
            )
            for node in range(self._nodes)
        ]

    def until_one_ends(self, limit: float, unheard: int | None = None) -> tuple[int, int] | None:
        """The first node that ends with a fault and its status; None when all have succeeded.

        Of a node that is cut off, `unheard`, the cluster does not hear how it ends.
        """
        end = time.monotonic() + limit
        while time.monotonic() < end:
            for node, pod in enumerate(self.pods):
                if pod.code and node != unheard:
                    return node, pod.code
            if all(pod.code == 0 for pod in self.pods):
                return None
            time.sleep(0.1)
        raise SystemExit(f"{self._run}: not ended after {limit:.0f} s; see {self.log}")

    def until_step(self, step: int) -> None:
        """Wait until an optimizer step after `step` is recorded, or a node has ended."""
        while self.steps() <= step and all(pod.code is None for pod in self.pods):
            time.sleep(0.1)

    def stop(self) -> None:
        """As deleted Jobs: SIGTERM to all that is left, SIGKILL after the grace period."""
        stop(self.pods)

    def steps(self) -> int:
        """The last optimizer step that is recorded."""
        file = self.folder / "metrics.jsonl"
        if not file.is_file():
            return 0
        lines = file.read_text().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return max((each["step"] for each in records if each["kind"] == "train"), default=0)

    def weights(self) -> str:
        """The hash of what was learned."""
        file = self.folder / "model" / "model.safetensors"
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def take_away(cluster: Cluster, pod: Pod, how: str) -> float:
    """Disturb a node; returns when."""
    if how == "cut":
        cluster.network.link(pod.name, "down")
    else:
        pod.signal({"preempted": "TERM", "killed": "KILL"}[how])
    return time.monotonic()


def train(cluster: Cluster, run: str, how: str, nodes: int, limit: float) -> dict[str, Any]:
    """Train to the end, with one disturbance of the second node; what happened, with seconds."""
    training = Training(cluster, run, nodes)
    shutil.rmtree(training.folder, ignore_errors=True)
    told: dict[str, Any] = {}
    began = time.monotonic()
    training.start()
    training.until_step(0)
    told["first step after"] = round(time.monotonic() - began, 1)
    disturbed = time.monotonic()
    if how != "undisturbed":
        told["step at disturbance"] = training.steps()
        disturbed = take_away(cluster, training.pods[1], how)
    restarts, unheard = 0, 1 if how == "cut" else None
    while (ended := training.until_one_ends(limit, unheard)) is not None:
        node, code = ended
        evicted = how == "preempted" and node == 1
        action = verdict(training.jobset, training.pods[node].name, code, evicted)
        unheard = None
        told.setdefault("ends", []).append({"node": node, "status": code, "then": action})
        told.setdefault("noticed after", round(time.monotonic() - disturbed, 1))
        training.stop()
        restarts += 1
        if action == "FailJobSet" or restarts > TRIES:
            raise SystemExit(f"{how}: failed for good: {told}; see {training.log}")
        before = training.steps()
        told.setdefault("steps done", before)
        training.start()
        training.until_step(before)
        told["training again after"] = round(time.monotonic() - disturbed, 1)
    told["seconds"] = round(time.monotonic() - began, 1)
    told["weights"] = training.weights()
    return told
