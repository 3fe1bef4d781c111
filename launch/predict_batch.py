"""Ground the same sentences in many videos: resumable, one file per video, faults counted."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from data_pipeline.errors import InputError, told
from data_pipeline.output import NotWritten, make_folder, write_text
from data_pipeline.untrusted import read_json, read_text
from data_pipeline.video.names import is_video
from trainer.cli import terminal
from trainer.metrics import ZERO_SHOT

if TYPE_CHECKING:
    from trainer.inference.grounding import Grounding
    from trainer.inference.predict import VideoGrounder

FAILED = 1  # exit status of a batch in which some video could not be used


def is_batch(path: Path) -> bool:
    """Whether `path` stands for several videos: a folder, or a .txt file that lists them."""
    return path.is_dir() or path.suffix == ".txt"


def find_videos(path: Path, recursive: bool = False) -> dict[str, Path]:
    """The videos that `path` stands for, by the names under which their results are kept.

    A name is that of the file, with the subfolders of `path` that it lies in. Paths in a list are
    relative to the list's folder. Raises InputError for a path that is not there or stands for no
    video.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        inside = sorted(path.rglob("*") if recursive else path.iterdir())
        found = [p for p in inside if is_video(p.name) and not p.is_dir()]
        videos = {str(p.relative_to(path)): p for p in found}
    elif is_batch(path):
        listed = [path.parent / line for line in _lines(path)]
        # A line that begins with # is a comment, unless a video is called so.
        found = [p for p in listed if not p.name.startswith("#") or p.exists()]
        for name, count in Counter(video.name for video in found).items():
            if count > 1:  # results are kept under the name
                raise InputError(f"{path}: names {count} videos {name!r}; give each its own name")
        videos = {p.name: p for p in found}
    else:
        return {path.name: path}
    if not videos:
        deeper = "" if recursive or not path.is_dir() else "; --recursive looks into subfolders"
        raise InputError(f"{path}: holds no videos{deeper}")
    return videos


def read_queries(path: Path) -> list[str]:
    """The sentences of a text file, one a line, whatever it begins with; empty lines are none."""
    queries = _lines(path)
    if not queries:
        raise InputError(f"{path}: holds no sentences; write one a line")
    return queries


def _lines(path: Path) -> list[str]:
    # (`splitlines` would also cut at U+2028.)
    lines = [line.strip() for line in read_text(path).split("\n")]
    return [line for line in lines if line]


def predict_batch(
    grounder: "VideoGrounder",
    model: Path,
    videos: Mapping[str, Path],
    sentences: list[str],
    output: Path,
) -> int:
    """Write `output/<name>.json` for each video; returns the exit status.

    A video whose file was made by the same model for the same sentences is not done again. One
    that cannot be used is recorded in `failures.jsonl`, and the rest goes on.
    """
    make_folder(output)
    weights = _identity(grounder, model)
    made = {"model": str(model), "weights_sha256": weights}
    todo = [name for name in videos if not _is_done(place(output, name), weights, sentences)]
    console = terminal(stderr=True)
    failures: list[dict[str, str]] = []
    cut: dict[str, str] = {}
    stopped: NotWritten | None = None
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("videos", total=len(videos), completed=len(videos) - len(todo))
        for name in todo:
            video = videos[name]
            try:
                found = grounder.predict(video, sentences)
                cut |= {each.query: each.warning for each in found if each.warning}
                write_text(
                    place(output, name),
                    json.dumps(made | to_json(video, found), ensure_ascii=False),
                )
            except Exception as error:  # one odd video does not cost the others
                if isinstance(error, NotWritten) and error.lasts:
                    stopped = error
                    break
                cause = told(error)
                failures.append({"video": str(video), "error": cause})
                line = cause if str(video) in cause else f"{video}: {cause}"
                progress.console.print(f"skipped: {line}", style="yellow", soft_wrap=True)
            progress.advance(task)
    try:
        write_text(
            output / "failures.jsonl", "".join(json.dumps(failure) + "\n" for failure in failures)
        )
    except NotWritten as error:
        stopped = stopped or error
    if stopped is not None:  # the disk: what is there is kept, and the same command goes on
        raise stopped
    for query, warning in cut.items():
        console.print(f"“{query}” is {warning}", style="yellow")
    console.print(
        f"{len(videos) - len(failures)} of {len(videos)} videos in {output}, "
        f"{len(videos) - len(todo)} of them from before; {len(failures)} skipped"
    )
    return FAILED if failures else 0


def is_zero_shot(model: Path) -> bool:
    """Whether no model is asked for: the encoders alone answer."""
    return str(model) == ZERO_SHOT


def _identity(grounder: "VideoGrounder", model: Path) -> str:
    """SHA-256 of what answers."""
    from trainer.inference.pretrained import WEIGHTS, find_model
    from trainer.inference.zero_shot import ZeroShotGrounder

    if isinstance(grounder, ZeroShotGrounder):
        return grounder.identity()
    return hashlib.sha256((find_model(model) / WEIGHTS).read_bytes()).hexdigest()


def to_json(video: Path, found: "Sequence[Grounding]") -> dict[str, Any]:
    """The results for one video as JSON values."""
    return {
        "video": str(video),
        "duration": round(found[0].duration, 3),
        "results": [grounding.to_row() for grounding in found],
    }


def place(output: Path, name: str) -> Path:
    """Where the results of the video of this name are kept."""
    return output / f"{name}.json"


def _is_done(path: Path, weights: str, sentences: list[str]) -> bool:
    try:
        found = read_json(path)
        asked = [result["query"] for result in found["results"]]
        return bool(found["weights_sha256"] == weights and asked == sentences)
    except (InputError, KeyError, TypeError):  # absent, or not a file of ours: do it
        return False
