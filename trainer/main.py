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
from typing import Literal, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.stream import PairStream
from model.losses import Criterion
from model.sdst import SDST
from trainer import baselines, checkpoints
from trainer.checkpoints import State
from trainer.cli import command, dump_config, parse_config
from trainer.config import Config
from trainer.evaluate_checkpoint import evaluate_checkpoint, evaluation_request
from trainer.evaluation import Rows, predict_split, score, selection_value, write_predictions
from trainer.loop import train_epoch
from trainer.meter import Meter
from trainer.optimization import make_optimizer
from trainer.report import write_report
from trainer.results import export, print_result, provenance, write_result
from trainer.splits import check_selection, open_split
from trainer.tracking import Tracker
from trainer.work import flops_per_pair, measure_peak

LOG = logging.getLogger("trainer")
CONSOLE = Console()


@command
def main(args: list[str] | None = None) -> None:
    """Set up, train, report; each step below in its turn."""
    request, args = evaluation_request(args)
    config = parse_config(Config, args, __doc__)
    if request:
        evaluate_checkpoint(config, request, CONSOLE)
        return
    if (config.folder / "metrics.json").is_file() and same_as_saved(config):
        CONSOLE.print(f"{config.folder} is finished; its scores are in metrics.json")
        return
    accelerator = start(config)
    data = open_data(config, accelerator)
    model = SDST(config.model)
    optimizer = make_optimizer(model, config.optim)
    state = resume(config, accelerator, model, optimizer)
    tracker = track(config, accelerator, data, model, state)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        train(config, accelerator, data, model, optimizer, state, tracker)
        finish(config, accelerator, data, model, state, tracker)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if tracker:
            tracker.close(status)
        accelerator.end_training()


def start(config: Config) -> Accelerator:
    """Join the other processes, say what was given, and hold the run's folder."""
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.WARNING)
    set_seed(config.seed)
    folder = config.folder
    if accelerator.is_main_process:
        CONSOLE.print(
            f"[bold]{config.name}[/bold]: {accelerator.num_processes} process(es), "
            f"{accelerator.distributed_type.value}, {accelerator.device}, "
            f"{torch.get_num_threads()} thread(s) each, {config.precision}, "
            f"batch {config.data.batch_size}, folder {folder}"
        )
    if not same_as_saved(config) and accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".config.yaml.tmp"
        temporary.write_text(dump_config(config))
        temporary.replace(folder / "config.yaml")
    accelerator.wait_for_everyone()
    return accelerator


def same_as_saved(config: Config) -> bool:
    """Whether the run's folder was begun with this configuration; InputError if with another."""
    saved = config.folder / "config.yaml"
    if not saved.is_file():
        return False
    if saved.read_text() != dump_config(config):
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


def resume(
    config: Config,
    accelerator: Accelerator,
    model: SDST,
    optimizer: torch.optim.Optimizer,
) -> State:
    """Go on from the newest complete checkpoint of the run's folder, or begin."""
    model.to(accelerator.device)
    checkpoint = checkpoints.newest(config.folder / "checkpoints")
    if checkpoint is None:
        return State()
    state = checkpoints.load(checkpoint, accelerator, model, optimizer)
    if accelerator.is_main_process:
        CONSOLE.print(f"going on from step {state.step} (epoch {state.epoch}), {checkpoint}")
    return state


def track(
    config: Config, accelerator: Accelerator, data: Splits, model: SDST, state: State
) -> Tracker | None:
    """Open the run's records, on the main process only."""
    if not accelerator.is_main_process:
        return None
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    parameters = dataclasses.asdict(config) | {"trainable_parameters": trainable}
    return Tracker(
        config.folder,
        config.tracking,
        config.name,
        parameters,
        provenance(config, data.train.features),
        state.step,
        state.mlflow_run,
    )


def make_meter(config: Config, accelerator: Accelerator, stream: PairStream) -> Meter:
    """A meter that knows the work of an average pair and what the device could do."""
    pairs = stream.pairs
    work = flops_per_pair(config.model, round(pairs.clips.mean()), round(pairs.tokens.mean()))
    if config.tracking.peak_tflops is not None:
        return Meter(work, config.tracking.peak_tflops * 1e12)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return Meter(work, measure_peak(accelerator.device, dtype))


def train(
    config: Config,
    accelerator: Accelerator,
    data: Splits,
    model: SDST,
    optimizer: torch.optim.Optimizer,
    state: State,
    tracker: Tracker | None,
) -> None:
    """Epoch by epoch: train, evaluate on the selection split, keep the best, checkpoint."""
    wrapped = accelerator.prepare_model(model)
    network = cast(nn.Module, torch.compile(wrapped)) if config.compile else wrapped
    criterion = Criterion(config.loss)
    steps = data.train.steps
    hidden = not accelerator.is_main_process
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(
            "steps, epoch {task.fields[epoch]}, loss {task.fields[loss]}, {task.fields[speed]}"
        ),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE, disable=hidden) as progress:
        bar = progress.add_task(
            "",
            total=config.epochs * steps,
            completed=state.step,
            epoch=state.epoch,
            loss="",
            speed="",
        )

        meter = make_meter(config, accelerator, data.train)

        def on_step() -> None:
            progress.update(bar, completed=state.step)
            if state.step % config.tracking.every == 0 or state.step == config.epochs * steps:
                records = meter.flush(accelerator)
                numbers = records["train"]
                numbers["lr"] = max(group["lr"] for group in optimizer.param_groups)
                progress.update(
                    bar,
                    epoch=state.epoch,
                    loss=f"{numbers['loss']:.3f}",
                    speed=f"{numbers['pairs_per_second']:.0f} pairs/s",
                )
                if tracker:
                    for kind, of_kind in records.items():
                        tracker.log(kind, state.step, state.step / steps, **of_kind)

        while state.epoch < config.epochs and patience_left(config, state, steps):
            batches = data.train.train(state.epoch, state.batch)
            train_epoch(
                network,
                criterion,
                optimizer,
                batches,
                accelerator,
                config,
                state,
                steps,
                meter,
                on_step,
            )
            if data.selection and (
                state.epoch % config.eval.every == 0 or state.epoch == config.epochs
            ):
                select(config, accelerator, data, model, state, tracker)
            if tracker:
                state.mlflow_run = tracker.run_id
            checkpoints.save(
                config.folder / "checkpoints", accelerator, model, optimizer, state, config.keep
            )


def patience_left(config: Config, state: State, steps: int) -> bool:
    """Whether fewer than eval.patience evaluations have passed since the best one."""
    if not config.eval.patience or state.best_step < 0:
        return True
    passed = (state.step - state.best_step) // (steps * config.eval.every)
    return passed < config.eval.patience


def select(
    config: Config,
    accelerator: Accelerator,
    data: Splits,
    model: SDST,
    state: State,
    tracker: Tracker | None,
) -> None:
    """Evaluate on the selection split; export the model if it is the best so far."""
    assert data.selection is not None
    rows, annotations = predict(config, accelerator, data.selection, model)
    summary = score(rows, annotations, config.eval.dataset).summary
    value = selection_value(summary, config.eval.metric)
    # Every rank scores and remembers: all must agree on when patience ends.
    best = value > state.best
    if best:
        state.best, state.best_step = value, state.step
    if not accelerator.is_main_process:
        return
    if tracker:
        tracker.log("eval", state.step, float(state.epoch), **summary)
    numbers = ", ".join(f"{name} {summary[name]:.1f}" for name in config.eval.metric)
    CONSOLE.print(f"epoch {state.epoch} of {config.epochs}: {numbers}", highlight=False)
    if best:
        export(config, data.train.features, model)


def predict(
    config: Config, accelerator: Accelerator, split: PairStream, model: SDST
) -> tuple[Rows, list[Annotation]]:
    """Prediction rows of a whole split and their annotations, on every rank."""
    clip_length = split.features.provenance.clip_length
    return predict_split(model, split.evaluate(), accelerator, clip_length, config.eval.postprocess)


def finish(
    config: Config,
    accelerator: Accelerator,
    data: Splits,
    model: SDST,
    state: State,
    tracker: Tracker | None,
) -> None:
    """Score the kept model on the report split beside the baselines; write the run's results."""
    folder = config.folder
    if accelerator.is_main_process and not data.selection:
        export(config, data.train.features, model)
    accelerator.wait_for_everyone()
    checkpoints.load_weights(folder / "model" / "model.safetensors", model)
    if data.report is None:
        return
    rows, annotations = predict(config, accelerator, data.report, model)
    if not accelerator.is_main_process:
        return
    write_predictions(folder / "predictions.jsonl", rows)
    summary = score(rows, annotations, config.eval.dataset).summary
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
    }
    write_result(folder, result)
    report = write_report(folder, annotations, config.videos) if config.videos else None
    print_result(result, CONSOLE)
    if tracker:
        tracker.log("report", state.step, float(state.epoch), **summary)
        for path in (
            folder / "config.yaml",
            folder / "metrics.json",
            folder / "predictions.jsonl",
            report,
        ):
            if path:
                tracker.artifact(path)


if __name__ == "__main__":
    sys.exit(main())
