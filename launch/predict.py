"""Find in a video what sentences describe.

    python -m launch.predict holiday.mp4 "a dog jumps into the water" "people wave"
    python -m launch.predict holiday.mp4 "people wave" --plot wave.png --clips cut/
    python -m launch.predict videos/ --queries queries.txt --output found/
    python -m launch.predict features/val --model models/qd_detr --output found/
    python -m launch.predict holiday.mp4 "people wave" --model zero-shot \\
        --encoder configs/extract/clip_b32.yaml

The first form prints a table for each sentence. A folder of videos, or a .txt file that lists one
video a line, runs as a batch: in --output one JSON file per video, under its path from there, and
found.html, where each sentence was found; the same command goes on where an earlier one stopped.
A folder of features answers the sentences that it holds, without encoders: predictions.jsonl.
"""

import json
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.errors import InputError
from data_pipeline.output import check_file, check_folder, make_folder, write_text
from data_pipeline.video.video import VideoFile
from launch.answers.batch import (
    find_videos,
    is_batch,
    is_zero_shot,
    predict_batch,
    read_queries,
    to_json,
)
from launch.answers.found import show_batch, write_csv
from launch.answers.moments import add_moment, cut_out, moments_table
from launch.answers.stored import is_feature_set, predict_features
from trainer.cli import command, make_parser, parse, terminal
from trainer.inference.grounding import Groundings
from trainer.pictures.png import draw_timelines
from trainer.pictures.thumbnails import film_strip
from trainer.pictures.timeline import clock

if TYPE_CHECKING:
    from trainer.inference.grounding import Grounding
    from trainer.inference.predict import VideoGrounder

LEVELS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 60
LONGEST_STEM = 230  # bytes of a video's name that its clips are called by


@command
def main(args: list[str] | None = None) -> int:
    """Read the command line, then ground in one video or in many."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "video", type=Path, help="video file, folder of videos, or .txt list of videos"
    )
    parser.add_argument("sentence", nargs="*", type=str, help="what to look for")
    parser.add_argument("--queries", type=Path | None, help="file with one sentence a line")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/quickstart"),
        help="folder of a run or of its model; zero-shot: none, the encoders alone answer",
    )
    add_encoder(parser)
    parser.add_argument(
        "--device", type=str | None, help="PyTorch device; a GPU where there is one"
    )
    parser.add_argument(
        "--top", type=int, default=5, help="windows shown, tabulated and cut per sentence and video"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        help="leave out windows of a lower score; a sentence without any is not found. "
        "The files of a batch hold all",
    )
    parser.add_argument(
        "--guess",
        action="store_true",
        help="of a sentence that is not found, show and write the best windows as a guess",
    )
    parser.add_argument(
        "--csv", type=Path | None, help="write a table: video, query, rank, start, end, score"
    )
    parser.add_argument(
        "--json", type=Path | None, help="write the results here; - for the terminal"
    )
    parser.add_argument("--plot", type=Path | None, help="write a timeline picture (PNG)")
    parser.add_argument("--clips", type=Path | None, help="folder for the best windows, cut out")
    parser.add_argument("--output", type=Path | None, help="folder for the results of a batch")
    parser.add_argument(
        "--recursive", action="store_true", help="take videos in subfolders of the folder too"
    )
    options = parse(parser, args)
    sentences = [*options.sentence, *(read_queries(options.queries) if options.queries else [])]
    if options.top < 1:
        raise InputError("--top must be at least 1")
    if is_feature_set(options.video):
        return predict_features(options, sentences)
    if not sentences:
        raise InputError("nothing to look for; add a sentence in quotes, or --queries FILE")
    if options.recursive and not options.video.is_dir():
        raise InputError(f"{options.video}: --recursive is for a folder of videos")
    check_encoder(options)
    # Whatever can be refused is refused before a model is loaded.
    videos = find_videos(options.video, options.recursive)
    if not is_batch(options.video):
        if options.output is not None:
            raise InputError(
                "--output is for several videos; use --json, --plot or --clips for one"
            )
        check_outputs(options)
        predict_one(load(options), options.video, sentences, options)
        return 0
    if options.output is None:
        raise InputError(f"{options.video}: for several videos name a folder with --output")
    if options.json or options.plot or options.clips:
        raise InputError("--json, --plot and --clips are for a single video; leave them out")
    check_folder(options.output)
    if options.csv is not None:
        check_file(options.csv)
    grounder = load(options)
    status = predict_batch(grounder, options.model, videos, sentences, options.output)
    show_batch(options, videos, sentences)
    return status


def add_encoder(parser: Any) -> None:
    """Add the flag that says which encoders answer without a model."""
    parser.add_argument(
        "--encoder",
        type=Path | None,
        help="with --model zero-shot: YAML file whose section 'encoder' describes CLIP-like "
        "encoders, as those of launch.extract do",
    )


def check_encoder(options: Any) -> None:
    """Raise InputError unless --encoder is there where it is needed, and only there."""
    if is_zero_shot(options.model) and options.encoder is None:
        raise InputError(
            "--model zero-shot needs encoders that answer by themselves; name them with "
            "--encoder configs/extract/clip_b32.yaml"
        )
    if options.encoder is not None and not is_zero_shot(options.model):
        raise InputError("--encoder is for --model zero-shot: a model names its own encoders")


def check_outputs(options: Any) -> None:
    """Raise InputError where a result could not be written."""
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise InputError(f"--plot {options.plot}: pictures are written as PNG; name a .png file")
    for path in (options.json, options.plot, options.csv):
        if path is not None and str(path) != "-":
            check_file(path)
    if options.clips is not None:
        check_folder(options.clips)


def load(options: Any) -> "VideoGrounder":
    """What answers; a package that its encoders lack is told as one line with the way to it."""
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(spare_threads())
    from trainer.inference.predict import Grounder
    from trainer.inference.zero_shot import ZeroShotGrounder

    try:
        if is_zero_shot(options.model):
            return ZeroShotGrounder.from_encoder(options.encoder, options.device)
        return Grounder.from_pretrained(options.model, options.device)
    except ImportError as error:
        raise InputError(str(error)) from error


def spare_threads() -> int:
    """Processors that nobody else is using, at least one.

    Threads beside another program's wait for each other most of the time: a query took twenty
    times as long.
    """
    return max(1, len(os.sched_getaffinity(0)) - round(os.getloadavg()[0]))


def predict_one(grounder: "VideoGrounder", video: Path, sentences: list[str], options: Any) -> None:
    """Ground in one video and show the results in every form that `options` ask for."""
    quiet = options.json is not None and str(options.json) == "-"
    console = terminal(stderr=quiet)
    with console.status(Text(f"looking through {video.name}")):
        answer = grounder.predict(video, sentences)
        found = [replace(each, threshold=options.threshold) for each in answer]
    for line in answer.warnings:
        console.print(Text(f"warning   {line}", style="yellow"), soft_wrap=True)
    for grounding in found:
        console.print(_table(grounding, options.top, options.guess), "")
        if grounding.warning:
            console.print(Text(f"this sentence is {grounding.warning}", style="yellow"))
    if options.json is not None:
        results = to_json(video, found, answer.warnings, options.guess)
        text = json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False)
        if quiet:
            print(text)
        else:
            write_text(options.json, text + "\n")
            console.print(f"results   {options.json}", soft_wrap=True)
    if options.csv is not None:
        shown = [each.best(options.top) for each in found]
        write_csv(options.csv, Groundings(shown, str(video)).rows())
        console.print(f"table     {options.csv}", soft_wrap=True)
    if options.plot is not None:
        strip = []
        try:
            strip = film_strip(video, found[0].duration, count=8, height=160)
        except InputError as error:  # what was found is drawn all the same
            console.print(f"no strip  {error}", style="yellow", soft_wrap=True)
        draw_timelines(options.plot, [each.timeline() for each in found], strip, shown=options.top)
        console.print(f"picture   {options.plot}", soft_wrap=True)
    if options.clips is not None:
        _cut_out(video, found, options.clips, options.top, console)


def _cut_out(
    video: Path, found: "list[Grounding]", folder: Path, top: int, console: Console
) -> None:
    """Write the best windows as `<video>-<sentence>-<rank>.mp4`; one that fails is told."""
    make_folder(folder)
    stem = os.fsencode(video.stem)
    name = video.stem if len(stem) <= LONGEST_STEM else stem[:LONGEST_STEM].decode(errors="ignore")
    source = cache(lambda: VideoFile(video, damage="bear"))  # its frames are listed once
    for number, grounding in enumerate(found, start=1):
        for rank, (start, end, _) in enumerate(grounding.listed[:top], start=1):
            cut_out(folder / f"{name}-{number}-{rank}.mp4", source, start, end, console)


def _table(grounding: "Grounding", top: int, guess: bool) -> Table:
    caption = f"saliency {spark_line(grounding)} {clock(grounding.duration)}"
    table = moments_table(grounding.query, caption)
    for window in grounding.listed[:top]:
        add_moment(table, *window)
    if not grounding.listed:
        table.add_row("", "", "", grounding.not_found)
    for window in grounding.guess[: top if guess else 0]:
        add_moment(table, *window, guess="a guess")
    return table


def spark_line(grounding: "Grounding") -> str:
    """Saliency over time in block characters, at most `SPARK_WIDTH` of them."""
    scores = grounding.saliency
    width = min(SPARK_WIDTH, len(scores))
    parts = [
        scores[i * len(scores) // width : (i + 1) * len(scores) // width] for i in range(width)
    ]
    peaks = [float(part.max()) for part in parts]
    low, reach = min(peaks), (max(peaks) - min(peaks)) or 1.0
    return "".join(LEVELS[round((len(LEVELS) - 1) * (peak - low) / reach)] for peak in peaks)


if __name__ == "__main__":
    sys.exit(main())
