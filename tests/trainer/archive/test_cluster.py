"""A cluster indexes and finds what one machine does; a process of it that is lost is one line."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from tests.data_pipeline.extraction.test_growing_cluster import Growing
from tests.trainer.archive.test_index import contents
from tests.trainer.archive.test_search import directions
from trainer.archive import building, cluster
from trainer.archive.building import Source, add_sets
from trainer.archive.index import Index
from trainer.archive.searching import candidates
from trainer.archive.writing import writer

ROOT = Path(__file__).parents[3]
LONGEST, COUNT = 6, 5


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Growing]:
    """A cluster of two processors."""
    started = Growing(tmp_path_factory.mktemp("cluster"), processors=2)
    yield started
    started.stop()


@contextlib.contextmanager
def running(cluster: Growing, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A program of this file, on the cluster."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.archive.test_cluster", *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def search(folder: Path) -> None:
    """Print, for each line that comes, what the cluster finds."""
    index = Index(folder)
    with cluster.first_stage(index) as find:
        print("ready", flush=True)
        for _ in sys.stdin:
            found = find(directions(3, index.manifest.made_with.width), COUNT, LONGEST)
            print(json.dumps([[asdict(each) for each in some] for some in found]), flush=True)


def build(folder: Path, run: Path, features: FeatureSet) -> None:
    """Index two videos at a time, and wait for a line after the second block."""
    cluster.BLOCK, building.COMMIT_SECONDS = 2, 0.0
    source = Source(run, "projected", None)
    with (
        writer(folder, str(run), source.made_with(features)) as target,
        cluster.on_cluster(source) as blocks,
    ):

        def waiting(features: FeatureSet, samples: range) -> Iterator[building.Block]:
            for number, block in enumerate(blocks(features, samples)):
                yield block
                if number == 1:
                    print("begun", flush=True)
                    sys.stdin.readline()

        add_sets(target, [(features, None)], waiting)
    print("done", flush=True)


def main(what: str, *args: str) -> None:
    """One of the two; what is wrong is a line."""
    try:
        if what == "search":
            search(Path(args[0]))
        else:
            build(Path(args[0]), Path(args[1]), FeatureSet(args[2]))
    except InputError as error:
        print(f"error: {error}", flush=True)


def asked(process: Any) -> str:
    """What it answers to a line."""
    process.stdin.write("\n")
    process.stdin.flush()
    return line_of(process)


def line_of(process: Any) -> str:
    """Its next line that is not Ray's own: Ray tells of a lost worker beside us."""
    return next(line for line in process.stdout if "(raylet)" not in line)


def kill_workers(cluster: Growing, name: str) -> int:
    """Kill the processes of the cluster that are of this class; how many there were."""
    killed = 0
    for node in cluster.processes:
        for process in psutil.Process(node.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cmdline()[0].startswith(f"ray::{name}"):
                    process.kill()
                    killed += 1
    return killed


@pytest.mark.timeout(600)
def test_a_cluster_finds_what_one_machine_finds_and_a_killed_process_is_one_line(
    growing: Growing, indexed: Path
) -> None:
    expected = candidates(Index(indexed), directions(3, 32), COUNT, LONGEST)
    with running(growing, "search", indexed) as process:
        assert line_of(process) == "ready\n"
        for _ in range(2):
            found = json.loads(asked(process))
            places = [[(c["video"], c["first"], c["end"]) for c in some] for some in found]
            assert places == [[(c.video, c.first, c.end) for c in some] for some in expected]
            scores = [[c["score"] for c in some] for some in found]
            assert np.allclose(scores, [[c.score for c in some] for some in expected], atol=1e-6)
        assert kill_workers(growing, "_Searcher") == 2  # each had a part
        said = asked(process)
        assert said.startswith("error: a process of the cluster was lost; run the same command")
        assert all("(raylet)" in line for line in process.stdout)
        assert process.wait(60) == 0


@pytest.mark.timeout(600)
def test_a_cluster_makes_the_same_index_and_goes_on_where_a_killed_process_ended_it(
    growing: Growing, indexed: Path, tmp_path: Path, run: Path, features: FeatureSet
) -> None:
    folder = tmp_path / "other"
    given = "build", folder, run, features.folder
    with running(growing, *given) as process:
        assert line_of(process) == "begun\n"
        assert kill_workers(growing, "_Maker") == 2
        assert asked(process).startswith("error: a process of the cluster was lost; run the same")
        assert process.wait(60) == 0
    counted = len(Index(folder).videos)
    assert 2 <= counted < 12  # what was committed stays searchable
    with running(growing, *given) as process:
        assert line_of(process) == ("begun\n" if counted <= 8 else "done\n")
        process.communicate("\n")
    assert contents(folder) == contents(indexed)


if __name__ == "__main__":
    main(*sys.argv[1:])
