"""A cluster that is not there, or is lost, is one line before long and never a wait without end."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from data_pipeline.config import JobConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction import job, ray_cluster
from data_pipeline.extraction.job import Summary, make_shards
from data_pipeline.extraction.pool import Workers
from data_pipeline.extraction.ray_cluster import ClusterLostError, Watch, await_cluster
from data_pipeline.extraction.ray_session import ray_session
from data_pipeline.extraction.worker import Extractor
from data_pipeline.features.shards import Provenance
from launch.job_report import Report, run_job


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """Something that answers at an address, as the head of a cluster does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"ARRIVAL": 0.2, "PATIENCE": 0.2, "PERIOD": 0.01}.items():
        monkeypatch.setattr(ray_cluster, name, seconds)


def address_of(head: socket.socket) -> str:
    return f"127.0.0.1:{head.getsockname()[1]}"


def closed(head: socket.socket) -> str:
    """An address at which nothing answers any more."""
    address = address_of(head)
    head.close()
    return address


def test_an_address_where_nothing_answers_is_refused_in_one_line(
    head: socket.socket, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed(head))
    with pytest.raises(InputError) as caught, ray_session():
        pass
    assert "Connection refused" in str(caught.value)
    assert "RAY_ADDRESS" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_nobody_has_is_refused(impatient: None) -> None:
    with pytest.raises(InputError, match=r"no Ray answers at nowhere.invalid:6379 \(.+\)"):
        await_cluster("nowhere.invalid:6379")


def test_a_head_that_is_still_starting_is_waited_for(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, refusals = address_of(head), iter(["Connection refused", None])
    monkeypatch.setattr(ray_cluster.time, "sleep", lambda _: None)
    monkeypatch.setattr(ray_cluster, "refusal", lambda _: next(refusals))
    await_cluster(address)
    assert next(refusals, "asked twice") == "asked twice"


def test_a_watch_is_content_while_the_head_answers_and_tells_when_it_is_lost(
    head: socket.socket, impatient: None
) -> None:
    with Watch(address_of(head)).watching() as watch:
        time.sleep(0.5)
        watch.check()
        address = closed(head)
        with pytest.raises(ClusterLostError, match=f"{address} is lost .*the same command goes on"):
            ask_on(watch)


def test_refusals_for_less_than_the_patience_are_no_loss_however_long_this_process_stood_still(
    impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([3 * ray_cluster.PATIENCE, 0, 0, 0])

    def refusal(_: str) -> str | None:
        for stopped in answers:
            time.sleep(stopped)
            return "Connection refused"
        return None

    monkeypatch.setattr(ray_cluster, "refusal", refusal)
    with Watch("127.0.0.1:1").watching() as watch:
        time.sleep(5 * ray_cluster.PATIENCE)
        watch.check()
        assert next(answers, "all given") == "all given"


def ask_on(watch: Watch) -> None:
    while True:
        watch.check()
        time.sleep(0.01)


HANGING = """
import time
from data_pipeline.extraction import ray_cluster
from data_pipeline.extraction import job
ray_cluster.PATIENCE = ray_cluster.GRACE = ray_cluster.PERIOD = 0.1
with ray_cluster.Watch("127.0.0.1:{port}").watching():
    time.sleep(1000)
"""


def test_a_call_that_waits_for_the_lost_cluster_does_not_hold_the_process(
    head: socket.socket,
) -> None:
    port = closed(head).partition(":")[2]
    command = [sys.executable, "-c", HANGING.format(port=port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "is lost (Connection refused)" in ended.stderr


class NeverDone:
    """A pool of workers of which nothing is heard for five seconds."""

    ready = False

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "NeverDone":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def make(self, *_: Any) -> Iterator[None]:
        for _ in range(500):
            time.sleep(0.01)
            yield None


def test_a_job_whose_cluster_is_lost_in_the_middle_ends_and_leaves_nothing_half_written(
    head: socket.socket,
    impatient: None,
    provenance: Provenance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"qid": 1, "query": "a dog", "vid": "v", "duration": 4}\n')
    output = tmp_path / "train"

    @contextmanager
    def session(_: int | None) -> Iterator[Watch]:
        (output / ".00000.tar.half.tmp").touch()  # of a worker that is lost, too
        with Watch(closed(head)).watching() as watch:
            yield watch

    monkeypatch.setattr(job, "ray_session", session)
    monkeypatch.setattr(job, "WorkerPool", NeverDone)
    workers = Workers(Extractor, (), 1)
    config = JobConfig(annotations=rows, output=output)
    with pytest.raises(ClusterLostError):
        make_shards(config, provenance, "videos", lambda: workers, lambda _: None)
    assert {path.name for path in output.iterdir()} == {"plan.json", ".lock"}


def test_a_job_whose_cluster_is_lost_ends_with_a_status_of_its_own_and_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(_: Report) -> Summary:
        raise ClusterLostError("the cluster is lost")

    row = {"qid": 1, "query": "a dog", "vid": "v", "duration": 10.0, "relevant_windows": [[1, 2]]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert run_job(JobConfig(annotations=tmp_path / "rows.jsonl", output="out"), work, None) == 1
    assert capsys.readouterr().err == "error: the cluster is lost\n"


PROGRAM = """
import os, sys
import ray
from data_pipeline.errors import InputError
from data_pipeline.extraction.ray_session import ray_session

@ray.remote
def folder():
    return ray._private.worker._global_node.get_temp_dir_path()

try:
    with ray_session(1):
        name = ray.get(folder.remote())
        assert os.path.isdir(name)
    print(name, os.path.isdir(name))
except InputError as error:
    print(error)
"""


def start_with(**environment: str) -> str:
    """What a program says that starts a Ray of its own and asks where that writes."""
    root = str(Path(__file__).parents[3])
    known = {k: v for k, v in os.environ.items() if k not in ("TMPDIR", "RAY_TMPDIR")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=known | {"PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(180)
def test_a_long_temporary_folder_is_no_hindrance(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 75)
    long.mkdir()
    name, is_left = start_with(TMPDIR=str(long)).split()
    assert name.startswith("/tmp/sdst-ray-")
    assert is_left == "False"


@pytest.mark.timeout(180)
def test_a_folder_for_ray_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    long = str(tmp_path / ("x" * 75))
    said = start_with(RAY_TMPDIR=long)
    assert said.startswith(f"RAY_TMPDIR={long}: too long a path for the sockets of Ray; name a ")
    assert "\n" not in said
