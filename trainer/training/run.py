"""What is a run made of, and from where does it go on?"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from data_pipeline.errors import InputError
from data_pipeline.output import write_text
from data_pipeline.stream.stream import PairStream
from model.interface import GroundingModel
from model.kinds import build
from trainer.cli import dump_config
from trainer.config import Config
from trainer.tracking.prometheus import TrainingMetrics
from trainer.tracking.tracking import End, Tracker
from trainer.training import checkpoints
from trainer.training.checkpoints import Checkpoints, State
from trainer.training.divergence import Faults
from trainer.training.meter import Meter
from trainer.training.optimization import make_optimizer
from trainer.training.preemption import StopSignals
from trainer.training.processes import on_main
from trainer.training.provenance import (
    as_dataset,
    code_revision,
    nesting,
    origin,
    provenance,
    trainable_parameters,
)
from trainer.training.sharding import Learner
from trainer.training.splits import check_selection, open_split
from trainer.training.work import flops_per_pair, measure_peak


@dataclass(frozen=True)
class Splits:
    """The streams of this rank."""

    train: PairStream
    selection: PairStream | None
    report: PairStream | None


def open_data(config: Config, accelerator: Accelerator) -> Splits:
    """Open the feature shards of each split and check that they fit each other and the model."""

    def stream(folder: str | None) -> PairStream | None:
        return None if folder is None else open_split(folder, config, accelerator)

    train = open_split(config.data.train, config, accelerator, held_out=False)
    _ = train.steps  # an epoch without a batch is refused
    splits = Splits(train, stream(config.data.selection), stream(config.data.report))
    if splits.selection:
        check_selection(splits.selection.features, config)
    for other in (splits.selection, splits.report):
        if other is not None:
            train.features.check_same_features(other.features)
    return splits


@dataclass
class Run:
    """A run at work. `judge` is a whole, plain copy of the model: it is given the weights, or their
    average, when they are to be scored or exported. Only the main process has a `tracker`."""

    config: Config
    accelerator: Accelerator
    stop: StopSignals
    data: Splits
    learner: Learner
    judge: GroundingModel
    state: State
    faults: Faults
    checkpoints: Checkpoints
    tracker: Tracker | None

    def save(self) -> None:
        """Checkpoint; training goes on as soon as everything is copied.

        Raises NotFinite where too many of the steps since the last record were left out.
        """
        self.faults.settle()
        if self.tracker:
            self.state.mlflow_run = self.tracker.run_id
        pause = self.checkpoints.save(self.learner, self.state)
        if self.tracker:
            # The one before is written by now, this one is not.
            numbers = {"pause": pause, "previous_write": self.checkpoints.write_seconds}
            self.tracker.log("checkpoint", self.state.step, float(self.state.epoch), **numbers)

    def close(self, status: End) -> None:
        """Leave the run's folder and its records whole."""
        try:
            self.checkpoints.wait()
        finally:
            if self.tracker:
                self.tracker.close(status)


def resume(
    config: Config,
    accelerator: Accelerator,
    data: Splits,
    stop: StopSignals,
    console: Console,
    watched: TrainingMetrics | None = None,
) -> Run:
    """Model, optimizer and records, as a checkpoint left them or at the beginning.

    The run's folder must be held. Whatever can be refused is refused before anything is written
    there, or told to MLflow.
    """
    path = on_main(accelerator, lambda: choose_checkpoint(config))
    model = build(config.model)
    if path:
        checkpoints.load_weights(path / checkpoints.WEIGHTS, model)
    if config.compile:
        model.compile()
    optimizer = make_optimizer(model, config.optim)
    learner = Learner(accelerator, model, optimizer)
    state = State()
    if path:
        saved = checkpoints.read(path)
        state = saved.state
        checkpoints.check_features(path, checkpoints.features_of(path), data.train.features)
        learner.restore(saved.weights, saved.states, state.step - state.skipped)
        if accelerator.is_main_process:
            console.print(f"going on from step {state.step} (epoch {state.epoch}), {path}")
    state.code = code_revision()
    state.features = dataclasses.asdict(data.train.features.provenance)
    main = accelerator.is_main_process
    own = config.folder / "checkpoints"
    begun = path.name if path and path.parent == own else None
    judge = build(config.model).to(accelerator.device).eval()
    if main and not (config.folder / "config.yaml").is_file():
        write_text(config.folder / "config.yaml", dump_config(config))
    return Run(
        config,
        accelerator,
        stop,
        data,
        learner,
        judge,
        state,
        Faults(accelerator, state, config.optim.skip_not_finite),
        Checkpoints(own, config.checkpoints, dump_config(config), main, begun),
        track(config, data, model, state, watched) if main else None,
    )


def choose_checkpoint(config: Config) -> Path | None:
    """Where the run goes on; None to begin.

    Raises InputError for a checkpoint that was named and is not whole.
    """
    path = checkpoints.newest(config.folder / "checkpoints")
    if path and config.resume == "never":
        raise InputError(f"{config.folder}: has checkpoints; choose another --name or --resume")
    if not path and config.resume not in ("auto", "never"):
        path = Path(config.resume).resolve()
        checkpoints.verify(path)
    return path


def track(
    config: Config,
    data: Splits,
    model: GroundingModel,
    state: State,
    watched: TrainingMetrics | None,
) -> Tracker:
    """Open the run's records; for the main process only."""
    parameters = dataclasses.asdict(config) | {"trainable_parameters": trainable_parameters(model)}
    return Tracker(
        config.folder,
        config.tracking,
        config.name,
        parameters,
        provenance(config, data.train.features) | nesting() | origin(),
        state.step,
        state.mlflow_run,
        [
            as_dataset(role, split.features)
            for role, split in (
                ("training", data.train),
                ("selection", data.selection),
                ("report", data.report),
            )
            if split is not None
        ],
        watched,
    )


def make_meter(run: Run) -> Meter:
    """A meter that knows the work of an average pair and what the device could do."""
    config, (clips, tokens) = run.config, run.data.train.pairs.means()
    work = flops_per_pair(config.model, round(clips), round(tokens))
    if config.tracking.peak_tflops is not None:
        return Meter(work, config.tracking.peak_tflops * 1e12)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Meter(work, measure_peak(run.accelerator.device, dtype))
