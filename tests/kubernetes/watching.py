"""Do the dashboard's queries and the alerts return data, asked of a real Prometheus?

    python -m tests.kubernetes.watching --work DIR [--without mlflow]

Scrapes a real extraction on a real Ray, a real training of its features and a real MLflow on this
machine, each in small, as the PodMonitors say, and asks every query of the dashboard and every
expression of the alerts while they run. Prints a line of JSON for each query, with how many series
it returned; ends with 1 where one returned none. Needs Debian's `prometheus`.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.quickstart.generate import generate

ROOT = Path(__file__).resolve().parents[2]
COMPONENT = ROOT / "kubernetes/components/watching"
GPU_ONLY = "sdst_training_rank_gpu_memory_bytes"
LIMIT = 240.0
"""Seconds until every query must have returned something."""


def dashboard_queries() -> list[str]:
    """Every query of the dashboard, with its variables filled in as `All`."""
    panels = json.loads((COMPONENT / "dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    filled = [re.sub(r"\$(run|split|name)\b", ".+", query) for query in queries]
    return [query.replace("$__rate_interval", "30s") for query in filled]


def alert_rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((COMPONENT / "alerts.yaml").read_text())["spec"]["groups"]
    return list(group["rules"])


def alert_queries() -> list[str]:
    """Every alert's expression, made to return 0 where it does not hold instead of nothing."""
    queries = [rule["expr"] for rule in alert_rules()]
    return [re.sub(r" ([<>]) (\S+)$", r" \1 bool \2", query) for query in queries]


def free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def running(log: Path, *words: object, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program and what it starts, for as long as this lasts."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdout=out,
            stderr=out,
            cwd=log.parent,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def folder_of_ray() -> tempfile.TemporaryDirectory[str]:
    """A folder with a short name: Ray's sockets lie in it."""
    return tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)


def ask(port: int, query: str) -> list[Any]:
    """The series that Prometheus returns now; raises for a query that it does not understand."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return list(json.load(answer)["data"]["result"])


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return bool(answer.status < 400)
    except OSError:
        return False


def wait_for(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + LIMIT
    while not answers(port, path):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{process.args}: does not answer at {path}")
        time.sleep(0.3)


def scraped(work: Path, port: int, targets: dict[str, int]) -> tuple[object, ...]:
    """The command line of a Prometheus that asks the targets each second, with our alerts."""
    (work / "alerts.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "sdst", "rules": alert_rules()}]})
    )
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{each}"]}]}
        for name, each in targets.items()
    ]
    for job in jobs:
        if job["job_name"] == "mlflow":
            job["basic_auth"] = {"username": "admin", "password": PASSWORD}
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": jobs,
    }
    (work / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    return (
        *("prometheus", f"--config.file={work / 'prometheus.yaml'}"),
        *(f"--storage.tsdb.path={work / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"),
    )


PASSWORD = "a-password-of-this-test"


def watch(work: Path, without: set[str]) -> dict[str, int]:
    """Run everything; how many series each query returned while it ran."""
    wanted = [
        query
        for query in [*dashboard_queries(), *alert_queries()]
        if GPU_ONLY not in query and not any(f"{name}_" in query for name in without)
    ]
    most = dict.fromkeys(wanted, 0)
    python = (sys.executable, "-m")
    ports = free_ports(6)
    prometheus, extraction, training, ray, gcs, mlflow = ports
    targets = {"extraction": extraction, "training": training, "ray": ray, "mlflow": mlflow}
    targets = {name: port for name, port in targets.items() if name not in without}
    generate(work, videos=12, workers=1)
    damaged = sorted((work / "videos").glob("*.mp4"))[0]
    damaged.write_bytes(b"no video")
    with ExitStack() as stack:

        def run(name: str, *words: object, **environment: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(running(work / f"{name}.log", *words, **environment))

        store = {}
        if "mlflow" not in without:
            (work / "basic_auth.ini").write_text(
                "[mlflow]\ndefault_permission = READ\n"
                f"database_uri = sqlite:///{work / 'users.db'}\nadmin_username = admin\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            )
            server = run(
                "mlflow",
                *("mlflow", "server", "--host", "127.0.0.1", "--port", mlflow, "--workers", 1),
                *("--uvicorn-opts", "--timeout-worker-healthcheck=120", "--app-name", "basic-auth"),
                *("--backend-store-uri", f"sqlite:///{work / 'mlflow.db'}"),
                MLFLOW_EXPOSE_PROMETHEUS=str(work / "numbers"),
                MLFLOW_AUTH_CONFIG_PATH=str(work / "basic_auth.ini"),
                MLFLOW_AUTH_ADMIN_USERNAME="admin",
                MLFLOW_AUTH_ADMIN_PASSWORD=PASSWORD,
                MLFLOW_FLASK_SERVER_SECRET_KEY="a-key-of-this-test",
            )
            wait_for(mlflow, "/health", server)
            store = {
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
                "MLFLOW_TRACKING_USERNAME": "admin",
                "MLFLOW_TRACKING_PASSWORD": PASSWORD,
            }
        head = run(
            "ray",
            *(
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
                "--port",
                gcs,
                "--num-cpus",
                2,
            ),
            *("--include-dashboard=false", "--disable-usage-stats", "--metrics-export-port", ray),
            *("--temp-dir", stack.enter_context(folder_of_ray())),
            RAY_AUTH_MODE="disabled",
        )
        run("prometheus", *scraped(work, prometheus, targets))
        wait_for(ray, "/metrics", head)
        extract = (
            *(*python, "launch.extract", "--config", ROOT / "configs/extract/quickstart.yaml"),
            *("--videos", work / "videos", "--annotations", work / "train.jsonl"),
            *("--output", work / "features/train", "--sharding.videos", 2, "--workers", 1),
            *("--threshold", 1, "--tracking.prometheus", f"127.0.0.1:{extraction}"),
        )
        job = run("extraction", *extract, RAY_ADDRESS=f"127.0.0.1:{gcs}", RAY_AUTH_MODE="disabled")
        ask_while(job, prometheus, most)
        if job.returncode:
            raise SystemExit(f"the extraction ended with {job.returncode}; see {work}")
        train = (
            *(*python, "trainer.main", "--config", ROOT / "configs/quickstart.yaml"),
            *("--data.train", work / "features/train", "--data.report", "null"),
            *("--data.selection", work / "features/train", "--videos", "null"),
            *("--data.batch_size", 4, "--data.order.lanes", 4, "--epochs", 10**4),
            *("--optim.schedule", "constant", "--tracking.every", 1),
            *("--tracking.peak_tflops", 1, "--runs", work / "runs", "--name", "watched"),
            *("--tracking.mlflow", str("mlflow" not in without).lower()),
            *("--tracking.close_wait", 1, "--tracking.prometheus", f"127.0.0.1:{training}"),
        )
        ask_while(run("training", *train, **store), prometheus, most)
    return most


def ask_while(process: subprocess.Popen[bytes], port: int, most: dict[str, int]) -> None:
    """Ask all queries again and again, until the process ends or all have returned something."""
    end = time.monotonic() + LIMIT
    while process.poll() is None and not all(most.values()) and time.monotonic() < end:
        for query in most:
            try:
                most[query] = max(most[query], len(ask(port, query)))
            except urllib.error.HTTPError as error:
                raise SystemExit(f"{query}: {error.read().decode()}") from error
            except OSError:  # it is starting
                pass
        time.sleep(0.5)


def main() -> int:
    """Print what each query returned."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--without", nargs="*", choices=["mlflow"], default=[])
    given = parser.parse_args()
    if shutil.which("prometheus") is None:
        raise SystemExit("prometheus is not installed: apt-get install prometheus")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with us
    given.work.mkdir(parents=True, exist_ok=True)
    most = watch(given.work.resolve(), set(given.without))
    for query, series in most.items():
        print(json.dumps({"series": series, "query": query}))
    return 0 if all(most.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
