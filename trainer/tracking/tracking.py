"""Where do a run's numbers go? To metrics.jsonl at once, and from there to MLflow; where that is
asked for, to TensorBoard and to whoever watches, too.

The file is the truth and the queue: `trainer.tracking.delivery`, a process beside the training,
follows it and brings MLflow up to date. A server that is slow, away or restarted costs the training
nothing and loses nothing. Only the main process keeps a tracker: an MLflow call on any other rank
would open a second run.
"""

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from data_pipeline.errors import InputError
from data_pipeline.output import NotWritten, open_beside_others, write_bytes, write_text, writing
from data_pipeline.untrusted import read_json, read_text, reading, shown
from trainer.config import TrackingConfig
from trainer.tracking.prometheus import TrainingMetrics
from trainer.tracking.run_files import parse_record
from trainer.tracking.tensorboard import TensorBoard

LOG = logging.getLogger(__name__)

KEPT = (
    "config.yaml",
    "metrics.json",
    "metrics.jsonl",
    "predictions.jsonl",
    "per_query.json",
    "annotations.jsonl",
    "report.html",
)
"""The files of a run's folder that MLflow keeps, and the only ones that are ever sent."""

DEFAULT_STORE = "sqlite:///mlflow.db"
KILLED_WAIT = 5.0  # seconds: whoever stops a run has not long to wait
End = Literal["FINISHED", "FAILED", "KILLED"]
Status = Literal["RUNNING", End]


@dataclass
class RunRecord:
    """What MLflow is told of a run apart from its numbers: `<run>/tracking.json`.

    Attributes:
        key: made here, a tag of the MLflow run: by it the run is found again, whoever asks
        run_id: MLflow's own name of the run, where a checkpoint knew it
        begun, ended: seconds since 1970
        artifacts: files of the run's folder that are kept with the run
        datasets: the feature sets, each by name, digest, source, context (its part) and profile
    """

    key: str
    experiment: str
    name: str
    parameters: dict[str, str]
    tags: dict[str, str]
    begun: float
    run_id: str | None = None
    status: Status = "RUNNING"
    ended: float | None = None
    artifacts: list[str] = dataclasses.field(default_factory=list)
    datasets: list[dict[str, str]] = dataclasses.field(default_factory=list)

    @staticmethod
    def read(folder: Path) -> "RunRecord | None":
        """The record of a run's folder, None where no tracker was there yet."""
        path = folder / "tracking.json"
        if not path.is_file():
            return None
        with reading(path, "remove it: the run is then recorded anew"):
            record = RunRecord(**read_json(path))
            texts = [record.key, record.experiment, record.name, *record.tags, *record.parameters]
            texts += [*record.tags.values(), *record.parameters.values()]
            times = (record.begun, 0.0 if record.ended is None else record.ended)
            if (
                not all(isinstance(text, str) for text in texts)
                or not all(isinstance(time, int | float) and abs(time) < 1e12 for time in times)
                or not (record.run_id is None or isinstance(record.run_id, str))
                or record.status not in ("RUNNING", *get_args(End))
                or not isinstance(record.artifacts, list)
                or not all(map(_is_dataset, record.datasets))
            ):
                raise ValueError("not a record of ours")
        for name in record.artifacts:
            if name not in KEPT:
                raise InputError(f"{path}: {shown(name)} is no file that a run keeps; remove it")
        return record

    def write(self, folder: Path) -> None:
        """Write it; the file appears complete or not at all."""
        write_text(folder / "tracking.json", json.dumps(dataclasses.asdict(self), indent=2))


DATASET = ("name", "digest", "source", "context", "profile")


def _is_dataset(value: Any) -> bool:
    return sorted(value) == sorted(DATASET) and all(isinstance(value[key], str) for key in DATASET)


class Tracker:
    """Writes a run's records to its folder, and keeps the process that delivers them to MLflow.

    A resumed run (`step` optimizer steps are done) goes on in the same file and the same MLflow
    run: records of later steps, which were lost with the process, are taken out of the file.
    """

    def __init__(
        self,
        folder: Path,
        config: TrackingConfig,
        name: str,
        parameters: dict[str, Any],
        tags: dict[str, str],
        step: int = 0,
        run_id: str | None = None,
        datasets: Sequence[dict[str, str]] = (),
        watched: TrainingMetrics | None = None,
    ) -> None:
        self._watched = watched
        self._folder, self._close_wait = folder, config.close_wait
        self._record = RunRecord.read(folder) or RunRecord(
            key=uuid.uuid4().hex,
            experiment=config.experiment,
            name=name,
            parameters=flatten(parameters),
            tags=tags,
            begun=time.time(),
            run_id=run_id,
            datasets=list(datasets),
        )
        self._record.status, self._record.ended = "RUNNING", None
        self._record.write(folder)
        self._written = keep_until(folder / "metrics.jsonl", step)
        self._path = folder / "metrics.jsonl"
        self._file = open_beside_others(self._path, append=True)
        self._board = TensorBoard(folder / "tensorboard", step) if config.tensorboard else None
        self._delivery = start_delivery(folder) if config.mlflow else None

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run; None as long as no server has made one."""
        path = self._folder / "mlflow_run"
        return read_text(path) if path.is_file() else self._record.run_id

    def log(self, kind: str, step: int, epoch: float, **numbers: float) -> None:
        """Record numbers of an optimizer step; they appear in MLflow as `<kind>/<name>`.

        A step has one record of a kind; a second one is left out.
        """
        if (kind, step) in self._written:
            return
        self._written.add((kind, step))
        record = {"kind": kind, "step": step, "epoch": epoch, "time": time.time(), **numbers}
        with writing(self._path):
            self._file.write(f"{json.dumps(record)}\n".encode())
            self._file.flush()
        if self._board:
            self._board.log(kind, step, numbers)
        if self._watched:
            self._watched.log(kind, numbers)

    def moved(self, step: int, skipped: int) -> None:
        """Tell whoever watches that a step is done, and how many were left out so far."""
        if self._watched:
            self._watched.moved(step, skipped)

    def artifact(self, name: str) -> None:
        """Keep a file of the run's folder, one of `KEPT`, with the run."""
        if name not in self._record.artifacts:
            self._record.artifacts.append(name)
            self._record.write(self._folder)

    def describe(self, text: str) -> None:
        """What MLflow shows above the run."""
        self._record.tags["mlflow.note.content"] = text
        self._record.write(self._folder)

    def close(self, status: End) -> None:
        """End the run as `status`; wait for what is not delivered, at most `close_wait` seconds.

        What did not arrive is counted in one line, and delivered by the next start of the run or by
        `python -m launch.track`.
        """
        self._record.status, self._record.ended = status, time.time()
        try:
            with writing(self._path):
                self._file.close()
            self._record.write(self._folder)
        except NotWritten as error:  # the run ends by what it did, not by what is told of it
            LOG.warning("%s", error)
        if self._board:
            self._board.close()
        if self._delivery is None:
            return
        wait = min(self._close_wait, KILLED_WAIT) if status == "KILLED" else self._close_wait
        assert self._delivery.stdin is not None
        try:
            self._delivery.stdin.write(f"{wait}\n".encode())
            self._delivery.stdin.close()
        except BrokenPipeError:  # it ended before us; its status says how
            pass
        try:
            code = self._delivery.wait(wait + 10)  # it keeps the time itself, this is for its end
        except subprocess.TimeoutExpired:
            self._delivery.kill()
            code = self._delivery.wait()
        if code not in (0, UNDELIVERED):
            LOG.warning("delivery to MLflow ended with %d; %s", code, mend(self._folder))


UNDELIVERED = 3  # exit status of the delivery when it has said what did not arrive


def start_delivery(folder: Path) -> subprocess.Popen[bytes]:
    """The process that delivers a run's records until its standard input ends.

    It is a program of its own, not a thread: importing and calling MLflow takes seconds of the
    interpreter that trains. Its own session keeps Ctrl-C from ending it before the last record.
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.tracking.delivery", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # MLflow prints the address of the run, password and all
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )


def keep_until(path: Path, step: int) -> set[tuple[str, int]]:
    """Take records of steps after `step` out of a metrics.jsonl, and lines that are damaged.

    Returns the (kind, step) that are left.
    """
    if not path.is_file():
        return set()
    kept, places = [], set()
    lines = path.read_bytes().splitlines(keepends=True)
    for line in lines:
        record = parse_record(line) if line.endswith(b"\n") else None
        if record is not None and record["step"] <= step:
            kept.append(line)
            places.add((record["kind"], record["step"]))
    if len(kept) < len(lines):
        write_bytes(path, b"".join(kept))
    return places


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


def store_uri() -> str:
    """The MLflow store in use: MLFLOW_TRACKING_URI, else an sqlite file in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)


def mend(folder: Path) -> str:
    """How to send what MLflow did not get, for the end of a message."""
    return f"metrics.jsonl has all of it; send it with: python -m launch.track {folder}"


def redact(text: str) -> str:
    """A URI, or a message with URIs, without user names, passwords and tokens, for logs."""
    text = re.sub(r"(?<=://)\S*@", "", text)
    text = re.sub(r"(?i)\b([\w-]*(?:password|token|secret|key)=)[^&\s'\"]+", r"\1***", text)
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return text
