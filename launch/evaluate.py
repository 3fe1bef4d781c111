"""Measure predictions against annotations, compare two, or judge a submission.

    python -m launch.evaluate --predictions P.jsonl --annotations A.jsonl --dataset qvhighlights
    python -m launch.evaluate --predictions P.jsonl --annotations A.jsonl --versus Q.jsonl
    python -m launch.evaluate --task vcmr --predictions P.jsonl --annotations A.jsonl
    python -m launch.evaluate --check submission.zip --annotations val.jsonl test.jsonl

Exit status: 0, 1 if a checked submission has faults, 2 if an input cannot be used.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.errors import InputError
from data_pipeline.output import check_file, write_text
from data_pipeline.untrusted import read_json
from launch.evaluate_archive import measure_archive
from trainer import cli
from trainer.judging.submission import check
from trainer.metrics import DATASETS, Evaluation, evaluate, read_ground_truth, read_predictions
from trainer.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    Difference,
    Interval,
    differences,
    few_videos,
    intervals,
)
from trainer.tracking.run_files import told_apart
from trainer.tracking.tracking import flatten

FAULTS_FOUND = 1


@cli.command
def main(args: list[str] | None = None) -> int:
    """Read the command line and do the one thing it asks for."""
    parser = cli.make_parser((__doc__ or "").partition("\n")[0])
    parser.add_argument("--predictions", type=Path, help="JSONL file of predictions")
    parser.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        help="JSONL file with the ground truth; for --check one for each split, if at hand",
    )
    parser.add_argument(
        "--dataset",
        default="qvhighlights",
        choices=list(DATASETS),
        help="convention of the metrics",
    )
    parser.add_argument(
        "--task",
        default="moments",
        choices=["moments", "vcmr"],
        help="moments: windows of the sentence's own video; vcmr: answers of a whole archive, as "
        "launch.search --json writes them",
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--versus", type=Path, help="second file of predictions to compare with")
    parser.add_argument(
        "--official",
        action="store_true",
        help="give the number of QVHighlights' script also where it misleads",
    )
    parser.add_argument(
        "--threshold",
        type=float | None,
        help="score of the best window below which a query counts as not found, for annotations "
        "with empty relevant_windows; by default what the predictions say themselves (pred_found)",
    )
    parser.add_argument("--check", type=Path, help="judge a submission (.zip or .jsonl) instead")
    given = cli.parse(parser, args)
    files: list[Path] = given.annotations or []
    if given.check is not None:
        return _check(given.check, files, given.dataset)
    if given.predictions is None or len(files) != 1:
        raise InputError("give --predictions and one --annotations file, or --check a submission")
    if given.json is not None:
        check_file(given.json)
        if not given.json.parent.exists():
            raise InputError(f"{given.json}: cannot be written: make its folder first")
    if given.task == "vcmr":
        if given.versus is not None:
            raise InputError("--versus is for --task moments")
        measure_archive(given.predictions, files[0], given.json)
        return 0
    _measure(given.predictions, files[0], given)
    return 0


def _measure(path: Path, truth_path: Path, given: Any) -> None:
    annotations = read_ground_truth(truth_path, given.dataset)
    evaluation = _evaluated(path, annotations, given)
    spread = intervals(evaluation)
    other = gaps = None
    if given.versus is not None:
        other = _evaluated(given.versus, annotations, given)
        gaps = differences(evaluation, other)
    origin = _provenance(path)
    _print(evaluation, spread, other, gaps, (path, truth_path, given.versus), origin)
    if given.json is None:
        return
    record: dict[str, Any] = {
        **evaluation.official(),
        "convention": given.dataset,
        "official": given.official,
        "threshold": given.threshold,
        "predictions": _identity(path),
        "annotations": _identity(truth_path),
        "provenance": origin,
        "queries": len(evaluation.qids),
        "videos": len(set(evaluation.vids)),
        "metrics": evaluation.summary,
        "intervals": spread,
        "bootstrap": {"level": LEVEL, "resamples": RESAMPLES, "unit": "video"},
        "warnings": evaluation.warnings,
    }
    if other is not None and gaps is not None:
        record["versus"] = {
            "predictions": _identity(given.versus),
            "metrics": other.summary,
            "differences": {
                name: {"value": gap.value, "interval": gap.interval} for name, gap in gaps.items()
            },
        }
    write_text(given.json, json.dumps(record, indent=2, allow_nan=False) + "\n")


def _evaluated(path: Path, annotations: Sequence[Annotation], given: Any) -> Evaluation:
    rows = read_predictions(path, annotations)
    evaluation = evaluate(rows, annotations, given.dataset, given.official, given.threshold)
    for warning in evaluation.warnings:
        print(f"warning: {path}: {warning}", file=sys.stderr)
    return evaluation


def _identity(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _provenance(path: Path) -> Any:
    """What the run that wrote the predictions recorded beside them in metrics.json, if anything."""
    try:
        origin = read_json(path.parent / "metrics.json").get("provenance")
        return told_apart(origin) if isinstance(origin, dict) else origin
    except (InputError, AttributeError):
        return None  # predictions of another program, or copied away from their run


def _print(
    evaluation: Evaluation,
    spread: dict[str, Interval],
    other: Evaluation | None,
    gaps: dict[str, Difference] | None,
    paths: tuple[Path, Path, Path | None],
    origin: Any,
) -> None:
    predictions, truth, versus = paths
    table = Table(
        title=f"{predictions} on {truth}, by the convention of {evaluation.dataset}",
        caption=f"{len(evaluation.qids)} queries, {len(set(evaluation.vids))} videos; percent with "
        f"{LEVEL:.0%} bootstrap intervals over videos{_caveats(evaluation, other)}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("score", f"{LEVEL:.0%} interval"):
        table.add_column(heading, justify="right")
    if other is not None:
        for heading in (str(versus), "difference", f"{LEVEL:.0%} interval"):
            table.add_column(heading, justify="right")
    for name, figure in evaluation.summary.items():
        cells: list[str | Text] = [name, f"{figure:.2f}", _span(spread[name])]
        if other is not None and gaps is not None and name in gaps:
            gap = gaps[name]
            style = "bold" if gap.clear else "dim"
            spread_of_gap = _span(gap.interval, "+.2f")
            cells.append(f"{other.summary[name]:.2f}")
            cells += [Text(text, style=style) for text in (f"{gap.value:+.2f}", spread_of_gap)]
        table.add_row(*cells)
    console = cli.terminal()
    console.print(table)
    if not isinstance(origin, dict):
        console.print("no provenance beside the predictions")
        return
    for name, value in flatten(origin).items():
        console.print(f"{name}: {value}", soft_wrap=True)


def _caveats(evaluation: Evaluation, other: Evaluation | None) -> str:
    """What a reader must know of the intervals."""
    few = few_videos(evaluation)
    lines = [few] if few else []
    if other is not None:
        lines.append("bold: clear of zero, for these two files: other seeds are not in it")
    return "".join(f"\n{line}" for line in lines)


def _span(interval: Interval, form: str = ".2f") -> str:
    return f"{interval.low:{form}} … {interval.high:{form}}"


def _check(path: Path, files: Sequence[Path], dataset: str) -> int:
    annotations = [read_annotations(file) for file in files]
    found = check(path, annotations, highlights=dataset == "qvhighlights")
    for fault in found:
        print(fault)
    if not files:
        print("note: without --annotations, qids, durations and lengths were not judged")
    noun = "fault" if len(found) == 1 else "faults"
    print(f"{path}: {len(found)} {noun}" if found else f"{path}: no fault found")
    return FAULTS_FOUND if found else 0


if __name__ == "__main__":
    sys.exit(main())
