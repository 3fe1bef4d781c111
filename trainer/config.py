"""What can an experiment set? Each section in its dataclass, and the whole of them."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data_pipeline.config import DataConfig
from data_pipeline.untrusted import parse_yaml, plain_name, reading, shown
from model.config import LossConfig, ModelConfig, ObjectiveConfig, SDSTConfig
from model.kinds import KINDS

LONGEST_WAIT = 10**6
"""Seconds: 11 days. The clocks of the libraries below end somewhere."""

# May change when a run goes on: how it is carried out, not what comes of it.
CARRIED_OUT = (
    "resume", "processes", "timeout", "grace", "checkpoints", "data.name", "data.workers",
    "data.prefetch", "tracking.prometheus", "tracking.tensorboard",
)  # fmt: skip

LONGEST = 1e6
"""Seconds that something may wait for something else."""

RULES: dict[str, tuple[str, ...]] = {
    "qvhighlights": ("mAP",),
    "charades": ("R1@0.5", "R1@0.7"),
    "tacos": ("mIoU",),
    "nlq": ("R1@0.3", "R1@0.5"),
    "activitynet": ("mIoU",),
    "tvsum": ("mAP",),
    "youtube": ("mAP",),
}
"""What each data set's convention chooses a model by, on a split that is not reported."""

SELECTION_METRICS = ("mAP", "R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "HD-mAP", "HIT@1")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept so that training goes on after any crash.

    Attributes:
        every: optimizer steps between two checkpoints; those at the ends of epochs come besides,
            and 0 leaves it at them
        keep: newest checkpoints kept beside the best
    """

    every: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 1:
            raise ValueError("checkpoints.every must not be negative, checkpoints.keep at least 1")


@dataclass(frozen=True)
class OptimConfig:
    """Defaults are the schedule of R2-Tuning, which SDST's authors build on.

    Attributes:
        lr: peak learning rate
        slow: factor on the learning rate of the sampling offsets and references (TadTR)
        weight_decay: AdamW's decay of matrices; biases, norms and scalars are not decayed
        warmup: optimizer steps of linear warm-up
        schedule: what follows the warm-up
        drop_at: epoch after which "step" multiplies the rate by 0.1
        clip_norm: largest norm of the whole gradient, 0 to leave it
        accumulate: parts that a batch is taken in, one after the other, where it does not fit the
            memory at once; the batch of a step stays data.batch_size pairs
        averaging: decay of the average of the weights that is scored and exported, e.g. 0.999;
            0 scores and exports the weights themselves
        skip_not_finite: steps that a run may leave out because their gradient is not finite, before
            it stops; 0 stops at the first. Such a step never moves the weights; which it was, its
            losses and its pairs are said with the next record (tracking.every)
        kernel: "apex" takes NVIDIA's FusedAdam, an error where it is not installed
    """

    lr: float = 2.5e-4
    slow: float = 0.1
    weight_decay: float = 1e-4
    warmup: int = 500
    schedule: Literal["constant", "step", "cosine"] = "step"
    drop_at: int = 20
    clip_norm: float = 35.0
    accumulate: int = 1
    averaging: float = 0.0
    skip_not_finite: int = 0
    kernel: Literal["torch", "apex"] = "torch"

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.clip_norm < 0 or self.warmup < 0:
            raise ValueError(
                "optim.lr must be positive, optim.clip_norm and optim.warmup not negative"
            )
        if self.accumulate < 1 or self.skip_not_finite < 0:
            raise ValueError(
                "optim.accumulate must be at least 1, optim.skip_not_finite not negative"
            )
        if not 0 <= self.averaging < 1:
            raise ValueError(f"optim.averaging {self.averaging} must be in [0, 1)")


@dataclass(frozen=True)
class PostprocessConfig:
    """What is done to predicted windows; the default is the field's for QVHighlights.

    Attributes:
        suppression: hard drops a window that meets a better one (NMS); linear and gaussian lower
            its score instead (soft-NMS, Bodla et al., arXiv 1704.04503)
        threshold: IoU from which hard drops and linear lowers
        sigma: width of the gaussian
        demote: list what hard would drop last, with score 0, instead of dropping it. This is how
            published QVHighlights figures are made: a near-duplicate can still hit at IoU 0.95
        unit: seconds to whose multiples edges are rounded, 0 for no rounding
        keep: windows kept for each query, best first
        original: write what the scripts of that model would have written, to compare with files of
            theirs (see `trainer/inference/originals.py`): edges by the annotated duration, cut at
            150 s, empty windows too. Then only suppression none and hard, and threshold, count
    """

    suppression: Literal["none", "hard", "linear", "gaussian"] = "hard"
    threshold: float = 0.7
    sigma: float = 0.5
    demote: bool = True
    unit: float = 2.0
    keep: int = 10
    original: Literal["none", "moment_detr", "qd_detr"] = "none"

    def __post_init__(self) -> None:
        if self.original not in ("none", "moment_detr", "qd_detr"):
            raise ValueError(f"original {self.original!r} is not one of none, moment_detr, qd_detr")
        if self.original != "none" and self.suppression not in ("none", "hard"):
            raise ValueError(
                f"suppression {self.suppression!r} is none of original {self.original}'s: "
                "give none, as published, or hard"
            )
        if self.suppression not in ("none", "hard", "linear", "gaussian"):
            raise ValueError(
                f"suppression {self.suppression!r} is not one of none, hard, linear, gaussian"
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} is an IoU; give a number from 0 to 1")
        if not self.sigma > 0:
            raise ValueError(f"sigma {self.sigma} must be above 0")
        if not 0 <= self.unit < float("inf"):
            raise ValueError(f"unit {self.unit} must be seconds, 0 for no rounding")
        if self.keep < 1:
            raise ValueError(
                f"keep {self.keep} must be at least 1: a query without windows scores 0"
            )


@dataclass(frozen=True)
class EvalConfig:
    """How models are scored and chosen.

    Attributes:
        dataset: the data set whose convention the metrics follow, whatever the data are; tvsum and
            youtube rank clips, by domain, and need no windows
        every: epochs between two evaluations on the selection split
        metric: what the kept model maximises on the selection split; several names are averaged;
            default: the rule of the data set
        patience: evaluations without a better value after which training ends; 0 never ends it
            early
        select_on_test: allow a selection split that is a test split, for data sets that have no
            other
        postprocess: what is done to windows before they are scored or shown
    """

    dataset: Literal[
        "qvhighlights", "charades", "tacos", "nlq", "activitynet", "tvsum", "youtube"
    ] = "qvhighlights"
    every: int = 1
    metric: tuple[str, ...] = ()
    patience: int = 0
    select_on_test: bool = False
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("eval.every must be at least 1 epoch")
        if self.patience < 0:
            raise ValueError("eval.patience must be a number of evaluations, 0 for no early end")
        if not self.metric:
            object.__setattr__(self, "metric", RULES[self.dataset])
        for name in self.metric:
            if name not in SELECTION_METRICS:
                raise ValueError(
                    f"eval.metric {name!r} is unknown; choose from {', '.join(SELECTION_METRICS)}"
                )


@dataclass(frozen=True)
class TrackingConfig:
    """What is recorded of a run, and where.

    Attributes:
        mlflow: record runs in MLflow, at MLFLOW_TRACKING_URI or in ./mlflow.db
        experiment: MLflow experiment that holds the run
        every: optimizer steps between two training records
        close_wait: seconds to wait at the end for a slow MLflow server (5 at most if it was killed)
        peak_tflops: what one rank's device could do, for the FLOP utilisation; none measures a
            large matrix product at the start
        prometheus: host:port where a Prometheus may ask how the work goes: 127.0.0.1:9400 answers
            this machine only, 0.0.0.0:9400 whoever reaches it; none, or nothing, offers none
        tensorboard: write the records for TensorBoard, too, into the run's tensorboard/
    """

    mlflow: bool = True
    experiment: str = "sdst"
    every: int = 10
    close_wait: float = 60.0
    peak_tflops: float | None = None
    prometheus: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("tracking.every must be at least 1")
        if self.prometheus:
            address_of(self.prometheus)
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError("tracking.peak_tflops must be positive, or null to measure")


def address_of(text: str) -> tuple[str, int]:
    """The host and the port of tracking.prometheus; ValueError if it names none."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")  # [::]:9400
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(
            f"tracking.prometheus {shown(text)} must be host:port, such as 127.0.0.1:9400"
        )
    return host, int(port)


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
    model: ModelConfig = field(default_factory=SDSTConfig)
    loss: ObjectiveConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        plain_name(self.name, "name", "the configuration")
        if self.name.startswith("."):
            raise ValueError(f"name {self.name!r} must not begin with a dot")
        if not 0 <= self.seed < 2**32:  # NumPy's
            raise ValueError(f"seed {self.seed} must be from 0 to {2**32 - 1}")
        if max(self.timeout, self.grace) > LONGEST_WAIT:
            raise ValueError(f"timeout and grace must be at most {LONGEST_WAIT} s")
        if self.epochs < 1 or self.timeout <= 0 or self.grace <= 0:
            raise ValueError("epochs must be at least 1, timeout and grace positive")
        if self.timeout > LONGEST or self.grace > LONGEST or self.tracking.close_wait > LONGEST:
            raise ValueError(
                f"timeout, grace and tracking.close_wait must be at most {LONGEST:.0f} s"
            )
        wanted = KINDS[self.model.kind].loss
        if type(self.loss) is not wanted:
            raise ValueError(f"loss of model.kind {self.model.kind} must be a {wanted.__name__}")
        if self.eval.patience and not self.data.selection:
            raise ValueError("eval.patience needs a split to evaluate on; set data.selection")

    @property
    def folder(self) -> Path:
        """Where this run keeps everything."""
        return self.runs / self.name


def experiment(resolved: str, source: Path) -> dict[str, Any]:
    """What decides a run's result, from the YAML of its configuration: all but `CARRIED_OUT`.

    `source` is the file that messages name.
    """
    values: dict[str, Any] = parse_yaml(resolved, source)
    with reading(source, "is it the configuration of a run?"):
        values["model"].setdefault("kind", "sdst")  # runs from before there were others
        for name in CARRIED_OUT:
            section, _, key = name.rpartition(".")
            (values[section] if section else values).pop(key, None)
    return values
