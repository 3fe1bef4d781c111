"""Run what the manifests describe in real containers on this machine, without a cluster.

    python -m tests.kubernetes.run_in_containers --work DIR [what …]

    quickstart    the image's own command, in small
    order         the order's pod starts each stage when what it needs is there, and none before
    dev           the `dev` overlay whole: videos, RayJob, TrainJob, evaluation, prediction
    extraction    the `gpu` overlay's RayJob, its groups apart, undisturbed and with its head lost
    undisturbed preempted killed cut
                  training on two nodes, the second of which is taken away; the same weights
    wrong         the same with a mistaken setting: it must not be tried again
    cuda          the CUDA image without a GPU: it loads, and trains as `gpu` says

In this order, all but the last by default; the later ones use the features that `dev` made.
Every training is recorded by the manifests' MLflow on Postgres, and compared with what that has.
Needs root, podman, runc, iproute2, kubectl, the image (`make image`), and one of Postgres: that of
the manifest, or with --postgres another one of the same major version.
"""

import argparse
import json
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.containers import Cluster, Object, Pod, rendered, stop
from tests.kubernetes.cuda_in_containers import without_a_gpu
from tests.kubernetes.extraction_in_containers import SERVICE, extract, shards
from tests.kubernetes.order_in_containers import order
from tests.kubernetes.pod_network import Network
from tests.kubernetes.tracking_in_containers import (
    backup_and_restore,
    compare_with_mlflow,
    tracking,
)
from tests.kubernetes.training_in_containers import MASTER, Training, train, verdict

DISTURBANCES = ("undisturbed", "preempted", "killed", "cut")
WHAT = ("quickstart", "order", "dev", "extraction", *DISTURBANCES, "wrong", "cuda")
NAMES = {
    "sdst-node-0-0": (MASTER,),
    "sdst-node-0-1": (),
    "ray-head": (SERVICE,),
    "ray-encode-0": (),
    "ray-decode-0": (),
    "ray-submitter": (),
    "mlflow": (),
    "postgres": (),
    "job": (),
}
ENDURING = (
    "--epochs=10",
    "--checkpoints.every=3",
    "--tracking.every=1",
    "--timeout=20",
    "--optim.warmup=5",
)
"""Flags of the training that is disturbed: long enough, and a hung node is given up soon."""


def main() -> int:
    """Do what is asked for, and print a line of JSON about each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", default="localhost/sdst:0.1.0-cpu")
    parser.add_argument("--postgres", help="image that stands in for the manifest's")
    parser.add_argument("--work", type=Path, required=True, help="folder for claims and logs")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of one run")
    parser.add_argument("--cuda-image", default="localhost/sdst:0.1.0-cuda")
    parser.add_argument("what", nargs="*", help=", ".join(WHAT))
    given = parser.parse_args()
    if unknown := set(given.what) - set(WHAT):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(WHAT)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # containers end with us
    given.work.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(
        images={"sdst": given.image} | ({"postgres": given.postgres} if given.postgres else {}),
        work=given.work.resolve(),
        network=Network(NAMES),
        objects=rendered("dev"),
        secrets=made_up_secrets(),
    )
    weights = set()
    with cluster.network.made(), tracking(cluster):
        for what in [each for each in WHAT if each in (given.what or WHAT[:-1])]:
            if what == "quickstart":
                told = quickstart(cluster)
            elif what == "order":
                told = order(cluster, given.limit)
            elif what == "dev":
                told = dev(cluster, given.limit)
            elif what == "extraction":
                told = extraction(cluster, given.limit)
            elif what == "wrong":
                told = wrong(cluster, given.limit)
            elif what == "cuda":
                told = without_a_gpu(cluster, given.cuda_image, given.limit)
            else:
                told = disturbed(cluster, what, given.limit)
                weights.add(told["weights"])
            print(json.dumps({"what": what, **told}), flush=True)
    if len(weights) > 1:
        print("THE WEIGHTS DIFFER")
        return 1
    return 0


def made_up_secrets() -> dict[str, dict[str, str]]:
    """The secrets of the operators' page, with values of this run."""
    return {
        "sdst-postgres": {"password": secrets.token_hex(12)},
        "sdst-mlflow": {"password": secrets.token_hex(12), "session-key": secrets.token_hex(16)},
        "sdst-mlflow-client": {"username": "trainer", "password": secrets.token_hex(12)},
    }


def quickstart(cluster: Cluster) -> dict[str, Any]:
    """What the image does by itself, without root, network and anything writable but /tmp and the
    folder of the data; a second time, when nothing is missing."""
    folder = cluster.work / "quickstart"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.chown(folder, 1000, 1000)
    words = [
        *("podman", "run", "--rm", "--name", "sdst-quickstart"),
        *("--network", "none", "--shm-size", "1g", "--volume", f"{folder}:/data"),
        *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,mode=1777"),
        *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
        cluster.images["sdst"],
        *("python", "-m", "launch.quickstart", "--videos", "20"),
        *("--train", '["--epochs=2", "--model.width=64"]'),
    ]
    (cluster.work / "quickstart.log").unlink(missing_ok=True)
    told: dict[str, Any] = {}
    made: list[dict[Path, int]] = []
    for name in ("seconds", "seconds when all is there"):
        began = time.monotonic()
        with (cluster.work / "quickstart.log").open("ab") as log:
            subprocess.run(words, stdout=log, stderr=log, check=True)
        told[name] = round(time.monotonic() - began, 1)
        results = [*folder.rglob("*.tar"), *(folder / "runs/quickstart").glob("*.*")]
        made.append({path: path.stat().st_mtime_ns for path in results})
    report = folder / "runs/quickstart/report.html"
    if made[0] != made[1] or not report.is_file():
        raise SystemExit(f"quickstart: no report, or things were made twice: {made}")
    return told


def dev(cluster: Cluster, limit: float) -> dict[str, Any]:
    """Everything of the `dev` overlay, each object when what it waits for is there."""
    told: dict[str, Any] = {"data": job(cluster, "sdst-data")}
    shutil.rmtree(cluster.claim("sdst-data") / "features", ignore_errors=True)
    made = extract(cluster, "features", lose_the_head=False, limit=limit)
    width = cluster.find("TrainJob", "sdst")["spec"]["trainer"]
    training = Training(cluster, "dev", width["numNodes"], width["numProcPerNode"])
    shutil.rmtree(training.folder, ignore_errors=True)
    began = time.monotonic()
    training.start()
    if (ended := training.until_one_ends(limit)) is not None:
        raise SystemExit(f"dev: node {ended[0]} ended with {ended[1]}; see {training.log}")
    told |= {"shards' files": len(made.pop("files")), "extraction": made}
    told["training"] = round(time.monotonic() - began, 1)
    for name in ("sdst-evaluation", "sdst-prediction"):
        told[name.removeprefix("sdst-")] = job(cluster, name)
    asked = {path.stem for path in (cluster.claim("sdst-data") / "videos").glob("*.mp4")}
    found = {path.name.partition(".")[0] for path in (training.folder / "found").iterdir()}
    if not asked or not asked <= found or not (training.folder / "evaluation.json").is_file():
        raise SystemExit(f"dev: no evaluation, or no answer for {sorted(asked - found)}")
    compare_with_mlflow(cluster, training.folder)
    backup_and_restore()
    return told | {"videos asked": len(asked)}


def job(cluster: Cluster, name: str) -> float:
    """Run a Job's pod to its end; seconds."""
    began = time.monotonic()
    log = cluster.work / f"{name}.log"
    log.unlink(missing_ok=True)
    pod = Pod(cluster, "job", cluster.find("Job", name)["spec"]["template"], log)
    if code := pod.wait():
        raise SystemExit(f"{name}: status {code}; see {log}")
    return round(time.monotonic() - began, 1)


def extraction(cluster: Cluster, limit: float) -> dict[str, Any]:
    """The `gpu` overlay's RayJob, its encoder on a pod that tells Ray of a GPU."""
    ours = Cluster(
        cluster.images, cluster.work, cluster.network, set_for_this_machine(rendered("gpu"))
    )
    told: dict[str, Any] = {}
    for name, lost in (("features-apart", False), ("features-lost", True)):
        shutil.rmtree(cluster.claim("sdst-data") / name, ignore_errors=True)
        made = extract(ours, name, lose_the_head=lost, limit=limit)
        if made.pop("files") != shards(cluster.claim("sdst-data") / "features"):
            raise SystemExit(f"extraction: {name} has other bytes than `dev` made")
        told[name] = made
    return told


def set_for_this_machine(objects: list[Object]) -> list[Object]:
    """The `gpu` overlay with what an operator sets: where the data are, which encoders, how many
    and how large pods. Ray is told of a GPU that is not there; the encoder takes a processor."""
    configs = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    configs["sdst-places"] |= {
        "ANNOTATIONS": "/data",
        "VIDEOS": "/data/videos",
        "SPLITS": "train dev val",
    }
    encoders = next(
        o["data"]["extraction.yaml"]
        for o in rendered("dev")
        if o["kind"] == "ConfigMap" and o["metadata"]["name"] == "sdst-experiment"
    )
    configs["sdst-experiment"]["extraction.yaml"] = yaml.safe_dump(
        yaml.safe_load(encoders) | {"gpus": 1}
    )
    [ray] = [o["spec"]["rayClusterSpec"] for o in objects if o["kind"] == "RayJob"]
    for group, cpu in zip(
        [ray["headGroupSpec"], *ray["workerGroupSpecs"]], ("1", "1", "2"), strict=True
    ):
        group["replicas"] = 1
        [container] = group["template"]["spec"]["containers"]
        container["resources"]["limits"] |= {"cpu": cpu, "memory": "4Gi"}
    return objects


def disturbed(cluster: Cluster, how: str, limit: float) -> dict[str, Any]:
    """A training of two nodes, and what MLflow has of it."""
    runtime = cluster.find("TrainingRuntime", "sdst")["spec"]["template"]["spec"]
    [container] = runtime["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    container["args"] = [each for each in container["args"] if each not in ENDURING] + [*ENDURING]
    told = train(cluster, how, how, nodes=2, limit=limit)
    compare_with_mlflow(cluster, cluster.claim("sdst-runs") / how)
    return told


def wrong(cluster: Cluster, limit: float) -> dict[str, Any]:
    """A batch that two nodes cannot share: what the policies make of how the training ends."""
    own = replace(cluster, objects=rendered("dev"))
    config = own.find("ConfigMap", "sdst-experiment")["data"]
    config["experiment.yaml"] = config["experiment.yaml"].replace(
        "batch_size: 16", "batch_size: 15"
    )
    training = Training(own, "wrong", nodes=2)
    began = time.monotonic()
    training.start()
    ended = training.until_one_ends(limit)
    stop(training.pods)
    codes = [pod.code for pod in training.pods]
    action = ended and verdict(training.jobset, "sdst-node-0-0", ended[1])
    if action != "FailJobSet" or (training.folder / "checkpoints").exists():
        raise SystemExit(f"wrong: {codes}, {action}; see {training.log}")
    return {"statuses": codes, "then": action, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
