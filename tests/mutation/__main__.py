"""Which single changes of a line would no test notice?

    python -m tests.mutation --count 300                    # some of all changes, drawn by --seed
    python -m tests.mutation --only model/sdst --count 0    # every change below a path
    python -m tests.mutation --only model/spans.py --line 12

Cosmic Ray makes the changes, in copies of the checkout. First the fast tests of all parts run once,
and it is kept which lines each of them reaches (with `--reached FILE` for the next time, too). Then
each change is tried with those that reach its line, the quickest first, and with what else is in
their files. What survives is printed as a difference; `equal.txt` beside this file names what has
no effect, with the reason. Status 1 if fewer than 90 % of the others are noticed.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import jsonargparse

from tests.mutation.changes import PARTS, Change, all_changes, changed, first_new, told
from tests.mutation.reaching import OPTIONS, Reach

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/model",
    "tests/data_pipeline/stream",
    "tests/trainer/inference",
    "tests/trainer/judging",
    "tests/trainer/metrics",
)
"""Where the tests are that are to notice."""

WANTED = 0.9


def main(
    only: str = "",
    line: int | None = None,
    count: int = 300,
    seed: int = 0,
    workers: int = 2,
    limit: float = 60.0,
    reached: Path | None = None,
) -> int:
    """Try changes and print those that no test noticed.

    Args:
        only: a path below which lines are changed
        line: one line of that file
        count: how many changes are drawn; 0 tries all
        seed: of the draw
        workers: processes
        limit: seconds that the tests of a change may take, beside four times what they took before
        reached: a file that keeps which tests reach which lines, for the next time
    """
    changes = [
        change
        for part in PARTS
        if part.startswith(only) or only.startswith(part)
        for change in all_changes(ROOT, part)
        if change.path.startswith(only) and line in (None, *change.lines)
    ]
    if not changes:
        raise SystemExit(f"error: there is nothing to change at {only!r}; see PARTS in changes.py")
    if 0 < count < len(changes):
        changes = sorted(random.Random(seed).sample(changes, count))
    with tempfile.TemporaryDirectory() as folder:
        copies = [copy(Path(folder) / str(number)) for number in range(workers)]
        return report(try_all(copies, changes, reach(copies, reached), limit))


def report(ends: dict[str, Counter[str]]) -> int:
    """Print how the changes of each folder ended; the status."""
    ends["all"] = sum(ends.values(), Counter())
    for folder, ended in ends.items():
        noticed, tried = ended["noticed"] + ended["hung"], ended.total() - ended["equal"]
        share = noticed / max(1, tried)
        print(f"{folder}: {noticed} of {tried} noticed ({share:.1%}); {ended['equal']} are equal")
    return 0 if share >= WANTED else 1


def copy(folder: Path) -> Path:
    """The checkout's files, as they are now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def reach(copies: Sequence[Path], kept: Path | None) -> dict[str, Reach]:
    """What each test reaches; those of files that `kept` does not know as they are now are run."""
    here = copies[0]
    digests = {
        str(path.relative_to(here)): digest(here, path)
        for root in TESTS
        for path in sorted((here / root).rglob("test_*.py"))
    }
    known = json.loads(kept.read_text()) if kept and kept.is_file() else {}
    known = {file: found for file, found in known.items() if found["digest"] == digests.get(file)}
    new = [file for file in digests if file not in known]
    running = [
        (where, start(where, ["tests.mutation.reaching", "reached.json", *share]))
        for number, where in enumerate(copies)
        if (share := new[number :: len(copies)])
    ]
    ended = [process.wait() for _, process in running]
    if any(ended):
        raise SystemExit("error: the tests fail without any change; mend them first")
    for file in new:
        known[file] = {"digest": digests[file], "tests": {}}
    for where, _ in running:
        for test, found in json.loads((where / "reached.json").read_text()).items():
            known[test.partition("::")[0]]["tests"][test] = found
    if kept is not None:
        kept.write_text(json.dumps(known))
    tests = (found["tests"] for found in known.values())
    return {test: Reach(**found) for of_file in tests for test, found in of_file.items()}


def digest(here: Path, test: Path) -> str:
    """Of a file of tests, what it is to reach, and what helps it."""
    read = {*(here / "tests").glob("*.py"), *(here / part for part in PARTS)}
    read |= {path for place in (*PARTS, *TESTS) for path in (here / place).rglob("*.py")}
    content = hashlib.sha256()
    for path in sorted(read):
        if path == test or (path.is_file() and not path.name.startswith("test_")):
            content.update(path.read_bytes())
    return content.hexdigest()


def start(where: Path, module: Sequence[str], quiet: bool = False) -> "subprocess.Popen[bytes]":
    """Run a module in a copy, which is then the project."""
    own = {"PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    out = subprocess.DEVNULL if quiet else None
    command = [sys.executable, "-m", *module]
    return subprocess.Popen(
        command, cwd=where, env=os.environ | own, stdout=out, stderr=out, start_new_session=True
    )


def try_all(
    copies: Sequence[Path], changes: Sequence[Change], known: dict[str, Reach], limit: float
) -> dict[str, Counter[str]]:
    """How the changes of each folder end; each that survives is printed when it is known."""
    equal = equal_in_effect()
    free: Queue[Path] = Queue()
    for where in copies:
        free.put(where)

    def attempt(change: Change) -> tuple[Change, str, str]:
        where = free.get()
        try:
            with changed(where, change) as (before, after):
                difference = told(before, after)
                if (change.path, first_new(before, after)) in equal:
                    return change, "equal", difference
                return change, outcome(where, choose(change, known), known, limit), difference
        finally:
            free.put(where)

    ends: dict[str, Counter[str]] = defaultdict(Counter)
    with ThreadPoolExecutor(len(copies)) as threads:
        for number, (change, ended, difference) in enumerate(threads.map(attempt, changes), 1):
            ends[str(Path(change.path).parent)][ended] += 1
            if ended in ("survived", "reached by no test"):
                print(f"{change.path}:{change.lines[0]} {ended}\n{difference}", flush=True)
            if number % 25 == 0:
                print(f"[{number} of {len(changes)}]", flush=True)
    return ends


def choose(change: Change, known: dict[str, Reach]) -> list[str]:
    """The tests that can notice a change.

    First come those that reach its line (of a line that runs when its file is imported: that reach
    the file), the quickest first; then the rest of their files, which may share what they made.
    """

    def by_time(tests: set[str]) -> list[str]:
        return sorted(tests, key=lambda test: (known[test].seconds, test))

    of_file = {test for test, found in known.items() if change.path in found.lines}
    of_line = {
        test for test in of_file if {*change.lines} & {*known[test].lines[change.path]}
    } or of_file
    files = {test.partition("::")[0] for test in of_line}
    beside = {test for test in known if test.partition("::")[0] in files} - of_line
    return by_time(of_line) + by_time(beside)


def outcome(where: Path, tests: Sequence[str], known: dict[str, Reach], limit: float) -> str:
    """How the change that was made in a copy ends."""
    if not tests:
        return "reached by no test"
    (where / "tests.txt").write_text("\n".join(tests))
    process = start(where, ["pytest", "-x", *OPTIONS, "@tests.txt"], quiet=True)
    try:
        status = process.wait(limit + 4 * sum(known[test].seconds for test in tests))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "hung"
    return "survived" if status == 0 else "noticed"


def equal_in_effect() -> set[tuple[str, str]]:
    """(path, changed line) of each entry of equal.txt, whose reasons stand in lines with a #."""
    lines = (Path(__file__).parent / "equal.txt").read_text().splitlines()
    named = (line.partition(": ") for line in lines if line and not line.startswith("#"))
    return {(path, changed_line) for path, _, changed_line in named}


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
