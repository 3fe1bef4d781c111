"""Do Postgres and MLflow run from their manifests, and does MLflow get what a training records?"""

import base64
import contextlib
import copy
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.containers import Cluster, probe
from tests.kubernetes.pod_network import PODMAN_NETWORK, sh

SAME_AGAIN = re.compile("(train/loss|train/lr|eval/|report/)")
"""Numbers that a repeated step gives again."""

INSIDE = ("podman", "exec", "--interactive", "postgres-pod-0-postgres")
PSQL = (*INSIDE, "psql", "--username", "mlflow", "--tuples-only")

START = 300.0
"""Seconds within which each of the two must say that it is ready."""


@contextlib.contextmanager
def tracking(cluster: Cluster) -> Iterator[None]:
    """Postgres and MLflow, ready, for as long as this lasts; their logs are kept."""
    for name, values in cluster.secrets.items():
        # Podman 4.3 does not read a Secret object's values back, only its own secrets.
        kept = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        sh("podman", "secret", "rm", name, check=False)
        subprocess.run(
            ["podman", "secret", "create", name, "-"],
            input=json.dumps(kept).encode(),
            check=True,
            capture_output=True,
        )
    with play(cluster, "StatefulSet", "postgres"), play(cluster, "Deployment", "mlflow"):
        check_login(cluster)
        yield


@contextlib.contextmanager
def play(cluster: Cluster, kind: str, name: str) -> Iterator[None]:
    """Run a Deployment or StatefulSet by `podman play kube`, at its host's address.

    Podman 4.3 knows no StatefulSet: it gets a Deployment with the same pod. An emptyDir of its own
    is not writable without root, so it gets a folder. Ports are left out, since it would open them
    on this machine. What a Service answers to stands in the pod's hosts file.
    """
    found = copy.deepcopy(cluster.find(kind, name))
    spec = found["spec"]["template"]["spec"]
    [container] = spec["containers"]
    asked = copy.deepcopy(container)
    container["image"] = cluster.image(container["image"])
    container.pop("ports")
    spec["hostAliases"] = [
        {"ip": address, "hostnames": [alias]} for alias, address in cluster.network.names.items()
    ]
    claims = found["spec"].pop("volumeClaimTemplates", [])
    for each in claims:
        claim = {"claimName": f"{each['metadata']['name']}-{name}-0"}
        spec["volumes"].append({"name": each["metadata"]["name"], "persistentVolumeClaim": claim})
    for volume in spec["volumes"]:
        if volume.pop("emptyDir", None) is not None:
            folder = cluster.work / "pods" / name / volume["name"]
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            folder.chmod(0o1777)
            volume["hostPath"] = {"path": str(folder), "type": "Directory"}
    found["kind"] = "Deployment"
    maps = [each for each in cluster.objects if each["kind"] == "ConfigMap"]
    file = cluster.work / f"{name}.yaml"
    file.write_text(yaml.safe_dump_all([*maps, found]))
    address, pod = cluster.network.address(name), f"{name}-pod-0"
    sh("podman", "pod", "rm", "--force", "--ignore", pod)
    for volume in spec["volumes"]:
        if "persistentVolumeClaim" in volume:
            claimed = volume["persistentVolumeClaim"]["claimName"]
            sh("podman", "volume", "rm", "--force", claimed, check=False)
    try:
        sh("podman", "play", "kube", "--network", PODMAN_NETWORK, "--ip", address, str(file))
        end = time.monotonic() + START
        while not probe(address, f"{pod}-{name}", asked, "startupProbe"):
            if time.monotonic() > end:
                raise SystemExit(f"{name}: not ready after {START:.0f} s")
            time.sleep(1)
        yield
        if not probe(address, f"{pod}-{name}", asked, "livenessProbe"):
            raise SystemExit(f"{name}: its liveness probe fails at the end")
    finally:
        with (cluster.work / f"{name}.log").open("wb") as log:
            subprocess.run(["podman", "logs", f"{pod}-{name}"], stdout=log, stderr=log, check=False)
        sh("podman", "pod", "rm", "--force", "--ignore", pod)


def check_login(cluster: Cluster) -> None:
    """Nobody gets in without a password or under a foreign host's name; the trainer's user is made
    by the administrator, as the operators' page says."""
    client = cluster.secrets["sdst-mlflow-client"]
    for user, password, headers, expected in (
        ("", "", {}, 401),
        ("admin", "wrong", {}, 401),
        ("admin", cluster.secrets["sdst-mlflow"]["password"], {"Host": "elsewhere.example"}, 403),
    ):
        try:
            ask(cluster, "experiments/get?experiment_id=0", None, user, password, headers)
            got = 200
        except urllib.error.HTTPError as error:
            got = error.code
        if got != expected:
            raise SystemExit(f"MLflow answers {got} and not {expected} to {user or 'nobody'}")
    ask(cluster, "users/create", client, "admin", cluster.secrets["sdst-mlflow"]["password"])


def backup_and_restore() -> None:
    """The commands of the operators' page: what was deleted in between is there again."""
    count = (*PSQL, "--command", "SELECT count(*) FROM metrics")
    before = sh(*count)
    dump = (*INSIDE, "pg_dump", "--username", "mlflow", "--format", "custom", "mlflow")
    saved = subprocess.run(dump, check=True, capture_output=True).stdout
    sh(*PSQL, "--command", "DELETE FROM metrics")
    restore = (*INSIDE, "pg_restore", "--username", "mlflow", "--clean", "--dbname", "mlflow")
    subprocess.run(restore, input=saved, check=True, capture_output=True)
    if sh(*count) != before or int(before) < 1:
        raise SystemExit(f"the restored database has {sh(*count)} metrics, not {before}")


def ask(
    cluster: Cluster,
    path: str,
    body: Any = None,
    user: str = "",
    password: str = "",
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Call MLflow; `path` is below /api/2.0/mlflow/. Raises HTTPError."""
    url = f"http://{cluster.network.address('mlflow')}:5000/api/2.0/mlflow/{path}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        request.add_header(name, value)
    if user:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def compare_with_mlflow(cluster: Cluster, folder: Path) -> None:
    """Every record of a run's metrics.jsonl must be in MLflow, once, and the run finished there.

    Values are compared where they do not tell times: a step that was repeated after a crash has
    those of its first life on the server.
    """
    login = cluster.secrets["sdst-mlflow-client"]
    user, password = login["username"], login["password"]
    record = json.loads((folder / "tracking.json").read_text())
    name = urllib.parse.quote(record["experiment"])
    found = ask(cluster, f"experiments/get-by-name?experiment_name={name}", None, user, password)
    asked = {
        "experiment_ids": [found["experiment"]["experiment_id"]],
        "filter": f"tags.sdst_run = '{record['key']}'",
    }
    [run] = ask(cluster, "runs/search", asked, user, password)["runs"]
    if run["info"]["status"] != "FINISHED":
        raise SystemExit(f"MLflow calls {folder.name} {run['info']['status']}")
    written: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        kind, step = row.pop("kind"), row.pop("step")
        del (
            row["time"],
            row["epoch"],
        )  # the one goes with the values, the other follows from the step
        for key, value in row.items():
            name = re.sub(r"[^\w\-.:/ ]", "_", f"{kind}/{key}".replace("@", "_at_"))
            written[name][step] = value
    for name, values in written.items():
        query = urllib.parse.urlencode({"run_id": run["info"]["run_id"], "metric_key": name})
        answer = ask(cluster, f"metrics/get-history?{query}", None, user, password)
        history = answer.get("metrics", [])
        has = {int(each["step"]): float(each["value"]) for each in history}
        same = has == values if SAME_AGAIN.match(name) else has.keys() == values.keys()
        if not same or len(history) != len(values):
            raise SystemExit(f"MLflow has other values of {folder.name}'s {name}: {has}, {values}")
