"""What does an experiment do, from its first step to its report? A function for each part."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.text import Text

from data_pipeline.errors import InputError
from data_pipeline.holding import hold
from data_pipeline.output import NotWritten
from data_pipeline.untrusted import read_text, readable
from model.kinds import build_objective
from trainer.cli import dump_config, terminal
from trainer.config import Config, experiment
from trainer.judging.judging import check_metric, finish, select
from trainer.tracking.prometheus import TrainingMetrics, offered
from trainer.tracking.tensorboard import check_installed
from trainer.tracking.tracking import End, flatten
from trainer.training.checkpoints import State
from trainer.training.loop import train_epoch
from trainer.training.meter import Meter
from trainer.training.preemption import Stopped, StopSignals
from trainer.training.processes import describe, join, leave, lost_contact, on_main
from trainer.training.progress import TrainingBar
from trainer.training.randomness import make_deterministic
from trainer.training.run import Run, Splits, make_meter, open_data, resume
from trainer.training.splits import doubts_of

CONSOLE = terminal()

NAMED = 5
"""Settings that a message about another configuration names."""


def carry_out(config: Config) -> int:
    """Set up, train, report; returns the exit status, see `trainer.main`."""
    if (config.folder / "metrics.json").is_file() and same_as_saved(config):
        CONSOLE.print(f"{config.folder} is finished; its scores are in metrics.json")
        return 0
    accelerator = start(config)
    with (
        StopSignals(accelerator, config.grace, config.data.workers > 0, config.timeout) as stop,
        ExitStack() as holding,
    ):
        data = open_data(config, accelerator)
        if data.selection:
            selection = data.selection.features
            on_main(accelerator, lambda: check_metric(selection, config))
        holding.enter_context(held(config, accelerator))
        if accelerator.is_main_process:
            for line in doubts_of(data.train.features, config.model.existence):
                CONSOLE.print(f"warning: {line}", style="yellow")
        watched = holding.enter_context(watchable(config, accelerator, data))
        run = resume(config, accelerator, data, stop, CONSOLE, watched)
        status: End = "FAILED"
        try:
            with stopping_where_nothing_can_be_written(run):
                train(run)
                finish(run, CONSOLE)
                run.checkpoints.wait()
            status = "FINISHED"
            return 0
        except Stopped as stopped:
            status = "KILLED"
            with stopping_where_nothing_can_be_written(run):
                run.save()
                run.checkpoints.wait()
            accelerator.print(f"{stopped}: stopped after step {run.state.step}, which is saved")
            return stopped.status
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except RuntimeError as error:
            if lost_contact(error):
                run.close(status)
                leave(accelerator, error)
            raise
        finally:
            run.close(status)
            run.learner.release()
            stop.release()
            if status != "FAILED":  # or the others would have us ended before we say why
                accelerator.end_training()


def start(config: Config) -> Accelerator:
    """Join the other processes and say what was given; another configuration is refused first."""
    same_as_saved(config)
    if config.deterministic:
        make_deterministic()
    accelerator = join(config)
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.WARNING)
    set_seed(config.seed)
    if accelerator.is_main_process:
        CONSOLE.print(Text.assemble((config.name, "bold"), f" in {config.folder}"))
        CONSOLE.print(describe(config, accelerator))
    return accelerator


@contextmanager
def held(config: Config, accelerator: Accelerator) -> Iterator[None]:
    """Hold the run's folder, by the main process, against other trainings of this name.

    All ranks end where another holds it, or began it meanwhile with another configuration.
    """
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(hold(config.folder, "training of this name"))
            same_as_saved(config)

        on_main(accelerator, take)
        yield


@contextmanager
def watchable(
    config: Config, accelerator: Accelerator, data: Splits
) -> Iterator[TrainingMetrics | None]:
    """What a Prometheus may ask the main process for, where tracking.prometheus says.

    All ranks end where the address cannot be had, or what tracking asks for is not installed.
    """
    with ExitStack() as stack:
        watched: list[TrainingMetrics] = []

        def offer() -> None:
            if config.tracking.tensorboard:
                check_installed()
            if config.tracking.prometheus:
                watched.append(TrainingMetrics(config.name, config.epochs * data.train.steps))
                port = stack.enter_context(offered(watched[0].registry, config.tracking.prometheus))
                CONSOLE.print(f"numbers for Prometheus at port {port}", highlight=False)

        on_main(accelerator, offer)
        yield watched[0] if watched else None


@contextmanager
def stopping_where_nothing_can_be_written(run: Run) -> Iterator[None]:
    """What a full disk, or one that became read-only, costs: the line says so."""
    try:
        yield
    except NotWritten as error:
        kept = run.checkpoints.last or "the beginning, as there is no checkpoint yet"
        raise NotWritten(
            f"{error}; training stopped at step {run.state.step} and goes on from {kept}"
        ) from error


def same_as_saved(config: Config) -> bool:
    """Whether the run's folder was begun with this experiment; InputError if with another.

    A setting that a run of an earlier version does not have was what its default is.
    """
    saved = config.folder / "config.yaml"
    if not saved.is_file():
        return False
    theirs = flatten(experiment(read_text(saved), saved))
    ours = flatten(experiment(dump_config(config), saved))
    if ours.keys() - theirs.keys():
        default = flatten(experiment(dump_config(Config()), saved))
        theirs |= {name: default[name] for name in default.keys() & ours.keys() - theirs.keys()}
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if names:
        told = [
            f"{readable(name, 60)} {readable(theirs.get(name, 'not there'), 40)}, now "
            f"{readable(ours.get(name, 'not there'), 40)}"
            for name in names[:NAMED]
        ]
        more = [f"{len(names) - NAMED} more"] * (len(names) > NAMED)
        raise InputError(
            f"{saved}: this run was begun with another configuration ({'; '.join(told + more)}); "
            f"choose another --name, or delete {config.folder}"
        )
    return True


def train(run: Run) -> None:
    """Epoch by epoch: train, evaluate on the selection split, keep the best, checkpoint."""
    config, state, steps = run.config, run.state, run.data.train.steps
    criterion = build_objective(config.model, config.loss)
    meter, every = make_meter(run), config.checkpoints.every
    shown = run.accelerator.is_main_process
    with TrainingBar(CONSOLE, config.epochs * steps, state, shown) as bar:

        def on_step() -> None:
            bar.move()
            if run.tracker:
                run.tracker.moved(state.step, state.skipped)
            if state.step % config.tracking.every == 0 or state.step == config.epochs * steps:
                bar.tell(record(run, meter))
            if every and state.step % every == 0 and state.batch < steps:
                run.save()  # after the record: a step that is saved is not recorded again

        while unfinished(config, state, steps) or state.evaluated < state.epoch:
            if state.evaluated == state.epoch:
                train_epoch(
                    run.learner,
                    criterion,
                    run.data.train.train(state.epoch, state.batch),
                    run.accelerator,
                    run.stop,
                    config,
                    state,
                    steps,
                    meter,
                    run.faults,
                    on_step,
                )
            if run.data.selection and (
                state.epoch % config.eval.every == 0 or state.epoch == config.epochs
            ):
                select(run, CONSOLE)
            state.evaluated = state.epoch
            run.save()


def unfinished(config: Config, state: State, steps: int) -> bool:
    """Whether epochs are left, and fewer than eval.patience evaluations passed since the best."""
    if not config.eval.patience or state.best_step < 0:
        return state.epoch < config.epochs
    passed = (state.step - state.best_step) // (steps * config.eval.every)
    return state.epoch < config.epochs and passed < config.eval.patience


def record(run: Run, meter: Meter) -> dict[str, float]:
    """Write down what was measured since the last record; returns the figures of training.

    Raises NotFinite where too many of the steps since then were left out.
    """
    records = meter.flush(run.accelerator)
    run.faults.settle()
    rates = (group["lr"] for group in run.learner.optimizer.param_groups)
    records["train"]["lr"] = max(rates)
    if run.tracker:
        epoch = run.state.step / run.data.train.steps
        for kind, numbers in records.items():
            run.tracker.log(kind, run.state.step, epoch, **numbers)
    return records["train"]
