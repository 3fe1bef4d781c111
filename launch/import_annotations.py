"""Make annotation rows of a data set's own file, or check rows that you wrote.

    python -m launch.import_annotations charades_sta_train.txt --format charades \
        --durations Charades_v1_train.csv --out train.jsonl
    python -m launch.import_annotations mine.jsonl --check

Exit status: 0, 1 if checked rows have faults, 2 if a file cannot be used.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.annotations import Annotation, write_annotations
from data_pipeline.checking import check_rows
from data_pipeline.errors import InputError
from data_pipeline.mending import EMPTY, PAST_END, REVERSED, TWICE, Taken
from data_pipeline.output import check_file
from data_pipeline.published import FORMATS, Options, take
from trainer.cli import command, make_parser, parse, terminal

EXIT_FAULTS = 1
CONSOLE = terminal(soft_wrap=True)

ALWAYS_TOLD = {
    "past the end": PAST_END,
    "reversed": REVERSED,
    "empty": EMPTY,
    "sentences twice": TWICE,
}


@command
def main(args: Sequence[str] | None = None) -> int:
    """Convert or check; status 1 if checked rows have faults."""
    parser = make_parser(__doc__)
    parser.add_argument("file", type=Path, help="the data set's file as published, or rows")
    parser.add_argument(
        "--format", type=str, default="qvhighlights", choices=list(FORMATS), help="whose format"
    )
    parser.add_argument("--durations", type=Path | None, help="Charades_v1_*.csv, for charades")
    parser.add_argument("--split", type=str | None, help="for snag: which of the file's splits")
    parser.add_argument(
        "--first_qid",
        type=int,
        default=0,
        help="for charades: qid of the first sentence; 12404 for the test split's features",
    )
    parser.add_argument("--out", type=Path | None, help="write the rows to this file (JSONL)")
    parser.add_argument("--check", action="store_true", help="name every fault of rows instead")
    parser.add_argument(
        "--tokens", type=int, default=77, help="for --check: what the text encoder reads; CLIP's 77"
    )
    given = parse(parser, args)
    if given.check:
        return check(given.file, given.tokens)
    if given.out is None:
        raise InputError("--out is missing: name the file of the rows, or --check them")
    check_file(given.out)
    taken = take(given.file, given.format, Options(given.durations, given.split, given.first_qid))
    write_annotations(given.out, taken.rows)
    tell(given.out, taken)
    return 0


def check(path: Path, tokens: int) -> int:
    """Print every fault with its line."""
    count = 0
    for number, fault in check_rows(path, tokens):
        CONSOLE.print(f"{path}:{number}: {fault}" if number else f"{path}: {fault}")
        count += 1
    CONSOLE.print(f"{path}: {count or 'no'} fault{'' if count == 1 else 's'}")
    return EXIT_FAULTS if count else 0


def tell(path: Path, taken: Taken) -> None:
    """Print what the rows are and all that was done to them."""
    rows = taken.rows
    windows = [len(row.windows or ()) for row in rows]
    words = [len(row.query.split()) for row in rows]
    CONSOLE.print(
        f"{path}: {len(rows)} rows of {len({row.vid for row in rows})} videos; windows a query "
        f"{_spread(windows)}, words {_spread(words)}; {_with_truth(rows)}"
    )
    told = ", ".join(f"{name} {taken.counted[what]}" for name, what in ALWAYS_TOLD.items())
    CONSOLE.print(f"windows {told}")
    for what, times in taken.counted.items():
        CONSOLE.print(f"{times} {what} (first: {taken.first[what]})", style="yellow")


def _spread(numbers: Sequence[int]) -> str:
    return f"{sum(numbers) / len(numbers):.2f} (at most {max(numbers)})"


def _with_truth(rows: Sequence[Annotation]) -> str:
    rated = sum(row.saliency is not None for row in rows)
    withheld = sum(row.windows is None and row.saliency is None for row in rows)
    return f"{rated} with rated clips, {withheld} without truth"


if __name__ == "__main__":
    sys.exit(main())
