"""Ground the same sentences in many videos: resumable, one file per video, faults counted."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from data_pipeline.errors import InputError, told
from data_pipeline.output import LONGEST, NotWritten, make_folder, sweep, write_text
from data_pipeline.untrusted import read_json, read_text, readable, reading, shown
from data_pipeline.video.names import is_video
from trainer.cli import terminal
from trainer.metrics import ZERO_SHOT

if TYPE_CHECKING:
    from trainer.inference.grounding import Grounding
    from trainer.inference.predict import VideoGrounder

FAILURES = "failures.jsonl"
FAILED = 1  # exit status of a batch in which some video could not be used


def is_batch(path: Path) -> bool:
    """Whether `path` stands for several videos: a folder, or a .txt file that lists them."""
    return path.is_dir() or path.suffix == ".txt"


def find_videos(path: Path, recursive: bool = False) -> dict[str, Path]:
    """The videos that `path` stands for, by the names under which their results are kept.

    A name is the path from the folder, or from that of the list, which paths in a list are relative
    to; of a video that lies elsewhere it is the whole path, so that no two share a name. Raises
    InputError for a path that is not there or stands for no video.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        inside = sorted(path.rglob("*") if recursive else path.iterdir())
        found = [p for p in inside if is_video(p.name) and not p.is_dir()]
        videos = {str(p.relative_to(path)): p for p in found}
    elif is_batch(path):
        lines = _lines(path)
        if odd := next((line for line in lines if "\0" in line), None):
            raise InputError(f"{path}: {shown(odd)} holds a zero byte; give a video a line")
        # A line that begins with # is a comment, unless a video is called so.
        listed = [path.parent / line for line in lines]
        found = [p for p in listed if not p.name.startswith("#") or p.exists()]
        videos = {_name(path.parent, p): p for p in found}
    else:
        return {path.name: path}
    if not videos:
        deeper = "" if recursive or not path.is_dir() else "; --recursive looks into subfolders"
        raise InputError(f"{path}: holds no videos{deeper}")
    return videos


def _name(root: Path, video: Path) -> str:
    root, path = Path(os.path.abspath(root)), Path(os.path.abspath(video))
    return str(path.relative_to(root if path.is_relative_to(root) else path.anchor))


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

    A video is not done again whose file was made by the same model for the same sentences, when it
    had the size and the time of change that it has. One that cannot be used is recorded in
    `FAILURES`, and the rest goes on.
    """
    make_folder(output)
    for folder in {place(output, name).parent for name in videos}:
        sweep(folder)
    made = {"model": str(model), **_identity(grounder, model)}
    before = {name: _result(place(output, name)) for name in videos}
    todo = [name for name in videos if not _is_of(before[name], videos[name], made, sentences)]
    console = terminal(stderr=True)
    failures: list[dict[str, str]] = []
    cut: dict[str, str] = {}
    doubtful = 0
    stopped: NotWritten | None = None
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("videos", total=len(videos), completed=len(videos) - len(todo))
        for name in todo:
            video = videos[name]
            try:
                version = _version(video)  # before it is read: what changes meanwhile is done again
                found = grounder.predict(video, sentences)
                for line in found.warnings:
                    progress.console.print(f"warning: {line}", style="yellow", soft_wrap=True)
                doubtful += bool(found.warnings)
                cut |= {each.query: each.warning for each in found if each.warning}
                result = made | {"source": version} | to_json(video, found, found.warnings, True)
                text = json.dumps(result, ensure_ascii=False, allow_nan=False)
                write_text(place(output, name), text)
                other = before[name].get("video", str(video))
                if os.path.abspath(str(other)) != os.path.abspath(video):
                    note = f"{place(output, name)}: was of {shown(other)}, is of {video} now"
                    progress.console.print(note, style="yellow", soft_wrap=True)
            except Exception as error:  # one odd video does not cost the others
                if isinstance(error, NotWritten) and error.lasts:
                    stopped = error
                    break
                cause = told(error)
                failures.append({"video": readable(str(video)), "error": cause})
                name = readable(str(video))
                line = cause if name in cause else f"{name}: {cause}"
                progress.console.print(f"skipped: {line}", style="yellow", soft_wrap=True)
            progress.advance(task)
    try:
        write_text(output / FAILURES, "".join(json.dumps(failure) + "\n" for failure in failures))
    except NotWritten as error:
        stopped = stopped or error
    if stopped is not None:  # the disk: what is there is kept, and the same command goes on
        raise stopped
    for query, warning in cut.items():
        console.print(f"“{query}” is {warning}", style="yellow")
    console.print(
        f"{len(videos) - len(failures)} of {len(videos)} videos in {output}, "
        f"{len(videos) - len(todo)} of them from before; {len(failures)} skipped"
        f"{f', {doubtful} with warnings' if doubtful else ''}"
    )
    return FAILED if failures else 0


def is_zero_shot(model: Path) -> bool:
    """Whether no model is asked for: the encoders alone answer."""
    return str(model) == ZERO_SHOT


def _identity(grounder: "VideoGrounder", model: Path) -> dict[str, str]:
    """Hashes of what answers: of the weights, and of the configuration beside them."""
    from trainer.inference.pretrained import CONFIG, WEIGHTS, find_model
    from trainer.inference.zero_shot import ZeroShotGrounder
    from trainer.training.checkpoints import file_hash

    if isinstance(grounder, ZeroShotGrounder):
        return {"weights_sha256": grounder.identity()}
    folder = find_model(model)
    return {
        "weights_sha256": file_hash(folder / WEIGHTS),
        "config_sha256": file_hash(folder / CONFIG),
    }


def to_json(
    video: Path,
    found: "Sequence[Grounding]",
    warnings: Sequence[str] = (),
    guess: bool = False,
) -> dict[str, Any]:
    """The results for one video as JSON values; with a `guess` where something is not found."""
    return {
        "video": str(video),
        **({"warnings": list(warnings)} if warnings else {}),
        "duration": round(found[0].duration, 3),
        "results": [grounding.to_row(guess) for grounding in found],
    }


def place(output: Path, name: str) -> Path:
    """Where the results of the video of this name are kept; too long a name is cut."""
    path = output / f"{name}.json"
    if len(os.fsencode(path.name)) > LONGEST:
        begin = os.fsencode(path.name)[: LONGEST - 32].decode(errors="ignore")
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        path = path.with_name(f"{begin}.{digest[:16]}.json")
    return path


def _version(video: Path) -> dict[str, int]:
    """By what a video of the same name is told to be another one; InputError if there is none."""
    with reading(video):
        status = video.stat()
    return {"bytes": status.st_size, "changed_ns": status.st_mtime_ns}


def _result(path: Path) -> dict[str, Any]:
    """What an earlier batch left there; empty if that is nothing of ours."""
    try:
        found = read_json(path)
    except InputError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_of(found: dict[str, Any], video: Path, made: dict[str, str], sentences: list[str]) -> bool:
    """Whether a result is what would be made now."""
    try:
        asked = [result["query"] for result in found["results"]]
        same = all(found[key] == value for key, value in made.items() if key != "model")
        return bool(same and asked == sentences and found["source"] == _version(video))
    except (InputError, KeyError, TypeError):
        return False
