"""What is wrong with annotation rows that a person wrote? Every fault, with its line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.annotations import Known, names_of_windows, parse_row
from data_pipeline.errors import InputError
from data_pipeline.rows import row_faults
from data_pipeline.untrusted import iter_lines, parse_json, plain_name, reading, shown

SPECIAL = 2
"""Tokens that encoders put before and behind a sentence."""

PIECES = re.compile(r"\w+|[^\w\s]")


def check_rows(path: Path, tokens: int) -> Iterator[tuple[int | None, str]]:
    """(line, fault) of everything that is wrong with a file of rows; line None for the whole file.

    Beyond what readers refuse, windows that are reversed, empty or reach past the video, and
    sentences of more than `tokens` tokens: each word and mark is at least one.
    """
    known, rows = Known(), 0
    for number, line in iter_lines(path):
        rows += 1
        try:
            row = parse_json(line, path)
        except InputError as error:
            yield number, str(error).removeprefix(f"{path}: ")
            continue
        faults: list[str] = []
        try:
            with reading(path):
                faults = list(row_faults(row))
                yield from ((number, fault) for fault in faults)
                if faults:
                    continue
                annotation = parse_row(row)
                plain_name(annotation.vid, "'vid'", path, folders=True)
                faults = [*known.faults(annotation, number), *_doubtful(row, tokens)]
        except InputError as error:
            faults = [str(error).removeprefix(f"{path}: ")]
        yield from ((number, fault) for fault in faults)
    if not rows:
        yield None, "holds no annotation rows"


def _doubtful(row: dict[str, Any], tokens: int) -> Iterator[str]:
    """What readers take, and whoever wrote the row hardly meant."""
    for name in names_of_windows(row):
        yield f"{shown(name)} looks like windows, and 'relevant_windows' is what is read"
    for start, end in row.get("relevant_windows") or ():
        if end < start:
            yield f"window [{start}, {end}] ends before it begins"
        elif end == start:
            yield f"window [{start}, {end}] is empty"
        if min(start, end) < 0 or max(start, end) > row["duration"]:
            yield f"window [{start}, {end}] reaches past the video's {row['duration']} s"
    count = len(PIECES.findall(row["query"])) + SPECIAL
    if count > tokens:
        yield (
            f"the query has at least {count} tokens, the encoder reads {tokens}: its end would "
            "make no difference; shorten it, or name the encoder's --tokens"
        )
