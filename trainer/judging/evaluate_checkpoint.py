"""How well does a trained model do on the splits of a configuration, without training it?

`<runs>/<name>/evaluation/<split>/metrics.json` gets the scores, and with `--dump` the predictions
lie beside it; those of QVHighlights' own videos also in the files and the zip that its server
takes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.output import check_folder
from data_pipeline.stream.stream import PairStream
from model.config import ModelConfig
from model.kinds import build
from trainer.cli import load_config, terminal
from trainer.config import Config
from trainer.inference.calibration import AS_IT_IS
from trainer.inference.pretrained import CONFIG, WEIGHTS, Export, check_seal, find_model
from trainer.judging import baselines
from trainer.judging.evaluation import Rows, predict_split, score, withheld, write_predictions
from trainer.judging.results import coverage, found_from, print_result, write_result
from trainer.judging.submission import (
    MEMBERS,
    are_qvhighlights,
    submission_faults,
    write_submission,
)
from trainer.metrics.rows import Fault, faults
from trainer.training import checkpoints
from trainer.training.processes import join
from trainer.training.provenance import code_revision, names_of, part_of, stamp
from trainer.training.splits import open_split


def evaluate_checkpoint(config: Config, checkpoint: Path, dump: bool) -> None:
    """Score a model on the selection and the report split; every rank calls it.

    `checkpoint` is a checkpoint's folder, an exported model's or a run's; `dump` writes the
    predictions too.
    """
    console = terminal()
    accelerator = join(config)
    weights, export = find_weights(checkpoint)
    path = weights.parent / CONFIG
    trained = export.model if export else load_config(Config, path).model
    check_same_model(path, trained, config.model)
    made = export.features if export else checkpoints.features_of(checkpoint)
    splits = open_splits(config, accelerator)
    for split in splits.values():
        checkpoints.check_features(checkpoint, made, split.features)
    members = {
        name: MEMBERS[name]
        for name, split in splits.items()
        if name in MEMBERS and are_qvhighlights(split.features.columns.vids)
    }
    folder = config.folder / "evaluation"
    if accelerator.is_main_process:
        for name in splits:
            check_folder(folder / name)
    model = build(config.model)
    checkpoints.load_weights(weights, model)
    model.to(accelerator.device)
    calibration = export.calibration if export else AS_IT_IS
    predicted: dict[str, tuple[Rows, list[Annotation]]] = {}
    for name, split in splits.items():
        rows, annotations = predict_split(
            model,
            split.evaluate(),
            accelerator,
            split.features.provenance.clip_length,
            config.eval.postprocess,
            calibration,
        )
        predicted[name] = rows, annotations
        if accelerator.is_main_process:
            origin = _provenance(config, checkpoint, weights, export, split, len(rows))
            origin |= found_from(config, calibration)
            _score(folder / name, split.features, rows, annotations, config, origin, console)
    # What another model's scripts would have written is not held to what is right here.
    judged = None if config.eval.postprocess.original == "none" else faults
    if accelerator.is_main_process and dump:
        for name, (rows, annotations) in predicted.items():
            path = folder / name / "predictions.jsonl"
            _dump(
                path,
                rows,
                annotations,
                console,
                judged or partial(submission_faults, highlights=False),
            )
        if members and config.eval.dataset == "qvhighlights":
            path = write_submission(folder, {name: predicted[name] for name in members}, judged)
            for missing in MEMBERS.keys() - members.keys():
                console.print(f"{path}: without {MEMBERS[missing]}: no split {missing!r} is set")
            console.print(f"submission {path}", soft_wrap=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def find_weights(folder: Path) -> tuple[Path, Export | None]:
    """The weights in `folder`, and, where it is no checkpoint, what was exported with them.

    Raises InputError where they are not as they were written.
    """
    if (folder / checkpoints.STATE).is_file():
        checkpoints.verify(folder)
        return folder / checkpoints.WEIGHTS, None
    exported = find_model(folder)
    export = load_config(Export, exported / CONFIG)
    check_seal(exported, export)
    return exported / WEIGHTS, export


def check_same_model(path: Path, trained: ModelConfig, asked: ModelConfig) -> None:
    """Raise InputError where the configuration describes another model than the weights'.

    Which kernels compute it may differ.
    """
    for name in trained.differences(asked):
        theirs, ours = (getattr(each, name, "no such setting") for each in (trained, asked))
        raise InputError(
            f"{path}: was trained with model.{name} {theirs}, the configuration has {ours}; "
            "give --config of that training"
        )


def open_splits(config: Config, accelerator: Accelerator) -> dict[str, PairStream]:
    """The selection and the report split by name."""
    splits: dict[str, PairStream] = {}
    for folder in dict.fromkeys((config.data.selection, config.data.report)):
        if folder is None:
            continue
        split = open_split(folder, config, accelerator)
        name = split.features.split
        if name in splits:
            raise InputError(
                f"{folder}: is split {name!r}, as {splits[name].features.folder} is; "
                "evaluate them one after the other"
            )
        splits[name] = split
    if not splits:
        raise InputError("there is nothing to evaluate on; set data.selection or data.report")
    return splits


def _provenance(
    config: Config,
    checkpoint: Path,
    weights: Path,
    export: Export | None,
    split: PairStream,
    scored: int,
) -> dict[str, str]:
    """What a number of this evaluation measures."""
    training = export.provenance if export else {}
    return {
        **names_of(config),
        "split": stamp(split.features),
        **({"part": part_of(config.data)} if part_of(config.data) else {}),
        "queries": coverage(split, scored),
        "checkpoint": str(checkpoint),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "selection": str(training.get("selection", "none: this checkpoint was asked for")),
        "training code": str(training.get("code", "not recorded with the checkpoint")),
        "code": code_revision(),
        **{f"features.{key}": text for key, text in split.features.provenance.summary().items()},
    }


def _score(
    folder: Path,
    features: FeatureSet,
    rows: Rows,
    annotations: Sequence[Annotation],
    config: Config,
    origin: dict[str, str],
    console: Console,
) -> None:
    """Write and show the scores; a split whose ground truth is withheld has none."""
    if withheld(annotations):
        console.print(
            f"{origin['split']}: {origin['queries']} queries, ground truth withheld: no scores"
        )
        return
    others, missing = baselines.others(features, annotations, config.seed)
    result = {
        "metrics": score(rows, annotations, config.eval.dataset).summary,
        "baselines": {
            name: score(theirs, annotations, config.eval.dataset).summary
            for name, theirs in others.items()
        },
        "provenance": origin,
    }
    write_result(folder, result)
    print_result(result, console)
    if missing:
        console.print(missing, soft_wrap=True)


def _dump(
    path: Path,
    rows: Rows,
    annotations: Sequence[Annotation],
    console: Console,
    judged: Callable[..., Iterator[Fault]],
) -> None:
    """Write predictions.jsonl, judged first: as a submission, its saliency left out."""
    for fault in judged(list(enumerate(rows, start=1)), annotations):
        raise InputError(f"{path}:{fault.place}: {fault.message}")
    write_predictions(path, rows)
    console.print(f"predictions {path}", soft_wrap=True)
