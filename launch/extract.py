"""Extract frozen features of videos and sentences into shards, on this machine or a Ray cluster."""

import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from data_pipeline.extraction import ExtractionConfig, Progress, Summary, extract
from trainer.cli import command, parse_config

EXIT_TOO_MANY_FAILURES = 1
PLAIN_INTERVAL = 15.0
"""Seconds between lines where there is no terminal to draw a bar on."""

CONSOLE = Console(soft_wrap=True, highlight=False)


@command
def main(args: Sequence[str] | None = None) -> int:
    """Make what is missing of a feature set; status 1 if more videos fail than allowed."""
    config = parse_config(ExtractionConfig, args, __doc__)
    signal.signal(signal.SIGTERM, _stop)
    summary = extract(config, _Display())
    tell(summary, config)
    return EXIT_TOO_MANY_FAILURES if summary.failed else 0


class _Display:
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

    def __call__(self, progress: Progress) -> None:
        finished = progress.done == progress.videos
        if CONSOLE.is_terminal:
            self._bar.start()
            self._bar.update(
                self._task, total=progress.videos, completed=progress.done, rates=rates(progress)
            )
            if finished:
                self._bar.stop()
        elif finished or time.monotonic() - self._printed > PLAIN_INTERVAL:
            self._printed = time.monotonic()
            CONSOLE.print(f"{progress.done}/{progress.videos} videos {rates(progress)}")


def rates(progress: Progress) -> str:
    """Speed, where the time goes, time left and failures, in one line."""
    if not progress.done:
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
        f"{progress.seconds_left:.0f} s left",
        f"{progress.failed} failed" if progress.failed else "",
    ]
    return ", ".join(part for part in parts if part)


def tell(summary: Summary, config: ExtractionConfig) -> None:
    """Print the summary; failures so that they cannot be missed."""
    CONSOLE.print(
        f"{config.output}: {summary.stored} of {summary.videos} videos, {summary.queries} queries, "
        f"{summary.clips} clips, {summary.bytes / 1e6:.1f} MB in {summary.shards} shards "
        f"({summary.shards_made} made now), {summary.seconds:.1f} s",
    )
    if summary.lengths_differ:
        CONSOLE.print(
            f"{summary.lengths_differ} videos are longer or shorter than their annotations say",
            style="yellow",
        )
    if summary.failures:
        causes = ", ".join(f"{count} {kind}" for kind, count in summary.failures.items())
        CONSOLE.print(
            f"{sum(summary.failures.values())} VIDEOS FAILED ({causes}); each with its cause in "
            f"{config.output / 'failures.jsonl'}",
            style="bold red",
        )


def _stop(_: int, __: FrameType | None) -> None:
    # Unwinding ends Ray and its processes, and removes what is half-written.
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
