"""Train, select, evaluate and track one experiment: what `accelerate launch` runs.

    accelerate launch trainer/main.py --config configs/quickstart.yaml --name my-run
    accelerate launch trainer/main.py --config C --checkpoint P --eval [--dump]

The run's folder gets the resolved config, metrics.jsonl, checkpoints, the exported model, and, at
the end, metrics.json, predictions.jsonl and report.html. Running the same command again resumes.

The second form only evaluates P, a checkpoint or an exported model, on the splits data.selection
and data.report; --dump also writes its predictions as the data set's server takes them.
"""

import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.stream import PairStream
from model.losses import Criterion
from model.sdst import SDST
from trainer import baselines, checkpoints
from trainer.checkpoints import Checkpoints, State
from trainer.cli import command, dump_config, parse_config
from trainer.config import Config, experiment
from trainer.evaluate_checkpoint import evaluate_checkpoint, evaluation_request
from trainer.evaluation import (
    Rows,
    predict_split,
    score,
    selection_value,
    withheld,
    write_predictions,
)
from trainer.loop import train_epoch
from trainer.meter import Meter
from trainer.optimization import make_optimizer
from trainer.preemption import Stopped, StopSignals
from trainer.processes import describe, join, leave, lost_contact
from trainer.randomness import make_deterministic
from trainer.report import write_report
from trainer.results import (
    code_revision,
    export,
    nesting,
    print_result,
    provenance,
    trainable_parameters,
    write_queries,
    write_result,
)
from trainer.sharding import Learner
from trainer.splits import check_selection, open_split
from trainer.tracking import Tracker
from trainer.work import flops_per_pair, measure_peak

LOG = logging.getLogger("trainer")
CONSOLE = Console()


@command
def main(args: list[str] | None = None) -> int:
    """Set up, train, report; each step below in its turn.

    Exits with 0, with 75 after SIGTERM and 130 after Ctrl-C once a checkpoint is written, with 76
    when another process is lost, and with 2 for a fault of the user's.
    """
    request, args = evaluation_request(args)
    config = parse_config(Config, args, __doc__)
    if request:
        evaluate_checkpoint(config, request, CONSOLE)
        return 0
    if (config.folder / "metrics.json").is_file() and same_as_saved(config):
        CONSOLE.print(f"{config.folder} is finished; its scores are in metrics.json")
        return 0
    accelerator = start(config)
    with StopSignals(accelerator, config.grace, workers=config.data.workers > 0) as stop:
        data = open_data(config, accelerator)
        run = resume(config, accelerator, data, stop)
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
        try:
            train(run)
            finish(run)
            status = "FINISHED"
            return 0
        except Stopped as stopped:
            status = "KILLED"
            save(run)
            run.checkpoints.wait()
            accelerator.print(f"{stopped}: stopped after step {run.state.step}, which is saved")
            return stopped.status
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except RuntimeError as error:
            if lost_contact(error):
                close(run, status)
                leave(accelerator, error)
            raise
        finally:
            close(run, status)
            accelerator.end_training()


def start(config: Config) -> Accelerator:
    """Join the other processes, say what was given, and hold the run's folder."""
    if config.deterministic:
        make_deterministic()
    accelerator = join(config)
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.WARNING)
    set_seed(config.seed)
    folder = config.folder
    if accelerator.is_main_process:
        CONSOLE.print(f"[bold]{config.name}[/bold] in {folder}")
        CONSOLE.print(describe(config, accelerator), highlight=False)
    if not same_as_saved(config) and accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".config.yaml.tmp"
        temporary.write_text(dump_config(config))
        temporary.replace(folder / "config.yaml")
    accelerator.wait_for_everyone()
    return accelerator


def same_as_saved(config: Config) -> bool:
    """Whether the run's folder was begun with this experiment; InputError if with another."""
    saved = config.folder / "config.yaml"
    if not saved.is_file():
        return False
    if experiment(saved.read_text()) != experiment(dump_config(config)):
        raise InputError(
            f"{saved}: this run was begun with another configuration; "
            f"choose another --name, or delete {config.folder}"
        )
    return True


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

    train = open_split(config.data.train, config, accelerator)
    splits = Splits(train, stream(config.data.selection), stream(config.data.report))
    if splits.selection:
        check_selection(splits.selection.features, config)
    for other in (splits.selection, splits.report):
        if other is not None:
            train.features.check_same_features(other.features)
    return splits


@dataclass
class Run:
    """What the steps below work on. `judge` is a whole, plain copy of the model: it is given the
    weights, or their average, when they are to be scored or exported."""

    config: Config
    accelerator: Accelerator
    stop: StopSignals
    data: Splits
    learner: Learner
    judge: SDST
    state: State
    checkpoints: Checkpoints
    tracker: Tracker | None


def resume(config: Config, accelerator: Accelerator, data: Splits, stop: StopSignals) -> Run:
    """Model, optimizer and records, as a checkpoint left them or at the beginning."""
    path = choose_checkpoint(config, accelerator)
    model = SDST(config.model)
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
        learner.restore(saved.weights, saved.states, state.step - state.skipped)
        if accelerator.is_main_process:
            CONSOLE.print(f"going on from step {state.step} (epoch {state.epoch}), {path}")
    state.code = code_revision()
    main = accelerator.is_main_process
    own = config.folder / "checkpoints"
    begun = path.name if path and path.parent == own else None
    return Run(
        config,
        accelerator,
        stop,
        data,
        learner,
        SDST(config.model).to(accelerator.device).eval(),
        state,
        Checkpoints(own, config.checkpoints, dump_config(config), main, begun),
        track(config, data, model, state) if main else None,
    )


def choose_checkpoint(config: Config, accelerator: Accelerator) -> Path | None:
    """Where the run goes on, the same on every rank; None to begin.

    Raises InputError, on the main process, for a checkpoint that was named and is not whole.
    """
    chosen: list[Path | None] = [None]
    if accelerator.is_main_process:
        chosen = [checkpoints.newest(config.folder / "checkpoints")]
        if chosen[0] and config.resume == "never":
            raise InputError(f"{config.folder}: has checkpoints; choose another --name or --resume")
        if not chosen[0] and config.resume not in ("auto", "never"):
            chosen = [Path(config.resume).resolve()]
            checkpoints.verify(Path(config.resume))
    broadcast_object_list(chosen)
    return chosen[0]


def track(config: Config, data: Splits, model: SDST, state: State) -> Tracker:
    """Open the run's records; for the main process only."""
    parameters = dataclasses.asdict(config) | {"trainable_parameters": trainable_parameters(model)}
    return Tracker(
        config.folder,
        config.tracking,
        config.name,
        parameters,
        provenance(config, data.train.features) | nesting(),
        state.step,
        state.mlflow_run,
    )


def make_meter(run: Run) -> Meter:
    """A meter that knows the work of an average pair and what the device could do."""
    config, pairs = run.config, run.data.train.pairs
    work = flops_per_pair(config.model, round(pairs.clips.mean()), round(pairs.tokens.mean()))
    if config.tracking.peak_tflops is not None:
        return Meter(work, config.tracking.peak_tflops * 1e12)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Meter(work, measure_peak(run.accelerator.device, dtype))


def train(run: Run) -> None:
    """Epoch by epoch: train, evaluate on the selection split, keep the best, checkpoint."""
    config, state, accelerator = run.config, run.state, run.accelerator
    criterion = Criterion(config.loss)
    steps = run.data.train.steps
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(
            "steps, epoch {task.fields[epoch]}, loss {task.fields[loss]}, {task.fields[speed]}"
        ),
        TimeRemainingColumn(),
    )
    hidden = not accelerator.is_main_process
    with Progress(*columns, console=CONSOLE, disable=hidden) as progress:
        bar = progress.add_task(
            "",
            total=config.epochs * steps,
            completed=state.step,
            epoch=state.epoch,
            loss="",
            speed="",
        )

        meter = make_meter(run)

        def on_step() -> None:
            progress.update(bar, completed=state.step)
            if state.step % config.tracking.every == 0 or state.step == config.epochs * steps:
                records = meter.flush(accelerator)
                numbers = records["train"]
                numbers["lr"] = max(group["lr"] for group in run.learner.optimizer.param_groups)
                progress.update(
                    bar,
                    epoch=state.epoch,
                    loss=f"{numbers['loss']:.3f}",
                    speed=f"{numbers['pairs_per_second']:.0f} pairs/s",
                )
                if run.tracker:
                    for kind, of_kind in records.items():
                        run.tracker.log(kind, state.step, state.step / steps, **of_kind)
            every = config.checkpoints.every
            if every and state.step % every == 0 and state.batch < steps:
                save(run)  # after the record: a step that is saved is not recorded again

        def unfinished() -> bool:
            return state.epoch < config.epochs and patience_left(config, state, steps)

        while unfinished() or state.evaluated < state.epoch:
            if state.evaluated == state.epoch:
                batches = run.data.train.train(state.epoch, state.batch)
                train_epoch(
                    run.learner,
                    criterion,
                    batches,
                    accelerator,
                    run.stop,
                    config,
                    state,
                    steps,
                    meter,
                    on_step,
                )
            if run.data.selection and (
                state.epoch % config.eval.every == 0 or state.epoch == config.epochs
            ):
                select(run)
            state.evaluated = state.epoch
            save(run)


def patience_left(config: Config, state: State, steps: int) -> bool:
    """Whether fewer than eval.patience evaluations have passed since the best one."""
    if not config.eval.patience or state.best_step < 0:
        return True
    passed = (state.step - state.best_step) // (steps * config.eval.every)
    return passed < config.eval.patience


def save(run: Run) -> None:
    """Checkpoint; training goes on as soon as everything is copied."""
    if run.tracker:
        run.state.mlflow_run = run.tracker.run_id
    pause = run.checkpoints.save(run.learner, run.state)
    if run.tracker:
        run.tracker.log("checkpoint", run.state.step, float(run.state.epoch), pause=pause)


def close(run: Run, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """Leave the run's folder and its records whole."""
    run.checkpoints.wait()
    if run.tracker:
        run.tracker.close(status)


def select(run: Run) -> None:
    """Evaluate on the selection split; export the model if it is the best so far."""
    config, state = run.config, run.state
    assert run.data.selection is not None
    run.judge.load_state_dict(run.learner.averages())
    rows, annotations = predict(run, run.data.selection)
    value = 0.0
    if run.accelerator.is_main_process:
        summary = score(rows, annotations, config.eval.dataset).summary
        if run.tracker:
            run.tracker.log("eval", state.step, float(state.epoch), **summary)
        value = selection_value(summary, config.eval.metric)
        numbers = ", ".join(f"{name} {summary[name]:.1f}" for name in config.eval.metric)
        CONSOLE.print(f"epoch {state.epoch} of {config.epochs}: {numbers}", highlight=False)
        if value > state.best:
            export(config, run.data.train.features, run.judge)
    [value] = broadcast_object_list([value])
    if value > state.best:
        state.best, state.best_step = value, state.step


def predict(run: Run, split: PairStream) -> tuple[Rows, list[Annotation]]:
    """Prediction rows of a whole split and their annotations, on every rank."""
    return predict_split(
        run.judge,
        run.stop.watch(split.evaluate()),
        run.accelerator,
        split.features.provenance.clip_length,
        run.config.eval.postprocess,
    )


def finish(run: Run) -> None:
    """Score the kept model on the report split beside the baselines; write the run's results."""
    config, folder, data = run.config, run.config.folder, run.data
    if not data.selection:
        run.judge.load_state_dict(run.learner.averages())
        if run.accelerator.is_main_process:
            export(config, data.train.features, run.judge)
    run.accelerator.wait_for_everyone()
    checkpoints.load_weights(folder / "model" / "model.safetensors", run.judge)
    if data.report is None:
        return
    rows, annotations = predict(run, data.report)
    if not run.accelerator.is_main_process:
        return
    write_predictions(folder / "predictions.jsonl", rows)
    if withheld(annotations):
        CONSOLE.print(f"{data.report.features.folder}: ground truth withheld, no scores")
        return
    evaluation = score(rows, annotations, config.eval.dataset)
    summary = evaluation.summary
    write_queries(folder, annotations, evaluation)
    others = {
        "whole video": baselines.whole_video(annotations),
        "random": baselines.random_windows(annotations, config.seed),
    }
    result = {
        "metrics": summary,
        "baselines": {
            name: score(theirs, annotations, config.eval.dataset).summary
            for name, theirs in others.items()
        },
        "provenance": provenance(config, data.train.features),
        "trainable_parameters": trainable_parameters(run.judge),
    }
    write_result(folder, result)
    report = write_report(folder, annotations, config.videos) if config.videos else None
    print_result(result, CONSOLE)
    if run.tracker:
        run.tracker.log("report", run.state.step, float(run.state.epoch), **summary)
        for path in (
            folder / "config.yaml",
            folder / "metrics.json",
            folder / "metrics.jsonl",
            folder / "predictions.jsonl",
            folder / "per_query.json",
            folder / "annotations.jsonl",
            report,
        ):
            if path:
                run.tracker.artifact(path)


if __name__ == "__main__":
    sys.exit(main())
