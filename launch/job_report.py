"""How does a person follow a job that makes shards, and see at its end what failed?"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Literal

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from data_pipeline.annotations import doubts, misnamed_windows, read_annotations
from data_pipeline.config import JobConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.ray_cluster import ClusterLostError
from data_pipeline.features.verify import read_failures
from data_pipeline.storage import Location
from trainer.cli import terminal
from trainer.config import TrackingConfig
from trainer.tracking.prometheus import ExtractionMetrics, offered
from trainer.tracking.tensorboard import check_installed
from trainer.tracking.tracking import Tracker

if TYPE_CHECKING:
    from data_pipeline.extraction.job import Progress, Summary

EXIT_TOO_MANY_FAILURES = 1
EXIT_CLUSTER_LOST = 1
"""Not that of bad input: a second try may well succeed."""

PLAIN_INTERVAL = 15.0
"""Seconds between lines where there is no terminal to draw a bar on."""

CAUSES_SHOWN = 5

CONSOLE = terminal(soft_wrap=True)

Report = Callable[["Progress"], None]


def run_job(
    config: JobConfig, work: "Callable[[Report], Summary]", tracking: TrackingConfig | None
) -> int:
    """Do `work`, showing its progress and its end.

    Status 1 if too many videos failed, or if the Ray cluster was lost on the way.
    """
    signal.signal(signal.SIGTERM, _stop)
    if config.annotations is not None:
        odd = doubts(read_annotations(config.annotations)) + misnamed_windows(config.annotations)
        for line in odd:
            CONSOLE.print(f"warning: {line}", style="yellow")
    display = Display()
    from data_pipeline.extraction.job import Progress

    try:
        with _record(config, tracking) as record:

            def report(progress: Progress) -> None:
                display(progress)
                record(progress)

            summary = work(report)
    except ClusterLostError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CLUSTER_LOST
    tell(summary, config)
    return EXIT_TOO_MANY_FAILURES if summary.failed else 0


class Display:
    """A bar with rates on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("Features"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}"),
            console=CONSOLE,
        )
        self._task = self._bar.add_task("Features", total=None, rates="")
        self._printed = time.monotonic()

    def __call__(self, progress: "Progress") -> None:
        total = None if progress.open_ended else progress.videos
        finished = progress.done == total
        if CONSOLE.is_terminal:
            self._bar.start()
            self._bar.update(
                self._task, total=total, completed=progress.done, rates=rates(progress)
            )
            if finished:
                self._bar.stop()
        elif finished or time.monotonic() - self._printed > PLAIN_INTERVAL:
            self._printed = time.monotonic()
            CONSOLE.print(f"{progress.done}/{total or '?'} videos {rates(progress)}")


def rates(progress: "Progress") -> str:
    """Speed, where the time goes, time left and failures, in one line."""
    if not progress.done:
        if progress.sentences_done:
            return f"{progress.sentences_done} of {progress.sentences} shared sentences encoded"
        return "workers are starting"
    busy = progress.busy
    total = max(1e-9, busy.decode + busy.encode + busy.write)
    seconds = max(1e-9, progress.seconds)
    parts = [
        f"{progress.done / seconds:.1f} videos/s",
        f"{progress.clips / seconds:.0f} clips/s",
        f"decode {busy.decode / total:.0%} encode {busy.encode / total:.0%} "
        f"write {busy.write / total:.0%}",
        f"encoders busy {progress.utilisation:.0%}",
        "" if progress.open_ended else f"{progress.seconds_left:.0f} s left",
        f"{progress.failed} failed" if progress.failed else "",
    ]
    return ", ".join(part for part in parts if part)


def tell(summary: "Summary", config: JobConfig) -> None:
    """Print the summary; failures so that they cannot be missed."""
    CONSOLE.print(
        f"{config.output}: {summary.stored} of {summary.videos} videos, {summary.queries} queries, "
        f"{summary.clips} clips, {summary.bytes / 1e6:.1f} MB in {summary.shards} shards "
        f"({summary.shards_made} made now), {summary.seconds:.1f} s",
    )
    for what, times in summary.counted.items():
        CONSOLE.print(f"{what}: {times}", style="yellow")
    for line in summary.warnings:
        CONSOLE.print(f"warning: {line}", style="yellow")
    if summary.warned > len(summary.warnings):
        CONSOLE.print(
            f"{summary.warned} videos are stored with a warning; "
            f"{Location(config.output) / 'warnings.jsonl'} has all",
            style="yellow",
        )
    if summary.lengths_differ:
        count, named = summary.lengths_differ, ", ".join(summary.lengths_named)
        are = "video is" if count == 1 else "videos are"
        CONSOLE.print(
            f"{count} {are} longer or shorter than the annotations say: {named}"
            + (f"; {Location(config.output) / 'lengths.jsonl'} has all" if "…" in named else ""),
            style="yellow",
        )
    for what, names in summary.noted.items():
        more = f" … and {len(names) - CAUSES_SHOWN} more" if len(names) > CAUSES_SHOWN else ""
        line = f"{len(names)} {what}: {', '.join(names[:CAUSES_SHOWN])}{more}"
        CONSOLE.print(line, style="yellow")
    if summary.sentences_cut:
        CONSOLE.print(
            f"{summary.sentences_cut} of {summary.queries} sentences are longer than the encoder "
            f"reads: their ends make no difference; {Location(config.output) / 'unread.jsonl'} "
            "names them",
            style="yellow",
        )
    if summary.left_out:
        first = next(row["cause"] for row in read_failures(config.output) if "qid" in row)
        CONSOLE.print(
            f"{summary.left_out} of {summary.left_out + summary.queries} queries of stored videos "
            f"have no features that can be used, and are left out; the first: {first}; "
            f"{Location(config.output) / 'failures.jsonl'} has all",
            style="yellow",
        )
    failed = sum(summary.failures.values())
    if not failed:
        return
    causes = ", ".join(f"{count} {kind}" for kind, count in summary.failures.items())
    rows = [row["cause"] for row in read_failures(config.output) if "qid" not in row]
    lines = [f"{failed} of {summary.videos} VIDEOS FAILED: {causes}", *rows[:CAUSES_SHOWN]]
    if failed > CAUSES_SHOWN:
        lines.append(f"… and {failed - CAUSES_SHOWN} more")
    lines.append(
        f"Each with its cause: {Location(config.output) / 'failures.jsonl'}; after mending them, "
        "run the same command with --retry-failed true"
    )
    if summary.failed:
        lines.append(f"More than {config.threshold:.0%}: the job counts as failed (status 1)")
    style = "bold red" if summary.failed else "red"
    CONSOLE.rule(style=style)
    for line in lines:
        CONSOLE.print(line, style=style)
    CONSOLE.rule(style=style)


def silent(_: "Progress") -> None:
    """Tell nobody."""


@contextmanager
def _record(config: JobConfig, tracking: TrackingConfig | None) -> Iterator[Report]:
    """Keeps the progress in metrics.jsonl and MLflow and shows it, where that is asked for.

    In a bucket there is no metrics.jsonl to deliver from: such a job can only be watched.
    """
    if tracking is None:
        yield silent
        return
    folder = Location(config.output)
    if folder.local is None and (tracking.mlflow or tracking.tensorboard):
        raise InputError(
            "tracking: records need an output folder on a disk; with one in a bucket set "
            "tracking.mlflow and tracking.tensorboard to false, and watch it by tracking.prometheus"
        )
    if tracking.tensorboard:
        check_installed()
    name = config.split or folder.name
    with ExitStack() as stack:
        show: Report = silent
        if tracking.prometheus:
            metrics = ExtractionMetrics(name)
            port = stack.enter_context(offered(metrics.registry, tracking.prometheus))
            CONSOLE.print(f"numbers for Prometheus at port {port}", highlight=False)
            show = metrics.show
        if folder.local is None:
            yield show
            return
        folder.mkdir()
        with _tracked(
            Tracker(folder.local, tracking, f"features {name}", asdict(config), {})
        ) as log:

            def report(progress: "Progress") -> None:
                show(progress)
                log(progress)

            yield report


@contextmanager
def _tracked(tracker: Tracker) -> Iterator[Report]:
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        yield lambda progress: tracker.log("features", progress.done, 0.0, **numbers(progress))
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def numbers(progress: "Progress") -> dict[str, float]:
    """What is recorded of a moment of the job."""
    seconds = max(1e-9, progress.seconds)
    return {
        "videos": progress.done,
        "failed": progress.failed,
        "videos_per_second": progress.done / seconds,
        "clips_per_second": progress.clips / seconds,
        "decode_seconds": progress.busy.decode,
        "encode_seconds": progress.busy.encode,
        "write_seconds": progress.busy.write,
        "encoder_utilisation": progress.utilisation,
    }


def _stop(_: int, __: FrameType | None) -> None:
    # Unwinding ends Ray and its processes, and removes what is half-written.
    raise SystemExit(128 + signal.SIGTERM)
