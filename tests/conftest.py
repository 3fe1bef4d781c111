"""Feature sets made in a moment, for every test that reads shards; empty MLflow stores."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.annotations import Annotation
from data_pipeline.features.samples import Sample, StoredQuery
from data_pipeline.features.shards import FeatureSet, Provenance, write_index
from data_pipeline.features.writing import ShardWriter, write_manifest

# A shell lets what it starts in the background ignore Ctrl-C, and the programs under test would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

TOPICS, LAYERS, VIDEO_WIDTH, TEXT_WIDTH = 6, 2, 12, 10

PROVENANCE = Provenance(
    video_encoder="generated",
    video_weights=None,
    video_layers=(0, 1),
    text_encoder="generated",
    text_weights=None,
    text_layers=(0, 1),
    tokenizer=None,
    clip_length=2.0,
    frames_per_clip=1,
    preprocessing="none",
    arithmetic="float32",
    options={},
    version="test",
)


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines end where programs end them, however long the paths of temporary folders are."""
    monkeypatch.setenv("COLUMNS", "400")


def build_sample(random: np.random.Generator, vid: str, queries: int) -> Sample:
    """A video of one topic after another; each query asks for one of them, in its own direction."""
    lengths = random.integers(2, 5, size=4)
    topics = random.permutation(TOPICS)[:4]
    clips = np.repeat(topics, lengths)
    duration = 2.0 * len(clips)
    video = random.normal(0, 0.3, (len(clips), LAYERS, VIDEO_WIDTH))
    video[np.arange(len(clips)), :, clips] += 2
    texts, stored, tokens = [], [], 0
    for number in range(queries):
        place = number % 4
        text = random.normal(0, 0.3, (int(random.integers(2, 6)), LAYERS, TEXT_WIDTH))
        text[:, :, topics[place]] += 2
        start = int(lengths[:place].sum())
        relevant = range(start, start + int(lengths[place]))
        annotation = Annotation(
            qid=f"{vid}/{number}",
            query=f"topic {topics[place]}",
            vid=vid,
            duration=duration,
            windows=((2.0 * relevant.start, 2.0 * relevant.stop),),
            saliency=dict.fromkeys(relevant, (4.0, 3.0, 4.0)),
        )
        texts.append(text)
        stored.append(StoredQuery(annotation, (tokens, tokens + len(text))))
        tokens += len(text)
    return Sample(
        vid,
        duration,
        2.0,
        video.astype(np.float16),
        np.concatenate(texts).astype(np.float16),
        tuple(stored),
    )


def build_feature_set(
    folder: Path, videos: int = 12, queries: int = 3, per_shard: int = 4, seed: int = 0
) -> FeatureSet:
    """A learnable set of `videos` x `queries` pairs."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    indexes = []
    for first in range(0, videos, per_shard):
        with ShardWriter(folder, f"{first // per_shard:05d}") as writer:
            for number in range(first, min(first + per_shard, videos)):
                writer.add(build_sample(random, f"s{seed}v{number}", queries))
            indexes.append(writer.commit())
    annotations: dict[str, Any] = {"name": "generated", "sha256": "", "videos": 0, "queries": 0}
    write_manifest(folder, folder.name, PROVENANCE, annotations, indexes)
    return write_index(folder)


@pytest.fixture(scope="session")
def splits(
    make_features: Callable[..., FeatureSet], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with the feature sets train (16 videos), dev and val (4 each)."""
    folder = tmp_path_factory.mktemp("features")
    for seed, split in enumerate(("train", "dev", "val")):
        make_features(folder / split, videos=16 if split == "train" else 4, seed=seed)
    return folder


@pytest.fixture(scope="session")
def tiny_run(splits: Path) -> dict[str, Any]:
    """The flags that a run of the trainer on `splits` needs at least, six steps an epoch."""
    return {
        "data.train": splits / "train",
        "data.selection": splits / "dev",
        "data.report": splits / "val",
        "data.batch_size": 8,
        "data.order.lanes": 8,
        "model.video_width": VIDEO_WIDTH,
        "model.text_width": TEXT_WIDTH,
        "model.layers": "[-1, -2]",
        "model.width": 32,
        "model.heads": 4,
        "model.queries": 5,
        "optim.warmup": 5,
        "tracking.mlflow": "false",
        "tracking.peak_tflops": 1,
    }


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    return PROVENANCE


@pytest.fixture(scope="session")
def make_features() -> Callable[..., FeatureSet]:
    return build_feature_set


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A file with MLflow's tables: making them takes longer than any test that uses them.

    All workers of a session share it.
    """
    import mlflow

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / "mlflow.db"
    with open(folder / "mlflow.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = folder / "unfinished.db"
            mlflow.MlflowClient(f"sqlite:///{unfinished}").search_experiments()
            unfinished.rename(path)
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A client of an empty store of this test's own, which MLFLOW_TRACKING_URI names."""
    import mlflow

    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # where MLflow puts the files of an sqlite store
    return mlflow.MlflowClient(uri)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of an empty disk of sixteen megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    for line in Path("/proc/mounts").read_text().splitlines():  # of tests that were killed
        source, place, *_ = line.split()
        owner = source.removeprefix("sdst-test-")
        if owner != source and not Path("/proc", owner).exists():
            subprocess.run(["umount", "--lazy", place], check=False)
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", f"sdst-test-{os.getpid()}", folder]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root, where it may mount, has a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def fill(small_disk: Path) -> Callable[[], Path]:
    """Takes what room there is on the small disk, but for a few kilobytes; the file to remove."""

    def filler() -> Path:
        path = small_disk / "filler"
        path.write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
        return path

    return filler


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser. Not for longer than a module: while it runs, asyncio cannot."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the group `dev`")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)


@pytest.fixture(scope="session")
def accessibility_faults() -> Callable[[Any], list[str]]:
    """Finds, with axe-core, the serious and critical faults of a page that is open."""

    def find(page: Any) -> list[str]:
        from axe_playwright_python.sync_playwright import Axe

        return [
            f"{fault['id']}: {node['html']}"
            for fault in Axe().run(page).response["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that may take longest come first, or the last worker would be left alone with one."""
    limits: Counter[Path] = Counter()
    for item in items:
        if (limit := item.get_closest_marker("timeout")) is not None:
            limits[item.path] += limit.args[0]
    items.sort(key=lambda item: -limits[item.path])


@pytest.fixture(autouse=True)
def forget_processes() -> Iterator[None]:
    """Accelerate remembers for a whole process how it was first started; tests start it anew."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
