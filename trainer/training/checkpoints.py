"""What is kept so that training goes on after any crash, and how is it never half-written?

`<run>/checkpoints/step_00000123/` holds the whole weights and the optimizer's states (the averaged
weights among them), where training stands, and the configuration, all of it without a trace of the
world size or the ZeRO stage: any number of ranks goes on from it. `step_00000123_evaluated` is the
same step once the epoch's evaluation is done. Learning rate and random numbers are functions of the
step, so neither a scheduler nor a generator needs keeping.

A folder is written under another name by a thread of the main process, with `checkpoint.json`, the
SHA-256 of every other file, last; then it gets its name. So it is complete or absent, and damage
that comes later is noticed.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet, Provenance
from data_pipeline.output import NotWritten, fault, write_tensors, write_text
from data_pipeline.storage import Location, remove_temporary
from data_pipeline.untrusted import parse_yaml, plain_name, read_json, reading
from trainer.cli import to_yaml
from trainer.config import CheckpointConfig
from trainer.training.sharding import Learner, Tensors

LOG = logging.getLogger(__name__)

WEIGHTS, STATES = "weights.safetensors", "states.safetensors"
STATE, CONFIG, SEAL = "state.json", "config.yaml", "checkpoint.json"


@dataclass
class State:
    """Where training stands.

    Attributes:
        step: optimizer steps done, those that were skipped among them
        epoch, batch: the next global batch; with the data set, the seed and the size of a batch
            this is the whole state of the stream
        evaluated: epoch whose evaluation was done last
        skipped: steps that were left out because their gradient was not finite
        best, best_step: best value of the selection metric so far, and its step
        mlflow_run: the run's id in MLflow
        code: revision that wrote the checkpoint
        features: provenance of the training features; None in checkpoints of before it was kept
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    evaluated: int = 0
    skipped: int = 0
    best: float = float("-inf")
    best_step: int = -1
    mlflow_run: str | None = None
    code: str = ""
    features: dict[str, Any] | None = None

    @property
    def folder(self) -> str:
        """Name of this state's checkpoint; names sort as training goes."""
        done = self.epoch and self.batch == 0 and self.evaluated == self.epoch
        return f"step_{self.step:08d}" + ("_evaluated" if done else "")


class Checkpoints:
    """The checkpoints of one run, as all ranks save them; only the main process writes.

    `resolved` is the configuration to keep in them, `begun` the name of the one that was read.
    `last` is the name of the newest one that is on disk, None where there is none;
    `write_seconds` is how long writing took that ended last, beside the training.
    """

    def __init__(
        self, folder: Path, config: CheckpointConfig, resolved: str, main: bool, begun: str | None
    ) -> None:
        self._folder, self._config, self._resolved, self._main = folder, config, resolved, main
        self._last = self.last = begun
        self.write_seconds = 0.0
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        if main:  # mend what a crash left half-done
            for path in folder.glob(".step_*.tmp"):
                shutil.rmtree(path)
            for place in (folder.parent, folder.parent / "model"):
                remove_temporary(Location(place))
            if begun:
                _point(folder / "latest", begun)

    def save(self, learner: Learner, state: State) -> float:
        """Copy everything to memory and let it be written; returns the seconds that this took.

        Every rank calls it. Waits for the checkpoint before it, and raises what went wrong there.
        What is the newest checkpoint already is not written again.
        """
        begin = time.perf_counter()
        self.wait()
        if state.folder == self._last:
            return 0.0
        self._last = state.folder
        weights, states = learner.weights(), learner.states()
        if self._main:
            snapshot = dataclasses.replace(state)
            self._thread = threading.Thread(
                target=self._write, args=(weights, states, snapshot), name="checkpoint"
            )
            self._thread.start()
        return time.perf_counter() - begin

    def wait(self) -> None:
        """Return when what was saved is on disk."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if failure := self._failure:
            self._failure = None  # told once
            raise failure

    def _write(self, weights: Tensors, states: Tensors, state: State) -> None:
        begin = time.perf_counter()
        target = self._folder / state.folder
        temporary = self._folder / f".{target.name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write_tensors(temporary / WEIGHTS, weights)
            write_tensors(temporary / STATES, states)
            (temporary / STATE).write_text(json.dumps(dataclasses.asdict(state), indent=2))
            (temporary / CONFIG).write_text(self._resolved)
            hashes = {path.name: file_hash(path) for path in sorted(temporary.iterdir())}
            (temporary / SEAL).write_text(json.dumps(hashes, indent=2))
            shutil.rmtree(target, ignore_errors=True)  # damaged, or training would have begun there
            temporary.rename(target)
            _point(self._folder / "latest", target.name)
            self._prune(state)
            self.write_seconds = time.perf_counter() - begin
            self.last = target.name
        except Exception as error:  # the thread cannot raise; `wait` does
            shutil.rmtree(temporary, ignore_errors=True)
            cause = error.__cause__ if isinstance(error, NotWritten) else error
            self._failure = fault(target, cause) if isinstance(cause, OSError) else error

    def _prune(self, state: State) -> None:
        best = f"step_{state.best_step:08d}_evaluated"
        for path in _all(self._folder)[: -self._config.keep]:
            if path.name != best:
                shutil.rmtree(path)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    weights: Tensors
    states: Tensors
    state: State


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none; warns of damaged ones."""
    for path in reversed(_all(folder)):
        try:
            verify(path)
        except InputError as error:
            LOG.warning("%s; going on from the one before", error)
        else:
            return path
    return None


def verify(path: Path) -> None:
    """Raise InputError unless every file of the checkpoint is as it was written."""
    if not (path / SEAL).is_file():
        raise InputError(f"{path}: not a complete checkpoint ({SEAL} is missing)")
    hashes = read_json(path / SEAL)
    if not isinstance(hashes, dict) or not {WEIGHTS, STATES, STATE} <= hashes.keys():
        raise InputError(f"{path}: not a complete checkpoint ({SEAL} is no list of its files)")
    for name, expected in hashes.items():
        plain_name(name, "a file", path / SEAL)
        if not (path / name).is_file() or file_hash(path / name) != expected:
            raise InputError(f"{path / name}: missing or damaged since it was written")


def read(path: Path) -> Checkpoint:
    """Everything that was saved. `load_weights` is what checks weights against a model."""
    with reading(path, "remove it: training then goes on from the one before"):
        state = State(**read_json(path / STATE, nan=True))
        return Checkpoint(load_file(path / WEIGHTS), load_file(path / STATES), state)


def features_of(path: Path) -> Provenance | None:
    """What the features were that a checkpoint was trained on; None where it does not say."""
    with reading(path / STATE, "name another checkpoint"):
        features = read_json(path / STATE, nan=True).get("features")
        return None if features is None else Provenance.from_json(features)


def check_features(path: Path, trained: Provenance | None, features: FeatureSet) -> None:
    """Raise InputError where a model would read other features than it was trained on."""
    if trained and (found := features.provenance.differences(trained)):
        raise InputError(
            f"{features.folder}: holds other features than the model was trained on ({found[0]}), "
            f"see {path}; make them as those of the training were made"
        )


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`; InputError in one line if they are another model's, of other
    types, or not finite."""
    with reading(path, "is it a safetensors file?"):
        weights = load_file(path)
    expected = model.state_dict()
    missing, extra = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or extra:
        odd = sorted(missing or extra)[0]
        raise InputError(
            f"{path}: made by another model: {len(missing)} weights are missing and {len(extra)} "
            f"unknown ({odd!r} for one); use the config that was saved beside it"
        )
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise InputError(
                f"{path}: made by another model: {name!r} has shape {tuple(weight.shape)}, the "
                f"config asks for {tuple(expected[name].shape)}; use the config that was saved "
                f"beside it"
            )
        if weight.dtype != expected[name].dtype:
            raise InputError(
                f"{path}: {name!r} is of {weight.dtype} and not of {expected[name].dtype}: altered "
                "since it was written; copy the file anew"
            )
        if not torch.isfinite(weight).all():
            raise InputError(
                f"{path}: {name!r} holds values that are not finite, and so would every answer; "
                "take another checkpoint or export"
            )
    model.load_state_dict(weights)


def export(folder: Path, model: nn.Module, config: str) -> None:
    """Write `model.safetensors` and `config.yaml`, the pair that prediction needs.

    The configuration gets a `seal`: the SHA-256 of the weights' file, their types, and the SHA-256
    of its section `calibration` if it has one. The weights come last: a folder with weights has its
    configuration.
    """

    def seal(written: Path) -> None:
        sealed = parse_yaml(config, "the configuration")
        sealed["seal"] = {"sha256": file_hash(written), "dtypes": stored_types(written)}
        if "calibration" in sealed:
            sealed["seal"]["calibration"] = digest_of(sealed["calibration"])
        write_text(folder / "config.yaml", to_yaml(sealed))

    write_tensors(folder / "model.safetensors", _weights(model), before=seal)


def digest_of(section: dict[str, Any]) -> str:
    """SHA-256 of settings, in whatever order and form a file has them."""
    text = json.dumps(section, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def stored_types(path: Path) -> list[str]:
    """The types of the tensors in a safetensors file, by its own names, sorted: `[F32]`."""
    with reading(path, "is it a safetensors file?"), safe_open(path, "pt") as file:
        return sorted({file.get_slice(name).get_dtype() for name in file.keys()})  # noqa: SIM118


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"))


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _point(link: Path, name: str) -> None:
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    temporary.replace(link)
