"""Ask an archive: which video shows what a sentence says, and which seconds of it?

    python -m launch.search index "a red star is spinning" "somebody walks past a bicycle"
    python -m launch.search index --queries queries.txt --json found.json --page found.html

launch.index makes the index. The most promising stretches of all videos are found in it, then the
model looks for the sentence in those alone, by their stored features. With RAY_ADDRESS that cluster
holds the index. Give --queries a JSONL file of annotations and --json one that ends in .jsonl, and
launch.evaluate --task vcmr scores the answers.
"""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipeline.errors import InputError
from data_pipeline.output import check_file, check_folder, make_folder, write_text
from data_pipeline.untrusted import iter_rows, reading
from launch.answers.batch import read_queries
from launch.answers.moments import add_moment, cut_out, moments_table
from launch.predict import spare_threads
from trainer.cli import command, make_parser, parse, terminal

if TYPE_CHECKING:
    from trainer.archive.archive import Answer, Moment

TOLD = 5  # damaged videos that are printed, of any number
UNFIT = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Question:
    """A sentence, and the qid that its annotation gives it."""

    query: str
    qid: int | str | None = None


@command
def main(args: list[str] | None = None) -> None:
    """Read the command line, search, and show what was found in every form that is asked for."""
    parser = make_parser(__doc__)
    parser.add_argument("index", type=Path, help="folder of launch.index")
    parser.add_argument("sentence", nargs="*", type=str, help="what to look for")
    parser.add_argument(
        "--queries", type=Path | None, help="file with one sentence a line, or .jsonl annotations"
    )
    parser.add_argument("--top", type=int, default=10, help="moments of each sentence")
    parser.add_argument(
        "--candidates", type=int, default=20, help="stretches of videos that the model looks at"
    )
    parser.add_argument(
        "--guess",
        action="store_true",
        help="of a sentence that is not found, show the best moments as a guess",
    )
    parser.add_argument(
        "--exact", action="store_true", help="compare every clip, also where FAISS was trained"
    )
    parser.add_argument(
        "--model", type=Path | None, help="the model of the index, if it lies elsewhere now"
    )
    parser.add_argument(
        "--device", type=str | None, help="PyTorch device; a GPU where there is one"
    )
    parser.add_argument(
        "--json", type=Path | None, help="write the results here, .jsonl: a row a sentence"
    )
    parser.add_argument("--clips", type=Path | None, help="folder for the moments, cut out")
    parser.add_argument("--page", type=Path | None, help="write a page with pictures and links")
    options = parse(parser, args)
    questions = [Question(sentence) for sentence in options.sentence]
    if options.queries is not None:
        questions += read_questions(options.queries)
    if not questions:
        raise InputError("nothing to look for; add a sentence in quotes, or --queries FILE")
    if options.top < 1 or options.candidates < 1:
        raise InputError("--top and --candidates must be at least 1")
    for path in (options.json, options.page):
        if path is not None:
            check_file(path)
    if options.clips is not None:
        check_folder(options.clips)
    console = terminal()
    with console.status(Text(f"searching {options.index}")):
        answers = _answers(options, [question.query for question in questions])
    shown = [_shown(answer, options.guess) for answer in answers]
    for answer, moments in zip(answers, shown, strict=True):
        console.print(_table(answer, moments), "")
        if answer.unread:
            console.print(
                f"this sentence is longer than the encoder reads: its last {answer.unread} tokens "
                "make no difference",
                style="yellow",
            )
    damaged = dict.fromkeys(line for answer in answers for line in answer.damaged)
    for line in list(damaged)[:TOLD]:
        console.print(f"passed over: {line}", style="yellow", soft_wrap=True)
    if len(damaged) > TOLD:
        console.print(f"… and {len(damaged) - TOLD} more", style="yellow")
    console.print(_times(answers), soft_wrap=True)
    if options.json is not None:
        _write(options.json, options.index, questions, answers)
        console.print(f"results   {options.json}", soft_wrap=True)
    if options.page is not None:
        from launch.answers.film_page import write_search_page

        write_search_page(options.page, str(options.index), answers, shown)
        console.print(f"page      {options.page}", soft_wrap=True)
    if options.clips is not None:
        _cut_out(shown, options.clips, console)


def read_questions(path: Path) -> list[Question]:
    """The sentences of a text file, one a line, or of the rows of a JSONL file with their qids."""
    if path.suffix != ".jsonl":
        return [Question(query) for query in read_queries(path)]
    questions, seen = [], set()
    for number, row in iter_rows(path):
        with reading(f"{path}:{number}", "each row has a qid and a query"):
            if not isinstance(row["query"], str) or not isinstance(row["qid"], int | str):
                raise ValueError("the query is no text, or the qid neither number nor text")
            if not row["query"].strip():
                raise ValueError("the query is empty")
            if row["qid"] in seen:
                raise ValueError("its qid is there twice")
            seen.add(row["qid"])
            questions.append(Question(row["query"], row["qid"]))
    if not questions:
        raise InputError(f"{path}: holds no sentences; write one a line")
    return questions


def _answers(options: Any, sentences: list[str]) -> "list[Answer]":
    import torch

    from trainer.archive.archive import Archive

    torch.set_num_threads(spare_threads())
    try:
        archive = Archive.open(options.index, options.model, options.device, options.exact)
    except ImportError as error:  # a package that the encoders lack
        raise InputError(str(error)) from error
    if not os.environ.get("RAY_ADDRESS"):
        return archive.search(sentences, options.top, options.candidates)
    from trainer.archive.cluster import first_stage

    with first_stage(archive.index) as archive.first_stage:
        return archive.search(sentences, options.top, options.candidates)


def _shown(answer: "Answer", guess: bool) -> "tuple[Moment, ...]":
    return answer.moments if guess and answer.not_found else answer.listed


def _table(answer: "Answer", moments: "Sequence[Moment]") -> Table:
    table = moments_table(answer.query, answer.not_found, of_videos=True)
    for m in moments:
        guess = "a guess" if answer.not_found else ""
        add_moment(table, m.start, m.end, m.score, m.video, guess=guess)
    return table


def _times(answers: "Sequence[Answer]") -> str:
    """How long a sentence took, in the middle and at the slow end."""
    stages = 1000 * np.array([answer.seconds for answer in answers])
    told = [
        f"{name} p50 {np.percentile(stages[:, stage], 50):.0f} ms, "
        f"p95 {np.percentile(stages[:, stage], 95):.0f} ms"
        for stage, name in enumerate(("search", "grounding"))
    ]
    return f"a sentence: {'; '.join(told)}"


def _write(
    path: Path, index: Path, questions: Sequence[Question], answers: "Sequence[Answer]"
) -> None:
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        named = {} if question.qid is None else {"qid": question.qid}
        rows.append(
            named
            | {
                "query": answer.query,
                "found": not answer.not_found,
                **({} if answer.existence is None else {"existence": round(answer.existence, 4)}),
                "pred_moments": [
                    [m.video, round(m.start, 3), round(m.end, 3), round(m.score, 4)]
                    for m in answer.moments
                ],
                "candidates": [
                    [video, round(start, 3), round(end, 3), round(score, 4)]
                    for video, start, end, score in answer.candidates
                ],
                **({"damaged": list(answer.damaged)} if answer.damaged else {}),
            }
        )
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps({"index": str(index), "results": rows}, ensure_ascii=False, indent=1)
    write_text(path, text)


def _cut_out(shown: "Sequence[Sequence[Moment]]", folder: Path, console: Console) -> None:
    """Write the moments as `<sentence>-<rank>-<video>.mp4`; one that fails is told."""
    from launch.answers.film_page import file_of

    make_folder(folder)
    for number, moments in enumerate(shown, start=1):
        for rank, moment in enumerate(moments, start=1):
            name = UNFIT.sub("_", moment.video)[-100:]
            source = partial(file_of, moment.video, moment.videos)
            clip = folder / f"{number}-{rank}-{name}.mp4"
            cut_out(clip, source, moment.start, moment.end, console)


if __name__ == "__main__":
    sys.exit(main())
