"""Which weights does a run keep, how good are they, and what is written of that?"""

from typing import Any

from accelerate.utils import broadcast_object_list
from rich.console import Console

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.stream import PairStream
from trainer.cli import load_config
from trainer.config import Config
from trainer.inference.calibration import AS_IT_IS, Calibration
from trainer.inference.pretrained import CONFIG, WEIGHTS, Export, check_seal
from trainer.judging import baselines
from trainer.judging.calibrating import calibrate
from trainer.judging.evaluation import (
    Rows,
    predict_split,
    score,
    selection_value,
    withheld,
    write_predictions,
)
from trainer.judging.results import (
    coverage,
    export,
    found_from,
    print_result,
    write_queries,
    write_result,
)
from trainer.metrics import HEADLINES
from trainer.pictures.report import write_report
from trainer.tracking.tracking import KEPT
from trainer.training import checkpoints
from trainer.training.provenance import provenance, stamp, trainable_parameters
from trainer.training.run import Run
from trainer.training.splits import LOOKED_AT, annotations_of


def check_metric(selection: FeatureSet, config: Config) -> None:
    """Raise InputError where `eval.metric` is one that the selection split has no ground truth for.

    A part of the videos is looked at, and the others only where that does not tell.
    """
    count = len(selection.samples)
    for number in sorted({min(LOOKED_AT, count), count}):
        annotations = annotations_of(selection, range(number))
        summary: dict[str, float] = {}
        if annotations:
            rows = baselines.whole_video(annotations)
            try:
                summary = score(rows, annotations, config.eval.dataset).summary
            except InputError:
                if not withheld(annotations):
                    raise
        if summary.keys() >= set(config.eval.metric):
            return
    try:
        selection_value(summary, config.eval.metric)
    except InputError as error:
        raise InputError(f"{selection.folder}: {error}") from error


def select(run: Run, console: Console) -> None:
    """Evaluate on the selection split; export the model if it is the best so far."""
    config, state, split = run.config, run.state, run.data.selection
    assert split is not None
    run.judge.load_state_dict(run.learner.averages())
    rows, annotations = predict(run, split)
    value = 0.0
    if run.accelerator.is_main_process:
        summary = score(rows, annotations, config.eval.dataset).summary
        left_out = split.annotated - len(rows)
        if run.tracker:
            run.tracker.log("eval", state.step, float(state.epoch), **summary, left_out=left_out)
        value = selection_value(summary, config.eval.metric)
        numbers = ", ".join(f"{name} {summary[name]:.1f}" for name in config.eval.metric)
        if left_out:
            numbers += f" ({coverage(split, len(rows))})"
        console.print(f"epoch {state.epoch} of {config.epochs}: {numbers}", highlight=False)
    [value] = broadcast_object_list([value])
    if value > state.best:
        batches = run.stop.watch(split.evaluate())
        named = stamp(split.features)
        calibration = calibrate(run.judge, batches, run.accelerator, named)
        if run.accelerator.is_main_process:
            export(config, run.data.train.features, run.judge, calibration)
        state.best, state.best_step = value, state.step


def predict(
    run: Run, split: PairStream, calibration: Calibration = AS_IT_IS
) -> tuple[Rows, list[Annotation]]:
    """Prediction rows of a whole split and their annotations, on every rank."""
    return predict_split(
        run.judge,
        run.stop.watch(split.evaluate()),
        run.accelerator,
        split.features.provenance.clip_length,
        run.config.eval.postprocess,
        calibration,
    )


def finish(run: Run, console: Console) -> None:
    """Score the kept model on the report split beside the baselines; write the run's results."""
    config, folder, data = run.config, run.config.folder, run.data
    if not data.selection:
        run.judge.load_state_dict(run.learner.averages())
        if run.accelerator.is_main_process:
            export(config, data.train.features, run.judge, AS_IT_IS)
    run.accelerator.wait_for_everyone()
    exported = folder / "model"
    described = load_config(Export, exported / CONFIG)
    check_seal(exported, described)
    checkpoints.load_weights(exported / WEIGHTS, run.judge)
    if data.report is None:
        return
    rows, annotations = predict(run, data.report, described.calibration)
    if run.accelerator.is_main_process:
        write_predictions(folder / "predictions.jsonl", rows)
        if withheld(annotations):
            console.print(f"{data.report.features.folder}: ground truth withheld, no scores")
        else:
            told = found_from(config, described.calibration)
            report(run, data.report, rows, annotations, told, console)


def report(
    run: Run,
    split: PairStream,
    rows: Rows,
    annotations: list[Annotation],
    told: dict[str, str],
    console: Console,
) -> None:
    """Write, show and track the scores of the report split; for the main process only."""
    config, folder = run.config, run.config.folder
    evaluation = score(rows, annotations, config.eval.dataset)
    write_queries(folder, annotations, evaluation)
    others, missing = baselines.others(split.features, annotations, config.seed)
    result = {
        "metrics": evaluation.summary,
        "baselines": {
            name: score(theirs, annotations, config.eval.dataset).summary
            for name, theirs in others.items()
        },
        "provenance": provenance(config, run.data.train.features)
        | {"queries": coverage(split, len(rows))}
        | told,
        "trainable_parameters": trainable_parameters(run.judge),
    }
    write_result(folder, result)
    page = write_report(folder, annotations, config.videos) if config.videos else None
    print_result(result, console)
    if missing:
        console.print(missing, soft_wrap=True)
    if run.tracker:
        left_out = split.annotated - len(rows)
        numbers = evaluation.summary | {"left_out": left_out}
        run.tracker.log("report", run.state.step, float(run.state.epoch), **numbers)
        for name in KEPT if page else KEPT[:-1]:
            run.tracker.artifact(name)
        run.tracker.describe(description(result))


def description(result: dict[str, Any]) -> str:
    """The headline scores in a line, and what they measure."""
    scores = [f"{k} {v:.1f}" for k, v in result["metrics"].items() if k in HEADLINES]
    origin = result["provenance"]
    return f"{', '.join(scores)} on {origin['report']}; {origin['selection']}."
