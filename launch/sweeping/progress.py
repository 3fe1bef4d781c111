"""How far is each trial of a sweep? By the records that it writes; as bars, or as lines."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from trainer.tracking.run_files import parse_record

TAIL = 1 << 16  # bytes of a metrics.jsonl in which the newest records lie
LINES_EVERY = 15.0  # seconds between two lines of a trial where there is no terminal


class SweepProgress:
    """Shows trials, which are runs in `folder` of so many `epochs` each, while they are trained."""

    def __init__(self, console: Console, folder: Path, epochs: dict[str, int]) -> None:
        self._console, self._folder, self._epochs = console, folder, epochs
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> "SweepProgress":
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def look(self, names: Iterable[str]) -> None:
        """Show how far trials are that have begun."""
        for name in names:
            path = self._folder / name / "metrics.jsonl"
            newest = newest_records(path)
            if not newest:
                continue
            epoch = max(record["epoch"] for record in newest.values())
            told = _told(epoch, self._epochs[name], newest)
            if self._console.is_terminal:
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=self._epochs[name], told="")
                self._bars.update(self._tasks[name], completed=epoch, told=told)
                continue
            since, before = self._printed.setdefault(name, (0.0, ""))
            if told != before and time.monotonic() - since >= LINES_EVERY:
                self._printed[name] = time.monotonic(), told
                self._console.print(f"{name}: {told}", soft_wrap=True)

    def end(self, name: str, how: str) -> None:
        """A trial has ended."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        self._console.print(f"{how}: {name}", soft_wrap=True)


def newest_records(path: Path) -> dict[str, dict[str, Any]]:
    """The newest record of each kind among the last of a metrics.jsonl; none where there is no file
    yet."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read(TAIL).split(b"\n")
    except OSError:
        return {}
    records = (record for line in lines if (record := parse_record(line)) is not None)
    return {record["kind"]: record for record in records if "epoch" in record}


def _told(epoch: float, epochs: int, newest: dict[str, dict[str, Any]]) -> str:
    told = f"epoch {epoch:.1f} of {epochs}"
    if "loss" in newest.get("train", {}):
        told += f", loss {newest['train']['loss']:.2f}"
    scores = {key: value for key, value in newest.get("eval", {}).items() if key in SCORES}
    return told + "".join(f", {name} {value:.1f}" for name, value in scores.items())


SCORES = ("mAP", "R1@0.5")
"""Of the selection split, that are shown beside a trial."""
