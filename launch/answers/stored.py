"""What does a model answer for the sentences of a feature set? Its encoders need not be there."""

from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError
from data_pipeline.output import check_file, check_folder, make_folder
from launch.answers.batch import is_zero_shot
from launch.answers.found import write_csv
from trainer.cli import terminal

PREDICTIONS = "predictions.jsonl"


def is_feature_set(path: Path) -> bool:
    """Whether a folder holds features, as an extraction or an import writes them."""
    return (path / "manifest.json").is_file()


def predict_features(options: Any, sentences: list[str]) -> int:
    """Write `predictions.jsonl`, rows as QVHighlights' submissions have them, and the CSV file if
    asked for; what can be refused is refused before anything is written."""
    folder: Path = options.video
    if sentences:
        raise InputError(f"{folder}: holds features and their sentences; leave the sentence out")
    if options.json or options.plot or options.clips:
        raise InputError("--json, --plot and --clips are for a video; leave them out")
    if is_zero_shot(options.model):
        raise InputError(f"{folder}: holds features, which a model answers for; name it by --model")
    if options.output is None:
        raise InputError(f"{folder}: name a folder for the predictions with --output")
    check_folder(options.output)
    if options.csv is not None:
        check_file(options.csv)
    from accelerate import Accelerator

    from data_pipeline.config import DataConfig
    from data_pipeline.features.shards import FeatureSet
    from data_pipeline.stream.stream import PairStream
    from trainer.inference.predict import usable_device
    from trainer.inference.pretrained import load_pretrained
    from trainer.judging.evaluation import predict_split, write_predictions
    from trainer.training.checkpoints import check_features
    from trainer.training.splits import check_model_fits

    device = usable_device(options.device)
    features = FeatureSet(str(folder))
    model, export = load_pretrained(options.model)
    check_features(options.model, export.features, features)
    check_model_fits(export.model, features)
    rows, _ = predict_split(
        model.to(device),
        PairStream(features, DataConfig(), seed=0).evaluate(),
        Accelerator(cpu=device == "cpu"),
        features.provenance.clip_length,
        export.postprocess,
        export.calibration,
    )
    make_folder(options.output)
    console = terminal(soft_wrap=True)
    write_predictions(options.output / PREDICTIONS, rows)
    console.print(f"predictions {options.output / PREDICTIONS}: {len(rows)} sentences")
    if options.csv is not None:
        write_csv(options.csv, (cells for row in rows for cells in best(row, options)))
        console.print(f"table     {options.csv}")
    return 0


def best(row: dict[str, Any], options: Any) -> list[dict[str, object]]:
    """The best windows of a prediction, as rows of a table."""
    windows = [w for w in row["pred_relevant_windows"] if w[2] >= (options.threshold or 0)]
    return [
        {"video": row["vid"], "query": row["query"], "rank": rank, "start": start, "end": end}
        | {"score": score}
        for rank, (start, end, score) in enumerate(windows[: options.top], start=1)
    ]
