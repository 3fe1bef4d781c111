"""Files that an evaluation server takes: how they are written, and what is wrong with one."""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Annotation
from data_pipeline.errors import InputError
from data_pipeline.output import whole, write_bytes
from data_pipeline.packed import open_zip, read_member
from data_pipeline.untrusted import SHOWN, parse_json, read_bytes, shown
from trainer.metrics.figures import RATED_CLIP
from trainer.metrics.rows import SCORES, WINDOWS, Fault, Row, faults, row_fault

MEMBERS = {"val": "hl_val_submission.jsonl", "test": "hl_test_submission.jsonl"}
"""What QVHighlights' server expects in the zip, by split, without a folder around it."""


VIDEO = re.compile(r"[\w-]{11}_\d+\.\d_\d+\.\d")
"""How QVHighlights names a video: a YouTube id, and seconds of the part that it is."""


def are_qvhighlights(vids: Iterable[str]) -> bool:
    """Whether these videos are QVHighlights' own, and not others annotated in its manner."""
    return all(VIDEO.fullmatch(vid) for vid in vids)


MAX_FILE, MAX_ROWS, MAX_LINE = 64 << 20, 100_000, 1 << 20
"""Bytes and lines of a file that is judged, and bytes of a line: some fifty times what is usual."""


@dataclass(frozen=True)
class FileFault:
    """One thing wrong with a submission: in which file, on which line, what."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


def write_submission(
    folder: Path,
    splits: Mapping[str, tuple[Sequence[Row], Sequence[Annotation]]],
    judged: Callable[..., Iterator[Fault]] | None = None,
) -> Path:
    """Write `hl_<split>_submission.jsonl` of each split (rows, annotations) and `submission.zip`.

    Every row is judged first, by `submission_faults` or `judged`; files appear complete or not at
    all, and the same rows give the same bytes. Returns the path of the zip. Raises InputError
    naming the first fault.
    """
    texts = {}
    for split, (rows, annotations) in splits.items():
        if split not in MEMBERS:
            raise InputError(f"no submission has a split {split!r}; choose {' or '.join(MEMBERS)}")
        numbered = list(enumerate(rows, start=1))
        for fault in (judged or submission_faults)(numbered, annotations):
            raise InputError(str(FileFault(MEMBERS[split], fault.place, fault.message)))
        texts[MEMBERS[split]] = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    for name, text in texts.items():
        write_bytes(folder / name, text)
    path = folder / "submission.zip"
    with (
        whole(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, text in texts.items():
            # A fixed time stamp (zip's earliest), which is ZipInfo's default.
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return path


def submission_faults(
    rows: Sequence[tuple[int, Any]],
    annotations: Sequence[Annotation] | None,
    highlights: bool = True,
) -> Iterator[Fault]:
    """All faults of rows (line, row), those that measuring forgives included, by line.

    Every qid once, with its query and vid; at least one window, sorted by score, each within
    [0, duration]; with `highlights` exactly int(duration / 2) scores. Without annotations what
    needs them is not judged.
    """
    known = {annotation.qid: annotation for annotation in annotations or ()}
    found = list(faults(rows, annotations))
    for line, row in rows:
        if row_fault(row) is None:
            messages = _row_faults(row, known.get(row["qid"]), highlights)
            found.extend(Fault(line, message) for message in messages)
    yield from sorted(found, key=lambda fault: (fault.place is None, fault.place or 0))


def _row_faults(row: Row, annotation: Annotation | None, highlights: bool) -> Iterator[str]:
    for key in ("query", "vid"):
        if not isinstance(row.get(key), str):
            yield f"{key!r} is missing or not a string"
        elif annotation is not None and row[key] != getattr(annotation, key):
            yield f"{key!r} is {shown(row[key])}, the annotation has {getattr(annotation, key)!r}"
    windows = row.get(WINDOWS)
    if windows is None:
        yield f"{WINDOWS!r} is missing"
    elif not windows:
        yield f"{WINDOWS!r} is empty; predict at least one window"
    else:
        yield from _window_faults(windows, None if annotation is None else annotation.duration)
    if highlights:
        scores = row.get(SCORES)
        if scores is None:
            yield f"{SCORES!r} is missing"
        elif annotation is not None and len(scores) != (clips := _clips(annotation.duration)):
            yield (
                f"{SCORES!r} holds {len(scores)} scores, not {clips} "
                f"(one for each 2 s of {annotation.duration:g} s)"
            )


def _clips(duration: float) -> int:
    # A video shorter than one clip keeps one score: an empty list cannot be ranked.
    return max(1, int(duration / RATED_CLIP))


def _window_faults(windows: Sequence[Sequence[float]], duration: float | None) -> Iterator[str]:
    for window, following in pairwise(windows):
        if following[2] > window[2]:
            yield f"windows are not sorted by score: {following[2]} comes after {window[2]}"
            break
    for start, end, _ in windows:
        if start < 0 or (duration is not None and end > duration):
            limit = "the duration" if duration is None else f"{duration:g}"
            yield f"window [{start}, {end}] leaves the video, [0, {limit}] s"
            break
    for start, end, _ in windows:
        if end <= start:
            yield f"window [{start}, {end}] does not end after it starts"
            break


def check(
    path: Path, annotations: Sequence[Sequence[Annotation]], highlights: bool = True
) -> list[FileFault]:
    """Everything wrong with a submission: a zip as the server takes it, or one JSONL file.

    `annotations` are those of the splits, in any order; each file is judged by the one with which
    it shares most qids. With none given, only what needs none is judged.

    Raises InputError if the file cannot be read at all.
    """
    if path.suffix != ".zip":
        return list(_file_faults(path.name, read_bytes(path, MAX_FILE), annotations, highlights))
    try:
        with open_zip(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            # Of several of one name, which is a fault, the first is judged.
            judged = {Path(name).name: name for name in reversed(names)}
            texts = {
                judged[name]: read_member(archive, judged[name], MAX_FILE)
                for name in MEMBERS.values()
                if name in judged
            }
    except InputError as error:
        raise InputError(f"{error}; write the submission again") from error
    found = list(_member_faults(path.name, names))
    for name in sorted(texts, key=names.index):
        found.extend(
            _file_faults(f"{path.name}/{_told(name)}", texts[name], annotations, highlights)
        )
    return found


def _told(name: str) -> str:
    """A name in a zip, as it is where that is fit to be shown."""
    return name if name.isprintable() and len(name) <= SHOWN else shown(name)


def _member_faults(archive: str, names: Sequence[str]) -> Iterator[FileFault]:
    times = Counter(Path(name).name for name in names)
    for expected in MEMBERS.values():
        if expected not in names:
            inside = next((name for name in names if Path(name).name == expected), None)
            if inside is None:
                yield FileFault(archive, None, f"{expected} is missing")
            else:
                yield FileFault(
                    archive, None, f"{_told(inside)} must lie at the top, not in a folder"
                )
    for name in names:
        if Path(name).name not in MEMBERS.values():
            yield FileFault(archive, None, f"{_told(name)} does not belong here; remove it")
        elif times[Path(name).name] > 1:
            yield FileFault(archive, None, f"{_told(name)} is there more than once")


def _file_faults(
    label: str, text: bytes, annotations: Sequence[Sequence[Annotation]], highlights: bool
) -> Iterator[FileFault]:
    rows: list[tuple[int, Any]] = []
    lines = io.BytesIO(text)
    for line in count(1):
        if not (content := lines.readline(MAX_LINE)):
            break
        if line > MAX_ROWS or len(content) == MAX_LINE:
            most = f"{MAX_ROWS} lines" if line > MAX_ROWS else f"{MAX_LINE / 1e6:.0f} MB in a line"
            yield FileFault(label, line, f"more than {most}; no submission has that many")
            return
        try:
            if content.strip():
                rows.append((line, parse_json(content, "row")))
        except InputError as error:
            yield FileFault(label, line, str(error).removeprefix("row: "))
    truth = _counterpart(rows, annotations)
    for fault in submission_faults(rows, truth, highlights):
        yield FileFault(label, fault.place, fault.message)


def _counterpart(
    rows: Iterable[tuple[int, Any]], annotations: Sequence[Sequence[Annotation]]
) -> Sequence[Annotation] | None:
    qids = {str(row.get("qid")) for _, row in rows if isinstance(row, dict)}
    shared = [sum(str(a.qid) in qids for a in candidate) for candidate in annotations]
    return annotations[shared.index(max(shared))] if shared else None
