"""Where do a run's numbers go? To metrics.jsonl first, then to MLflow, which may be slow or away.

Only the main process keeps a tracker: an MLflow call on any other rank would open a second run.
"""

import dataclasses
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

LOG = logging.getLogger(__name__)

DEFAULT_STORE = "sqlite:///mlflow.db"
QUEUE_RECORDS = 10_000


@dataclass(frozen=True)
class TrackingConfig:
    """Attributes:
    mlflow: record runs in MLflow, at MLFLOW_TRACKING_URI or in ./mlflow.db
    experiment: MLflow experiment that holds the run
    every: optimizer steps between two training records
    close_wait: seconds to wait at the end for a slow MLflow server
    """

    mlflow: bool = True
    experiment: str = "sdst"
    every: int = 10
    close_wait: float = 60.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("tracking.every must be at least 1")


def store_uri() -> str:
    """The MLflow store in use: MLFLOW_TRACKING_URI, else an sqlite file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)


class Tracker:
    """Writes records to `<folder>/metrics.jsonl` at once and to MLflow from a thread of its own.

    The thread takes from a bounded queue; when MLflow cannot keep up the newest records are left to
    metrics.jsonl and counted. No failure of MLflow reaches the training.
    """

    def __init__(
        self,
        folder: Path,
        config: TrackingConfig,
        name: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
        run_id: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.dropped = 0
        self._close_wait = config.close_wait
        self._begin = time.time()
        self._file = open(folder / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed in close
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(QUEUE_RECORDS)
        self._thread: threading.Thread | None = None
        if config.mlflow:
            self._thread = threading.Thread(
                target=self._serve,
                args=(config.experiment, name, parameters, tags),
                name="mlflow",
                daemon=True,
            )
            self._thread.start()

    def log(
        self,
        kind: Literal["train", "eval", "checkpoint"],
        step: int,
        epoch: float,
        **numbers: float,
    ) -> None:
        """Record numbers of an optimizer step; they appear in MLflow as `<kind>/<name>`."""
        now = time.time()
        record = {"kind": kind, "step": step, "epoch": epoch, "time": now - self._begin, **numbers}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

        def send(client: Any) -> None:
            from mlflow.entities import Metric

            metrics = [
                Metric(f"{kind}/{_safe(name)}", value, int(now * 1000), step)
                for name, value in numbers.items()
            ]
            client.log_batch(self.run_id, metrics=metrics)

        self._put(send)

    def artifact(self, path: Path) -> None:
        """Keep a file with the run."""
        self._put(lambda client: client.log_artifact(self.run_id, str(path)))

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """End the run as `status`; waits for what is queued, at most `close_wait` seconds."""
        self._file.close()
        if self._thread is None:
            return
        self._put(lambda client: client.set_terminated(self.run_id, status))
        self._put(None)
        self._thread.join(self._close_wait)
        if self._thread.is_alive() or self.dropped:
            LOG.warning(
                "MLflow at %s did not take everything in time; metrics.jsonl has all of it",
                redact(store_uri()),
            )

    def _put(self, task: Callable[[Any], None] | None) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            self.dropped += 1

    def _serve(
        self, experiment: str, name: str, parameters: dict[str, Any], tags: dict[str, str]
    ) -> None:
        try:
            import mlflow

            logging.getLogger("alembic").setLevel(logging.WARNING)
            client = mlflow.MlflowClient(store_uri())
            if self.run_id is None:
                found = client.get_experiment_by_name(experiment)
                owner = found.experiment_id if found else client.create_experiment(experiment)
                self.run_id = client.create_run(owner, tags=tags, run_name=name).info.run_id
                for key, value in flatten(parameters).items():
                    client.log_param(self.run_id, key, value)
            else:
                client.update_run(self.run_id, status="RUNNING")
        except Exception as error:  # an outage must not stop the training, whatever its class
            LOG.warning("MLflow at %s cannot be used: %s", redact(store_uri()), error)
            self.dropped += 1
            client = None
        while (task := self._queue.get()) is not None:
            if client is None:
                continue
            try:
                task(client)
            except Exception as error:  # as above; the record stands in metrics.jsonl
                self.dropped += 1
                LOG.warning("MLflow did not take a record: %s", error)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters under dotted names, as strings that MLflow takes (500 characters)."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value)[:500]
    return flat


def redact(uri: str) -> str:
    """A URI without user name and password, for logs."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _safe(name: str) -> str:
    # MLflow takes letters, digits, _ - . : / and blanks; "R1@0.5" would be refused.
    return name.replace("@", "_at_")
