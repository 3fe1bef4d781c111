"""How are cases made, run and counted? In processes that may hang or die."""

import contextlib
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz.formats import FORMATS, SEEDS
from tests.fuzz.watch import Outcome, Watch, judge

HANG = 20.0
MEMORY = 6 << 30
KINDS = ("refused", "accepted", "trace", "unclear", "silent", "hang", "crash", "outside")
BAD = KINDS[2:]


def make_seeds(root: Path, names: list[str]) -> None:
    """Write the true files of the formats, in a process of its own."""
    os.environ["SDST_FUZZ_SEEDS"] = str(root / "seeds")
    (root / "secret").write_text("none of your business")
    (root / "tmp").mkdir()
    os.environ["TMPDIR"] = str(root / "tmp")
    process = multiprocessing.get_context("spawn").Process(target=_make, args=(root, names))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("the true files could not be made")


def _make(root: Path, names: list[str]) -> None:
    os.chdir(root)
    for name in dict.fromkeys(SEEDS.get(name, name) for name in names):
        folder = root / "seeds" / name
        folder.mkdir(parents=True)
        FORMATS[name].make(folder)


def campaign(
    root: Path, names: list[str], seed: int, cases: int, workers: int
) -> tuple[dict[str, Counter[str]], dict[tuple[str, str, str], list[int]]]:
    """Counts by format and kind, and the cases of each fault.

    Cases are handed out a few at a time; a worker that hangs or dies is replaced and the case is
    counted.
    """
    context = multiprocessing.get_context("fork")
    done: dict[str, Counter[str]] = {name: Counter() for name in names}
    faults: dict[tuple[str, str, str], list[int]] = {}
    numbers = dict.fromkeys(names, 0)
    running: dict[Connection, list[Any]] = {}

    def note(name: str, number: int, outcome: Outcome) -> None:
        done[name][outcome.kind] += 1
        if outcome.kind in BAD:
            faults.setdefault((name, outcome.kind, outcome.what), []).append(number)

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, root, seed), daemon=True)
        process.start()
        theirs.close()
        running[ours] = [process, None, 0.0]

    for _ in range(workers):
        start()
    with contextlib.suppress(KeyboardInterrupt):  # what was counted so far is told
        told = time.monotonic()
        while running:
            for connection, (process, case, since) in list(running.items()):
                if case is None:
                    if sum(map(Counter.total, done.values())) >= cases:
                        connection.send(None)
                        process.join()
                        del running[connection]
                        continue
                    name = min(names, key=lambda name: done[name].total())
                    running[connection][1:] = [(name, numbers[name]), time.monotonic()]
                    connection.send((name, numbers[name]))
                    numbers[name] += 1
                elif time.monotonic() - since > 6 * HANG:
                    process.kill()
                    note(*case, Outcome("hang", "no end"))
                    del running[connection]
                    start()
            for connection in wait(list(running), timeout=1.0):
                assert isinstance(connection, Connection)
                process, case, since = running[connection]
                try:
                    for outcome in connection.recv():
                        note(*case, outcome)
                    running[connection][1] = None
                except (EOFError, ConnectionResetError):
                    process.join()
                    note(*case, Outcome("crash", f"exit status {process.exitcode}"))
                    del running[connection]
                    start()
            if time.monotonic() - told > 10 and sys.stderr.isatty():
                told = time.monotonic()
                print(f"{sum(map(Counter.total, done.values()))} cases", file=sys.stderr)
    return done, faults


def _work(connection: Connection, root: Path, seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    watch = Watch((Path("/dev"), root / "tmp"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.WARNING)
    tempfile.tempdir = None  # as TMPDIR says
    sys.dont_write_bytecode = True  # what a case is the first to import is no fault of its
    sys.path.insert(0, str(root))  # where a stranger's module would be found
    while (case := connection.recv()) is not None:
        connection.send(run_case(root, case[0], seed, case[1], watch))


def run_case(root: Path, name: str, seed: int, number: int, watch: Watch | None) -> list[Outcome]:
    """The outcome of each reader of one altered folder; without `watch` traces are let through."""
    draw = random.Random(f"{seed}/{name}/{number}")
    place = root / f"cases{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    folder = place / "case"
    shutil.copytree(root / "seeds" / SEEDS.get(name, name), folder, symlinks=True)
    (place / "secret").write_text("none of your business")
    os.chdir(folder)
    FORMATS[name].alter(draw, folder, root)
    outcomes = []
    for way, (read, share) in FORMATS[name].readers.items():
        if draw.random() >= share:
            continue
        if watch is None:
            print(f"-- {way}")
            print(judge(lambda read=read: read(folder)))  # type: ignore[misc]
            continue
        begin = time.process_time()  # another load is no fault of ours
        watch.begin(folder, place / "secret")
        outcome = judge(lambda read=read: read(folder))  # type: ignore[misc]
        noted = watch.end()
        if noted:
            outcome = Outcome("outside", f"{way}: {noted[0]}")
        elif time.process_time() - begin > HANG:
            outcome = Outcome("hang", f"{way}: {time.process_time() - begin:.0f} s")
        elif outcome.what:
            outcome = Outcome(outcome.kind, f"{way}: {outcome.what}")
        outcomes.append(outcome)
    os.chdir(root)
    return outcomes


def table(counts: dict[str, Counter[str]]) -> str:
    """Markdown: a row a format, a column a kind."""
    rows = [("format", "cases", *KINDS)]
    for name, found in (*counts.items(), ("all", sum(counts.values(), Counter()))):
        rows.append((name, f"{found.total():,}", *(f"{found[kind]:,}" for kind in KINDS)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
