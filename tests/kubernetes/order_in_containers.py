"""Does the order's pod start each stage when what it needs is there, and none before?

The pod is the rendered Job's, with its account's token; the API is one in small on this machine and
holds the suspended objects as they are rendered.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conftest import build_feature_set
from tests.kubernetes.api import serving
from tests.kubernetes.containers import Cluster, Pod, rendered
from tests.kubernetes.pod_network import GATEWAY

STAGES = {
    "trainer.kubeflow.org/v1alpha1/trainjobs/sdst": ("TrainJob", "sdst"),
    "batch/v1/jobs/sdst-evaluation": ("Job", "sdst-evaluation"),
    "batch/v1/jobs/sdst-prediction": ("Job", "sdst-prediction"),
}


def order(cluster: Cluster, limit: float) -> dict[str, Any]:
    """The features come one after the other, then the run is finished."""
    features = cluster.claim("sdst-data") / "features-order"
    run = cluster.claim("sdst-runs") / "order"
    account, log = cluster.work / "account", cluster.work / "order.log"
    for folder in (features, run, account):
        shutil.rmtree(folder, ignore_errors=True)
    log.unlink(missing_ok=True)
    began = time.monotonic()
    with serving(account, GATEWAY) as api:
        own = replace(cluster, objects=rendered("dev"), account=account)
        paths = [api.add(name, own.find(*which)["spec"]) for name, which in STAGES.items()]
        template = own.find("Job", "sdst-order")["spec"]["template"]
        extra = {
            "FEATURES": "/data/features-order",
            "RUN": "order",
            "KUBERNETES_SERVICE_HOST": GATEWAY,
            "KUBERNETES_SERVICE_PORT": str(api.port),
        }
        pod = Pod(own, "job", template, log, extra)

        def until(done: Callable[[], bool], what: str) -> float:
            while not done():
                if pod.code is not None or time.monotonic() - began > limit:
                    raise SystemExit(f"order: {what} did not come; status {pod.code}, see {log}")
                time.sleep(0.2)
            return round(time.monotonic() - began, 1)

        told: dict[str, Any] = {}
        for split in ("train", "dev", "val"):
            place = f"waiting: /data/features-order/{split}"
            told[f"waits for {split}"] = until(lambda p=place: says(log, p), place)  # type: ignore[misc]
            if api.patched:
                raise SystemExit(f"order: {api.patched} was started without {split}")
            build_feature_set(features / split, videos=2)
        told["training started"] = until(lambda: api.patched == paths[:1], "the training")
        until(lambda: says(log, "waiting: /runs/order"), "the wait for the run")
        if api.patched != paths[:1]:
            raise SystemExit(f"order: {api.patched} was started without a run")
        run.mkdir()
        (run / "metrics.json").write_text(json.dumps({"metrics": {}}))
        if code := pod.wait(limit):
            raise SystemExit(f"order: status {code}; see {log}")
        told["ended"] = round(time.monotonic() - began, 1)
        suspended = [api.objects[path]["spec"]["suspend"] for path in paths]
        if api.patched != paths or any(suspended):
            raise SystemExit(f"order: patched {api.patched}")
    return told


def says(log: Path, what: str) -> bool:
    return log.is_file() and what in log.read_text()
