"""What does a person see of what was found in many videos? A table, a page, a CSV file."""

import csv
import heapq
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipeline.errors import InputError
from data_pipeline.output import write_text
from data_pipeline.untrusted import iter_rows, read_json
from launch.answers.batch import FAILURES, place
from launch.answers.moments import add_moment, moments_table
from trainer.cli import terminal
from trainer.inference.grounding import LISTED
from trainer.pictures.examples import draw_timeline
from trainer.pictures.pages import write_page
from trainer.pictures.timeline import Timeline

COLUMNS = ("video", "query", "rank", "start", "end", "score")
ON_TERMINAL, ON_PAGE = 10, 100  # videos of a sentence, those with the best windows
PAGE = "found.html"


@dataclass
class Answers:
    """Where a sentence was found: of `videos` in all, those of the best scores, best first.

    Guesses are where it was not found, but would be first.
    """

    query: str
    videos: int = 0
    best: list[tuple[bool, float, str, Timeline]] = field(default_factory=list)

    def add(self, name: str, timeline: Timeline, guess: bool) -> None:
        """Take in a video; without a window it was not found there."""
        if timeline.windows:
            self.videos += not guess
            heapq.heappush(self.best, (not guess, timeline.windows[0][2], name, timeline))
            if len(self.best) > ON_PAGE:
                heapq.heappop(self.best)

    def ordered(self) -> list[tuple[str, Timeline, bool]]:
        """(name, timeline, whether it is a guess) of the best, best first, guesses last."""
        ranked = sorted(self.best, key=lambda each: (not each[0], -each[1], each[2]))
        return [(name, timeline, not found) for found, _, name, timeline in ranked]


def show_batch(options: Any, videos: Mapping[str, Path], sentences: Sequence[str]) -> None:
    """Print where each sentence was found, and write the page, and the CSV file if asked for."""
    answers = [Answers(sentence) for sentence in sentences]
    # Of a video that failed now, a file of an earlier batch may lie there still.
    failed = {row["video"] for _, row in iter_rows(options.output / FAILURES)}

    def rows() -> Iterator[dict[str, object]]:
        for name in videos:
            if str(videos[name]) in failed:
                continue
            for answer, (timeline, guess) in zip(
                answers, read_found(options, name, sentences), strict=False
            ):
                answer.add(name, timeline, guess)
                if guess:  # a row of a table does not say that it is one
                    continue
                for rank, (start, end, score) in enumerate(timeline.windows, start=1):
                    cells = (str(videos[name]), timeline.query, rank, start, end, score)
                    yield dict(zip(COLUMNS, cells, strict=True))

    if options.csv is not None:
        write_csv(options.csv, rows())
    else:
        for _ in rows():
            pass
    page = write_page(
        "found.html",
        options.output / PAGE,
        folder=str(options.video),
        model=str(options.model),
        count=len(videos),
        threshold=options.threshold,
        answers=[
            {
                "query": answer.query,
                "videos": answer.videos,
                "found": [
                    {"name": name, "guess": guess, **draw_timeline(timeline, options.top)}
                    for name, timeline, guess in answer.ordered()
                ],
            }
            for answer in answers
        ],
    )
    console = terminal()
    for answer in answers:
        console.print(_table(answer, len(videos)), "")
    console.print(f"page      {page}", soft_wrap=True)
    if options.csv is not None:
        console.print(f"table     {options.csv}", soft_wrap=True)


def read_found(options: Any, name: str, sentences: Sequence[str]) -> list[tuple[Timeline, bool]]:
    """What the file of a video holds: its shown windows for each sentence, and whether these are a
    guess, which there is where nothing is found and `options` ask for one."""
    try:
        found = read_json(place(options.output, name))
        if [row["query"] for row in found["results"]] != list(sentences):
            return []
        answers = []
        for row in found["results"]:
            listed = [w for w in row["windows"] if w[2] >= max(options.threshold, LISTED)]
            guess = options.guess and not listed
            shown = (row.get("guess") or row["windows"]) if guess else listed
            windows = tuple((float(start), float(end), float(score)) for start, end, score in shown)
            line = Timeline(row["query"], float(found["duration"]), windows[: options.top])
            answers.append((line, guess))
        return answers
    except (InputError, KeyError, TypeError, ValueError):  # absent, or not a file of ours
        return []


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]] | Iterator[dict[str, object]]
) -> None:
    """Write rows of `COLUMNS`, seconds and scores rounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        seconds = {key: f"{row[key]:.3f}" for key in ("start", "end")}
        writer.writerow({**row, **seconds, "score": f"{row['score']:.4f}"})
    # Excel takes a file for UTF-8 by the mark at its beginning.
    write_text(path, "\ufeff" + out.getvalue())


def _table(answer: Answers, videos: int) -> Table:
    caption = f"found in {answer.videos} of {videos} videos, best first"
    table = moments_table(answer.query, caption, of_videos=True)
    for name, timeline, guess in answer.ordered()[:ON_TERMINAL]:
        says = "not found; a guess" if guess else ""
        add_moment(table, *timeline.windows[0], name, guess=says)
    return table
