"""Does an index lose anything when its making, growing or shrinking is killed?

    python -m tests.trainer.archive.kill_campaign --kills 10

Starts each of the three again and again with SIGKILL at random moments, then once to its end, and
compares all that counts with an index that nobody disturbed. One that came to its end before it was
killed is compared too, and begun anew.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jsonargparse
import numpy as np

from tests.conftest import PROVENANCE
from trainer.archive.index import Index, IndexedSet, MadeWith, parts, read_manifest
from trainer.archive.writing import Row, writer

WIDTH, CLIPS, VIDEOS = 16, 20, 120
MADE = MadeWith("projected", WIDTH, "w", "a", PROVENANCE)

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.trainer.archive.kill_campaign import grow, shrink
print("begun", flush=True)
what, folder = sys.argv[1], Path(sys.argv[2])
grow(folder, int(sys.argv[3])) if what == "grow" else shrink(folder)
"""


def grow(folder: Path, videos: int) -> None:
    """Append videos up to this number, counted three at a time."""

    with writer(folder, "model", MADE) as target, target.appending() as appender:
        for number in range(target.manifest.videos, videos):
            rows = np.random.default_rng(number).normal(size=(CLIPS, WIDTH)).astype(np.float16)
            appender.add(0, Row(number, f"v{number}", rows))
            if number % 3 == 2 or number == videos - 1:
                sets = (IndexedSet("set", "hash"),)
                target.commit(replace(appender.counted(), sets=sets))


def shrink(folder: Path) -> None:
    """Take out every second video, unless that is done."""
    with writer(folder, "", None) as target:
        index = Index(folder)
        gone = np.array([int(index.name(v)[1:]) % 2 == 1 for v in range(len(index.videos))])
        if gone.any():
            target.remove(index, gone, set())


def contents(folder: Path) -> dict[str, bytes]:
    """What counts of each file, without the header."""
    index = Index(folder)  # it opens
    return {
        role: (folder / name).read_bytes()[64 : 64 + size]
        for role, (name, size) in parts(read_manifest(index.folder)).items()
    }


def main(kills: int = 10, seed: int = 0) -> int:
    """Kill each of the three so often; the status is 0 if nothing was lost.

    Args:
        kills: how often
        seed: of the moments
    """
    draw = random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="sdst-kill-"))
    killed, true = root / "killed", root / "true"
    differing = 0
    steps = [("build", "grow", VIDEOS), ("add", "grow", 2 * VIDEOS), ("remove", "shrink", 0)]
    try:
        for name, what, videos in steps:
            begin = time.perf_counter()
            shrink(true) if what == "shrink" else grow(true, videos)
            longest = time.perf_counter() - begin
            before = root / f"before-{name}"
            _copy(killed, before)
            done, ends = 0, 0
            while done < kills:
                if _start(what, killed, videos, draw.uniform(0, longest)):
                    done += 1
                    continue
                ends += 1  # it was done before the kill: it is begun anew
                differing += contents(killed) != contents(true)
                _copy(before, killed)
            _start(what, killed, videos, None)
            differing += contents(killed) != contents(true)
            said = f"{differing} DIFFER" if differing else "nothing lost"
            print(f"{name}: {kills} kills, {ends + 1} times to the end, {said}", flush=True)
    finally:
        shutil.rmtree(root)
    return int(differing > 0)


def _copy(source: Path, target: Path) -> None:
    """`target` is as `source` is, or absent."""
    shutil.rmtree(target, ignore_errors=True)
    if source.exists():
        shutil.copytree(source, target)


def _start(what: str, folder: Path, videos: int, kill_after: float | None) -> bool:
    """Run one of the three, killed so many seconds after it has begun; whether it was."""
    program = [sys.executable, "-c", PROGRAM, what, str(folder), str(videos)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL)
        return status != 0


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
