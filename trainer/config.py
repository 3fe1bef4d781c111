"""What can an experiment set? Every section's dataclass lives beside what it configures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from data_pipeline.stream.stream import DataConfig
from model.objective.losses import LossConfig
from model.sdst.sdst import SDSTConfig
from trainer.inference.postprocess import PostprocessConfig
from trainer.tracking.tracking import TrackingConfig
from trainer.training.checkpoints import CheckpointConfig
from trainer.training.optimization import OptimConfig

# May change when a run goes on: how it is carried out, not what comes of it.
CARRIED_OUT = (
    "resume", "processes", "timeout", "grace", "checkpoints", "data.workers", "data.prefetch",
)  # fmt: skip

SELECTION_METRICS = ("mAP", "R1@0.5", "R1@0.7", "mIoU", "HD-mAP", "HIT@1")


@dataclass(frozen=True)
class EvalConfig:
    """Attributes:
    dataset: convention of the metrics
    every: epochs between two evaluations on the selection split
    metric: what the kept model maximises on the selection split; several names are averaged
    patience: evaluations without a better value after which training ends; 0 never ends it early
    select_on_test: allow a selection split that is a test split, for data sets that have no other
    postprocess: what is done to windows before they are scored or shown
    """

    dataset: Literal["qvhighlights", "charades", "tacos", "nlq", "activitynet"] = "qvhighlights"
    every: int = 1
    metric: tuple[str, ...] = ("mAP",)
    patience: int = 0
    select_on_test: bool = False
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("eval.every must be at least 1 epoch")
        if self.patience < 0:
            raise ValueError("eval.patience must be a number of evaluations, 0 for no early end")
        for name in self.metric:
            if name not in SELECTION_METRICS:
                raise ValueError(
                    f"eval.metric {name!r} is unknown; choose from {', '.join(SELECTION_METRICS)}"
                )


@dataclass(frozen=True)
class Config:
    """One experiment.

    Attributes:
        name: the run's name; everything it writes lies in <runs>/<name>
        runs: folder of all runs
        seed: of initialisation, order, dropout and sampling
        epochs: passes over the training split
        precision: of the forward pass; boxes, losses and softmaxes stay in fp32
        videos: folder of the videos, for the pictures in the report; none for a report without
        compile: run the model through torch.compile
        deterministic: let torch refuse kernels whose results differ from run to run; on one kind
            of machine the same command then gives the same bits
        resume: "auto" goes on from the run's newest whole checkpoint, if there is one; "never"
            refuses to touch a run that has one; a path is a checkpoint to begin from
        processes: processes that must take part; none for any number
        timeout: seconds that a process waits for another one before it takes it for lost
        grace: seconds from SIGTERM within which a step must end and be saved; keep it below
            what the launcher waits (TORCH_ELASTIC_SHUTDOWN_TIMEOUT, 30 s)
    """

    name: str = "sdst"
    runs: Path = Path("runs")
    seed: int = 0
    epochs: int = 30
    precision: Literal["fp32", "bf16"] = "fp32"
    videos: Path | None = None
    compile: bool = False
    deterministic: bool = False
    resume: str = "auto"
    processes: int | None = None
    timeout: float = 600.0
    grace: float = 25.0
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: SDSTConfig = field(default_factory=SDSTConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"name {self.name!r} must be a plain folder name")
        if self.epochs < 1 or self.timeout <= 0 or self.grace <= 0:
            raise ValueError("epochs must be at least 1, timeout and grace positive")
        if self.eval.patience and not self.data.selection:
            raise ValueError("eval.patience needs a split to evaluate on; set data.selection")

    @property
    def folder(self) -> Path:
        """Where this run keeps everything."""
        return self.runs / self.name


def experiment(resolved: str) -> dict[str, Any]:
    """What decides a run's result, from the YAML of its configuration: all but `CARRIED_OUT`."""
    values: dict[str, Any] = yaml.safe_load(resolved)
    for name in CARRIED_OUT:
        section, _, key = name.rpartition(".")
        (values[section] if section else values).pop(key, None)
    return values
