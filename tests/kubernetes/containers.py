"""How do pods of the rendered manifests run on this machine, as a kubelet would run them?

A pod is a network namespace with an address of its own on one bridge; its containers are podman's.
Command, environment, mounts, user, limits and security context are those of the manifest. What is
not done: the size of an emptyDir on disk, NetworkPolicies. Needs root, podman, runc, iproute2 and
kubectl.
"""

import re
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.pod_network import Network, sh

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
Object = dict[str, Any]


def rendered(overlay: str) -> list[Object]:
    """The objects of an overlay, as `kubectl apply -k` would send them."""
    command = ["kubectl", "kustomize", str(ROOT / "kubernetes/overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.check_output(command, text=True)))


@dataclass
class Cluster:
    """The rendered objects, and what a cluster adds to them.

    Attributes:
        images: what stands here for images of the manifests, by their names without tags
        work: folder of the claims, the pods' own volumes and the logs
        secrets: values by secret and key
        account: folder of the token that pods get which may talk to the API
    """

    images: Mapping[str, str]
    work: Path
    network: Network
    objects: list[Object]
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    account: Path | None = None

    def find(self, kind: str, name: str) -> Object:
        [found] = [
            each
            for each in self.objects
            if each["kind"] == kind and each["metadata"]["name"] == name
        ]
        return found

    def claim(self, name: str) -> Path:
        folder = self.work / "claims" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def image(self, name: str) -> str:
        """What stands here for an image of the manifests, without one the image itself."""
        base = re.sub(r":[^/]*$", "", name)
        return next((here for there, here in self.images.items() if base.endswith(there)), name)

    def environment(self, container: Object) -> dict[str, str]:
        """The container's variables; fields that a cluster fills in are left out."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                values |= self.find("ConfigMap", source["configMapRef"]["name"])["data"]
            else:
                values |= self.secrets.get(source["secretRef"]["name"], {})
        for variable in container.get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            if "value" in variable:
                values[variable["name"]] = variable["value"]
            elif secret and secret["name"] in self.secrets:
                values[variable["name"]] = self.secrets[secret["name"]][secret["key"]]
            elif secret and not secret.get("optional"):
                raise SystemExit(f"{container['name']}: no secret {secret['name']}")
        return values

    def command(
        self, pod: str, spec: Object, container: Object, extra: Mapping[str, str]
    ) -> list[str]:
        """`podman run` of a container as the kubelet would start it."""
        context, own = spec["securityContext"], container["securityContext"]
        environment = {**self.environment(container), **extra}
        words = [
            *("podman", "run", "--rm", "--name", pod, "--hostname", pod),
            *("--network", f"ns:/run/netns/{self.network.namespace(pod)}"),
            *("--user", f"{context['runAsUser']}:{context['runAsGroup']}"),
            *("--stop-timeout", str(spec.get("terminationGracePeriodSeconds", 30))),
        ]
        for name, address in self.network.names.items():
            words += ["--add-host", f"{name}:{address}"]
        if own["capabilities"] == {"drop": ["ALL"]}:
            words += ["--cap-drop", "all"]
        if own["allowPrivilegeEscalation"] is False:
            words += ["--security-opt", "no-new-privileges"]
        if own["readOnlyRootFilesystem"]:
            words += ["--read-only", "--read-only-tmpfs=false"]
        limits = container["resources"]["limits"]
        words += ["--memory", quantity(limits["memory"]), "--cpus", cores(limits["cpu"])]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for mount in container["volumeMounts"]:
            words += self._mount(pod, context, volumes[mount["name"]], mount)
        if self.account and spec["automountServiceAccountToken"]:
            words += ["--volume", f"{self.account}:{ACCOUNT}:ro"]
        for key, value in environment.items():
            words += ["--env", f"{key}={value}"]
        given = container.get("args", [])
        if "command" in container:
            words += ["--entrypoint", ""]
            given = [*container["command"], *given]
        expanded = [
            re.sub(r"\$\((\w+)\)", lambda m: environment.get(m[1], m[0]), word) for word in given
        ]
        return [*words, self.image(container["image"]), *expanded]

    def _mount(self, pod: str, context: Object, volume: Object, mount: Object) -> list[str]:
        if "emptyDir" in volume:
            if volume["emptyDir"].get("medium") == "Memory":
                return ["--shm-size", quantity(volume["emptyDir"]["sizeLimit"])]
            folder = self.work / "pods" / pod / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
        elif "configMap" in volume:
            folder = self.work / "pods" / pod / volume["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for key, text in self.find("ConfigMap", volume["configMap"]["name"])["data"].items():
                (folder / key).write_text(text)
        else:
            folder = self.claim(volume["persistentVolumeClaim"]["claimName"])
        shutil.chown(folder, context["runAsUser"], context["fsGroup"])
        suffix = ":ro" if mount.get("readOnly") else ""
        return ["--volume", f"{folder}:{mount['mountPath']}{suffix}"]


class Pod:
    """A pod that runs on the host of its name: its init containers in turn, then its container.

    Attributes:
        code: the status it ended with, of its container or of the init container that failed
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        template: Object,
        log: Path,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.code: int | None = None
        self._cluster, self._spec, self._log = cluster, template["spec"], log
        self._extra = extra or {}
        self._ended, self._stopping = threading.Event(), False
        sh("podman", "rm", "--force", "--time", "0", name, check=False)
        self._forget(cluster.work / "pods" / name)
        cluster.network.link(name, "up")
        threading.Thread(target=self._run, daemon=True).start()

    def _forget(self, folder: Path) -> None:
        """Put the volumes of an earlier pod of this name away; nobody waits until they are gone."""
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
            folder.rename(old / folder.name)
            threading.Thread(target=shutil.rmtree, args=(old, True)).start()

    def _run(self) -> None:
        code = 0
        for container in [*self._spec.get("initContainers", []), *self._spec["containers"]]:
            if self._stopping:
                break
            words = self._cluster.command(self.name, self._spec, container, self._extra)
            with self._log.open("ab") as log:
                code = subprocess.run(words, stdout=log, stderr=log, check=False).returncode
            if code:
                break
        self.code = code
        self._ended.set()

    def wait(self, seconds: float | None = None) -> int | None:
        self._ended.wait(seconds)
        return self.code

    def signal(self, name: str) -> None:
        """To its process 1: TERM is a preemption, KILL a node that dies."""
        sh("podman", "kill", "--signal", name, self.name)

    def stop(self) -> None:
        """As a deleted pod: SIGTERM, and SIGKILL after the grace period."""
        self._stopping = True
        while self.code is None:  # it may be between two containers
            sh("podman", "stop", "--ignore", self.name, check=False)
            self.wait(0.5)

    def probe(self, kind: str) -> bool:
        """Whether the container's probe succeeds now."""
        [container] = self._spec["containers"]
        return probe(self._cluster.network.address(self.name), self.name, container, kind)


def probe(address: str, name: str, container: Object, kind: str) -> bool:
    """Ask a container's probe as the kubelet does: inside `name`, or over the network."""
    asked = container[kind]
    if "exec" in asked:
        words = ["podman", "exec", name, *asked["exec"]["command"]]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    port = asked["httpGet"]["port"]
    if isinstance(port, str):
        [port] = [each["containerPort"] for each in container["ports"] if each["name"] == port]
    url = f"http://{address}:{port}{asked['httpGet']['path']}"
    try:
        with urllib.request.urlopen(url, timeout=asked.get("timeoutSeconds", 1)) as answer:
            return bool(answer.status < 400)
    except OSError:
        return False


def stop(pods: Sequence[Pod]) -> None:
    """Stop all of them at once."""
    with ThreadPoolExecutor(max(1, len(pods))) as threads:
        list(threads.map(Pod.stop, pods))


def quantity(text: str) -> str:
    """Bytes as podman takes them: 2Gi is 2g."""
    return text.removesuffix("i").lower()


def cores(text: str) -> str:
    """Processors as podman takes them: 500m is 0.5."""
    return str(int(text.removesuffix("m")) / 1000) if text.endswith("m") else text
