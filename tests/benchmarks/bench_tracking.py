"""Does an MLflow server in trouble slow the training down, and does everything arrive in the end?

    python -m tests.benchmarks.bench_tracking            (about four minutes)

Trains the same small model without MLflow, first and last, and once for each state of the server,
with a record at every step. Prints steps per second and their ratio to those of the first run, the
longest time between two steps, the seconds that the end waited (20 at most are allowed here), and
the records that the server has at the end and after `launch.track`. The server is a real one; a
proxy before it makes it silent or late.
"""

import argparse
import itertools
import json
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from tests.conftest import build_feature_set

ROOT = Path(__file__).parents[2]
BASELINE = "without MLflow"
CASES = (
    *(BASELINE, "sqlite file", "server", "silent", "refusing", "2 s late", "restarted"),
    f"{BASELINE} again",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real MLflow server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.start()

    def start(self) -> None:
        store = f"sqlite:///{self._folder}/server.db"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store),
                *("--port", str(self.port), "--workers", "1"),
                *("--artifacts-destination", str(self._folder / "files")),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # 8 idle processes
            start_new_session=True,
        )

    def wait(self) -> None:
        for _ in range(1200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.5)
        raise TimeoutError("the MLflow server did not start")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()


class Proxy(socketserver.ThreadingTCPServer):
    """Passes connections on to the server, late or never."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: int, delay: float | None) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.target, self.delay = target, delay
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Relay(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Proxy)
        if self.server.delay is None:
            time.sleep(3600)
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            back = threading.Thread(target=self.copy, args=(upstream, self.request), daemon=True)
            back.start()
            self.copy(self.request, upstream, self.server.delay)

    def copy(self, source: socket.socket, sink: socket.socket, delay: float | None = 0) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(delay or 0)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def train(folder: Path, case: str, uri: str | None, epochs: int) -> tuple[float, float, float]:
    """One run; (steps per second without the first ten, longest time between two steps, seconds
    after the last step)."""
    name = case.replace(" ", "-")
    flags = {
        "runs": folder,
        "name": name,
        "epochs": epochs,
        "data.train": folder / "train",
        "data.batch_size": 16,
        "data.order.lanes": 16,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1, -2]",
        "model.width": 32,
        "model.heads": 4,
        "model.queries": 5,
        "tracking.every": 1,
        "tracking.mlflow": "true" if uri else "false",
        "tracking.close_wait": 20,
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, ROOT / "trainer/main.py", *(f"--{k}={v}" for k, v in flags.items())],
        env=environment | ({"MLFLOW_TRACKING_URI": uri} if uri else {}),
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    ended = time.time()
    records = [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
    times = [record["time"] for record in records if record["kind"] == "train"]
    between = [after - before for before, after in itertools.pairwise(times[10:])]
    return len(between) / sum(between), max(between), ended - times[-1]


def arrived(uri: str, case: str) -> str:
    """Records of training steps on the server, and the status of the run."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("sdst")
    if experiment is None:
        return "no run"
    runs = client.search_runs([experiment.experiment_id])
    found = [run.info for run in runs if run.info.run_name == case.replace(" ", "-")]
    if not found:
        return "no run"
    [info] = found
    history = client.get_metric_history(info.run_id, "train/loss")
    repeated = len(history) - len({point.step for point in history})
    return f"{len(history)} ({repeated} twice), {info.status}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--cases", nargs="*", default=CASES)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench_tracking"))
    build_feature_set(folder / "train", videos=16, queries=8)
    server = Server(folder)
    proxies = {"silent": Proxy(server.port, None), "2 s late": Proxy(server.port, 2.0)}
    direct = f"http://127.0.0.1:{server.port}"
    addresses = {
        "sqlite file": f"sqlite:///{folder}/own.db",
        "server": direct,
        "refusing": f"http://127.0.0.1:{free_port()}",
        "restarted": direct,
        **{name: f"http://127.0.0.1:{proxy.server_address[1]}" for name, proxy in proxies.items()},
    }
    print(
        f"{'MLflow':22} {'steps/s':>8} {'ratio':>6} {'longest, s':>10} {'end, s':>7}  "
        "training records at the end; after a send"
    )
    base = 0.0
    try:
        server.wait()
        for case in options.cases:
            uri = addresses.get(case)
            if case == "restarted":
                threading.Timer(8, server.kill).start()
                threading.Timer(12, server.start).start()
            rate, longest, end = train(folder, case, uri, options.epochs)
            base = base or rate
            line = f"{case:22} {rate:8.2f} {rate / base:6.2f} {longest:10.2f} {end:7.1f}"
            if uri:
                server.wait()
                store = uri if case == "sqlite file" else direct
                before = arrived(store, case)
                subprocess.run(
                    [sys.executable, "-m", "launch.track", folder / case.replace(" ", "-")],
                    env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store},
                    cwd=folder,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                line += f"  {before}; {arrived(store, case)}"
            print(line, flush=True)
    finally:
        server.kill()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
