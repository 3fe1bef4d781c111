"""How do the records of a run's folder get to MLflow, whenever it can be reached, each once?

    python -m trainer.tracking.delivery runs/first       (people use launch.track)

The server is asked what it has, and gets the rest of metrics.jsonl. Nothing else is remembered, so
that any interruption, on either side, is mended by asking again. A record goes out in one call, its
last number last, and MLflow's stores take a repeated identical value once: what arrived without an
answer is neither lost nor doubled.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

from data_pipeline.holding import lock
from data_pipeline.output import write_text
from trainer.tracking.outages import FilesRefused, Refused, check_active, check_store, fault_of
from trainer.tracking.run_files import parse_record
from trainer.tracking.tracking import UNDELIVERED, RunRecord, Status, mend, redact, store_uri

LOG = logging.getLogger("trainer.tracking.delivery")

POLL = 1.0  # seconds between two looks at the file
LONGEST_PAUSE = 10.0  # seconds between two attempts at a server that is away
FILES_WAIT = 40.0  # seconds after which a store of files that does not answer is told of
ORPHAN_WAIT = 30.0  # seconds to deliver the rest when the trainer died without a word
METRICS_PER_CALL, PARAMETERS_PER_CALL = 1000, 100  # MLflow's limits
TAG = "sdst_run"
PLACE = ("kind", "step", "epoch", "time")  # keys of a record that are no figures
# A call that hangs is given up and made again by us; MLflow itself would try for many minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


class Delivery:
    """Brings one MLflow run up to date with a run's folder. Methods raise whatever MLflow raises;
    after that the next `send` begins by asking the server again."""

    def __init__(self, folder: Path, record: RunRecord) -> None:
        self._folder, self._record = folder, record
        self._client: Any = None
        self._artifacts = ""
        self._run: Any = None
        self._known: dict[str, set[int]] = {}  # metric -> steps that the server has
        self._offset = 0  # in metrics.jsonl: what lies before it is on the server
        self._files_tried = False
        self.ended = False
        """Whether the server has all records and the status, if not the files."""

    def send(self) -> None:
        """Deliver every whole record of metrics.jsonl that the server has not."""
        try:
            if self._run is None:
                self._connect()
            for offset, metrics in self._calls():
                for first in range(0, len(metrics), METRICS_PER_CALL):
                    some = metrics[first : first + METRICS_PER_CALL]
                    self._client.log_batch(self._run, metrics=some)
                self._offset = offset
        except Exception:
            self._run, self._known = None, {}
            raise

    def end(self) -> None:
        """Deliver the rest, the kept files and the status. A run that is still called running, now
        that nobody trains it, has failed. Raises FilesRefused where the rest alone has arrived."""
        self._record = RunRecord.read(self._folder) or self._record
        self._files_tried = True
        self.send()
        status: Status = "FAILED" if self._record.status == "RUNNING" else self._record.status
        try:
            self._send_tags()
            self._send_files()
        finally:
            self._client.set_terminated(self._run, status, int(self._end_time() * 1000))
            self.ended = True

    def _end_time(self) -> float:
        if self._record.ended:
            return self._record.ended
        path = self._folder / "metrics.jsonl"
        return path.stat().st_mtime if path.is_file() else time.time()

    def _send_tags(self) -> None:
        """What became known of the run since it began, its description; people's words stay."""
        has = self._client.get_run(self._run).data.tags
        for name, text in self._record.tags.items():
            if name not in has:
                self._client.set_tag(self._run, name, text)

    def _send_datasets(self, run: Any) -> None:
        """The feature sets of the run, as MLflow's datasets."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        has = {(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs}
        inputs = [
            DatasetInput(
                Dataset(
                    name=each["name"],
                    digest=each["digest"],
                    source_type="local",
                    source=json.dumps({"uri": each["source"]}),
                    profile=each["profile"],
                ),
                [InputTag("mlflow.data.context", each["context"])],
            )
            for each in self._record.datasets
            if (each["name"], each["digest"]) not in has
        ]
        if inputs:
            self._client.log_inputs(self._run, inputs)

    def _send_files(self) -> None:
        try:
            has = {item.path for item in self._client.list_artifacts(self._run)}
            for name in self._record.artifacts:
                # Of a link, what it points to would be sent.
                if not (self._folder / name).is_file() or (self._folder / name).is_symlink():
                    LOG.warning("%s: no such file; MLflow gets the others", self._folder / name)
                elif name not in has:
                    self._client.log_artifact(self._run, str(self._folder / name))
        except Exception as error:
            raise self._files_refused(error) from error

    def _files_refused(self, error: Exception) -> FilesRefused:
        return FilesRefused(
            f"takes records, and cannot keep files in {self._artifacts} "
            f"({' '.join(str(error).split())[:200]}); make that writable from here, or have the "
            "server take them (mlflow server --serve-artifacts)"
        )

    def _try_files(self) -> None:
        """Send the first of the kept files now: what stands in the way is known before the end."""
        done = threading.Event()

        def send() -> None:
            try:
                self._client.log_artifact(self._run, str(self._folder / "config.yaml"))
            except Exception as error:
                LOG.warning("%s", fault_of(self._files_refused(error)).line)
            finally:
                done.set()

        def watch() -> None:
            if not done.wait(FILES_WAIT):
                slow = TimeoutError(f"no answer in {FILES_WAIT:.0f} s")
                LOG.warning("%s", fault_of(self._files_refused(slow)).line)

        self._files_tried = True
        path = self._folder / "config.yaml"
        if path.is_file() and not path.is_symlink():
            # Beside the records, which do not wait for it.
            for task in (send, watch):
                threading.Thread(target=task, daemon=True).start()

    def waiting(self) -> int:
        """Records that the server is not known to have."""
        return sum(1 for _ in self._pending())

    def _connect(self) -> None:
        """Find the run on the server by its key, or make it; complete its parameters."""
        import mlflow
        from mlflow.entities import Param

        mlflow_logger = logging.getLogger("mlflow")
        mlflow_logger.setLevel(logging.WARNING)
        for handler in mlflow_logger.handlers:
            handler.setFormatter(Redacting("%(message)s"))
        record = self._record
        check_store()
        client = self._client = mlflow.MlflowClient(store_uri())
        found = client.get_experiment_by_name(record.experiment)
        check_active(found)
        owner = found.experiment_id if found else client.create_experiment(record.experiment)
        runs = client.search_runs([owner], f"tags.{TAG} = '{record.key}'")
        if runs:
            run = runs[0]
        elif record.run_id is not None:  # the folder is new, its checkpoint was another's
            run = client.get_run(record.run_id)
            if run.info.lifecycle_stage == "deleted":
                raise Refused(
                    f"the run {run.info.run_id} was deleted; restore it with: mlflow runs restore "
                    f"--run-id {run.info.run_id}, or remove {self._folder / 'tracking.json'}"
                )
            client.set_tag(run.info.run_id, TAG, record.key)
        else:
            tags = record.tags | {TAG: record.key}
            run = client.create_run(owner, int(record.begun * 1000), tags, record.name)
        self._run, self._artifacts = run.info.run_id, redact(str(run.info.artifact_uri))
        if record.status == "RUNNING" and run.info.status != "RUNNING":
            client.update_run(self._run, status="RUNNING")
        missing = [
            Param(key, value)
            for key, value in record.parameters.items()
            if key not in run.data.params
        ]
        for first in range(0, len(missing), PARAMETERS_PER_CALL):
            some = missing[first : first + PARAMETERS_PER_CALL]
            client.log_batch(self._run, params=some)
        self._send_datasets(run)
        if old := moved_from(run.info.artifact_uri):
            LOG.warning(
                "MLflow's experiment %r keeps files in %s, which is not there: was the folder of "
                "mlflow.db moved? Move it back, or name a new --tracking.experiment",
                record.experiment,
                old,
            )
        write_text(self._folder / "mlflow_run", self._run)
        if not self._files_tried:
            self._try_files()

    def _pending(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Whole records behind the offset, each with the offset behind it."""
        path = self._folder / "metrics.jsonl"
        if not path.is_file():
            return
        with open(path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    return
                record = parse_record(line)
                if record is not None and 0 <= record.get("time", -1) < 1e11 and "epoch" in record:
                    yield file.tell(), record

    def _calls(self) -> Iterator[tuple[int, list[Any]]]:
        """Metrics for one call each, and the offset behind their records. (Only a record that is
        longer than a call may be is more than one call.)"""
        metrics: list[Any] = []
        behind = self._offset
        for offset, record in self._pending():
            more = [] if self._has(record) else to_metrics(record)
            if metrics and len(metrics) + len(more) > METRICS_PER_CALL:
                yield behind, metrics
                metrics = []
            metrics += more
            behind = offset
        yield behind, metrics

    def _has(self, record: dict[str, Any]) -> bool:
        """Whether the server has a record of this kind and step, from whichever life of the run.

        The record's last number, which arrives last, stands for the whole of it.
        """
        names = [metric.key for metric in to_metrics(record)]
        if not names:
            return True
        last = names[-1]
        if last not in self._known:
            history = self._client.get_metric_history(self._run, last)
            self._known[last] = {point.step for point in history}
        return record["step"] in self._known[last]


def to_metrics(record: dict[str, Any]) -> list[Any]:
    """MLflow's metrics of one record, in its order. (Its epoch follows from its step.)"""
    from mlflow.entities import Metric

    numbers = {name: value for name, value in record.items() if name not in PLACE}
    kind, step, seconds = record["kind"], record["step"], record["time"]
    return [
        Metric(f"{kind}/{safe(name)}", value, int(seconds * 1000), step)
        for name, value in numbers.items()
    ]


def moved_from(artifact_uri: str) -> Path | None:
    """The folder of MLflow's files, where one that had it is gone: mlflow.db holds whole paths."""
    place = urlparse(artifact_uri)
    if place.scheme not in ("", "file"):
        return None
    kept = Path(unquote(place.path))
    if len(kept.parents) < 4 or kept.exists():
        return None
    root = kept.parents[2]  # <root>/<experiment>/<run>/artifacts
    return None if root.parent.is_dir() else root


def safe(name: str) -> str:
    """A name that MLflow takes: letters, digits, _ - . : / and blanks."""
    return re.sub(r"[^\w\-.:/ ]", "_", name.replace("@", "_at_"))


def follow(folder: Path, trainer: IO[bytes]) -> int:
    """Deliver until `trainer`, a pipe from the training process, ends; then the rest.

    Before it closes the pipe the trainer writes how many seconds the rest may take; a pipe that
    ends without a word means that it died. Returns 0 when everything has arrived.
    """
    closed, done = threading.Event(), threading.Event()
    record = RunRecord.read(folder)
    assert record is not None, "the tracker writes it before it starts us"
    delivery = Delivery(folder, record)

    def watch() -> None:
        wait = float(trainer.readline() or ORPHAN_WAIT)
        closed.set()
        if not done.wait(wait):
            say_what_is_missing(folder, delivery)
            os._exit(UNDELIVERED)  # the main thread may be inside a call that never returns

    threading.Thread(target=watch, daemon=True).start()
    held = hold(folder, wait=True)
    pause, away = POLL, ""
    while not done.is_set():
        last = closed.is_set()
        try:
            delivery.end() if last else delivery.send()
            if last:
                done.set()
            if away:
                LOG.warning("MLflow at %s takes records again", redact(store_uri()))
            pause, away = POLL, ""
        except Exception as error:  # whatever it is: the training must not notice
            fault = fault_of(error)
            kind = "an outage" if fault.outage else type(error).__name__
            if kind != away:  # told once
                LOG.warning("%s", fault.line)
            pause, away = min(2 * pause, LONGEST_PAUSE), kind
            if last and not fault.outage:  # waiting would not mend it
                done.set()
                say_what_is_missing(folder, delivery)
                return UNDELIVERED
            if last:
                time.sleep(POLL)
        closed.wait(pause)
    held.close()
    return 0


def hold(folder: Path, wait: bool) -> IO[bytes]:
    """Be the only one who delivers this run's records; BlockingIOError if another does."""
    return lock(folder / ".tracking.lock", wait)


def say_what_is_missing(folder: Path, delivery: Delivery) -> None:
    """One line: how much did not arrive, and how to send it."""
    records = f"{delivery.waiting()} records and the end of the run"
    LOG.warning(
        "MLflow at %s did not take everything in time (%s are missing); %s",
        redact(store_uri()),
        "the run's files" if delivery.ended else records,
        mend(folder),
    )


class Redacting(logging.Formatter):
    """Messages without passwords, whoever wrote them."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def main() -> int:
    """Follow the run whose folder is the argument."""
    os.nice(5)  # where cores are few, the training comes first
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    handler = logging.StreamHandler()
    handler.setFormatter(Redacting("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    return follow(Path(sys.argv[1]), sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(main())
