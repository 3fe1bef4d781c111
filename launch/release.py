"""Start suspended stages of a Kubernetes cluster when what they need is there.

    python -m launch.release s3://sdst/features/train s3://sdst/features/val \
        --training trainer.kubeflow.org/v1alpha1/trainjobs/sdst \
        --run /runs/first --then batch/v1/jobs/sdst-evaluation

The training is started when every feature set is whole, what comes then when the run's folder is
finished. With --queue an object is given to that LocalQueue of Kueue instead: it asks for machines
only then. An object that is not there yet is waited for; without any, only the waiting is done.
Runs in a pod, with an account that may get and patch these objects.
"""

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.untrusted import parse_json
from trainer.cli import command, make_parser, parse

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
QUEUE = "kueue.x-k8s.io/queue-name"
ANSWER_WAIT = 30.0  # seconds for the API to answer
LONGEST_ANSWER = 16 * 2**20  # bytes


@command
def main(args: Sequence[str] | None = None) -> int:
    """Wait and start; status 0 once everything is started."""
    parser = make_parser(__doc__)
    parser.add_argument("features", nargs="*", type=str, help="feature sets that training needs")
    parser.add_argument("--training", type=str | None, help="GROUP/VERSION/KIND/NAME, to start")
    parser.add_argument("--run", type=Path | None, help="folder of the run that comes of it")
    parser.add_argument("--then", action="append", default=[], help="what needs the finished run")
    parser.add_argument("--queue", type=str, default="", help="LocalQueue of Kueue; empty: none")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two looks")
    values = parse(parser, args)
    if values.then and values.run is None:
        raise InputError("--then needs --run, the folder of the run that must be finished")
    if not values.every > 0:
        raise InputError("--every must be a positive number of seconds")
    paths = [path_of(name) for name in (values.training, *values.then) if name]
    waiting = Waiting(values.every)
    api = Api() if paths else None
    for folder in values.features:
        waiting.until(partial(missing_of, folder))
    if values.training and api:
        waiting.until(partial(api.release, path_of(values.training), values.queue))
    if values.run is not None:
        waiting.until(partial(unfinished, values.run))
    for name in values.then:
        if api:
            waiting.until(partial(api.release, path_of(name), values.queue))
    return 0


class Waiting:
    """Looks again and again, and tells once what it waits for."""

    def __init__(self, every: float) -> None:
        self._every = every

    def until(self, look: Callable[[], str | None]) -> None:
        """Return once `look` has nothing to complain of."""
        told = None
        while (reason := look()) is not None:
            if reason != told:
                print(f"waiting: {reason}", flush=True)
            told = reason
            time.sleep(self._every)


def missing_of(folder: str) -> str | None:
    """Why a feature set cannot be trained on; None if it is whole."""
    try:
        FeatureSet(folder)
    except (InputError, OSError) as error:  # a store may be away for a while
        return str(error) or repr(error)
    print(f"{folder} is whole", flush=True)
    return None


def unfinished(run: Path) -> str | None:
    """Why a run cannot be evaluated; None if it is finished."""
    if not (run / "metrics.json").is_file():
        return f"{run} has no metrics.json yet"
    print(f"{run} is finished", flush=True)
    return None


def path_of(name: str) -> str:
    """`batch/v1/jobs/NAME` as a path of the API, with the namespace to be filled in."""
    label = "[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
    if not re.fullmatch(f"{label}/v[a-z0-9]+/[a-z]+/{label}", name):
        raise InputError(f"{name!r} names no object; give it as batch/v1/jobs/sdst-evaluation")
    group, version, kind, own = name.split("/")
    return f"/apis/{group}/{version}/namespaces/{{namespace}}/{kind}/{own}"


class Api:
    """The cluster's API, asked as this pod's account."""

    def __init__(self) -> None:
        try:
            host, port = (os.environ[f"KUBERNETES_SERVICE_{part}"] for part in ("HOST", "PORT"))
            self._namespace = (ACCOUNT / "namespace").read_text().strip()
            self._trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        except (KeyError, OSError) as error:
            raise InputError(
                f"no access to a Kubernetes API from here ({error}); this runs in a pod whose "
                "account has its token mounted"
            ) from error
        self._address = f"https://{f'[{host}]' if ':' in host else host}:{port}"

    def release(self, path: str, queue: str) -> str | None:
        """Start the object, or give it to a queue; why that cannot be yet, None if it is done.

        Raises InputError where this account may not.
        """
        path = path.format(namespace=self._namespace)
        try:
            found = self._call("GET", path)
            if queue:
                if queue != (found["metadata"].get("labels") or {}).get(QUEUE):
                    self._call("PATCH", path, {"metadata": {"labels": {QUEUE: queue}}})
                print(f"{path}: in the queue {queue}", flush=True)
            else:
                if found["spec"].get("suspend"):
                    self._call("PATCH", path, {"spec": {"suspend": False}})
                print(f"{path}: started", flush=True)
            return None
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 405, 415, 422):
                raise InputError(
                    f"{path}: the API refuses ({error.code} {error.reason})"
                ) from error
            return f"{path}: {'not there yet' if error.code == 404 else error}"
        except (OSError, InputError) as error:  # it is restarted, or its answer was cut
            return f"{path}: {error}"

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {
            # Read each time: the kubelet renews it.
            "Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}",
            "Content-Type": "application/merge-patch+json",
            "Accept": "application/json",
        }
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=ANSWER_WAIT, context=self._trust) as answer:
            found = parse_json(answer.read(LONGEST_ANSWER), path)
        if not isinstance(found, dict) or not {"metadata", "spec"} <= found.keys():
            raise InputError(f"{path}: the API's answer is no object of its own")
        return found


if __name__ == "__main__":
    sys.exit(main())
