"""What does an object store cost, and one in trouble, from tars of videos to a trained model?

    python -m tests.benchmarks.bench_store [--share 0.05]

Extracts tars of generated videos into shards and trains on them with a local cache, three times: on
the disk, in an S3 store of this machine (moto), and in the same store behind a proxy that answers a
part of the requests with an error, with a request to slow down, late, by half, or not at all.
Prints a line of JSON for each: seconds, requests, what went wrong, what a second training asked
for, and the hashes of the shards and of the model, which must be the same.
"""

import argparse
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from data_pipeline.features.shards import FeatureSet
from data_pipeline.storage import Location
from tests.data_pipeline.conftest import write_video
from tests.data_pipeline.extraction.archives import write_tar
from tests.store_in_trouble import Proxy, trouble

ROOT = Path(__file__).parents[2]
TARS, VIDEOS = 3, 6
LONGEST = 400.0
"""Seconds of one command."""
KNOWN = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
EXTRACT = (
    *("--encoder.video_layers=[4,16]", '--encoder.video_options={"image_size": 64}'),
    *("--encoder.text_layers=[2,5]", "--encoder.clip_length=1.0", "--encoder.batch=4"),
    *("--split=train", "--captions=true", "--workers=1", "--retries=5"),
)
TRAIN = (
    *("--data.batch_size=6", "--data.order.lanes=6", "--epochs=2", "--model.layers=[-1,-2]"),
    *("--model.width=32", "--model.heads=4", "--model.queries=5", "--tracking.mlflow=false"),
    *("--tracking.peak_tflops=1", "--deterministic=true"),
)


@dataclass
class Case:
    """Where videos come from and features go, and through what."""

    name: str
    place: str
    environment: dict[str, str]
    proxy: Proxy | None = None


def make_tars(folder: Path) -> None:
    """Tars of short videos, each with a sentence."""
    folder.mkdir(parents=True)
    for tar in range(TARS):
        members = []
        for number in range(VIDEOS):
            path = write_video(folder / "video.mp4", frames=30 + 9 * number + tar)
            members += [
                (f"{number:03d}.mp4", path.read_bytes()),
                (f"{number:03d}.txt", f"thing {number} of {tar}".encode()),
            ]
        write_tar(folder / f"part{tar}.tar", members)
    path.unlink()


def run(words: list[str], case: Case, log: Path) -> float:
    """Seconds that a command takes; raises RuntimeError if it fails."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    began = time.perf_counter()
    with log.open("wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            stdout=out,
            stderr=out,
            env=kept | {"PYTHONPATH": str(ROOT)} | case.environment,
            check=False,
            timeout=LONGEST,
        )
    if done.returncode:
        raise RuntimeError(
            f"{case.name}: {words[0]} ended with {done.returncode}\n{log.read_text()}"
        )
    return time.perf_counter() - began


def measure(case: Case, work: Path, again: bool = True) -> dict[str, Any]:
    """The whole way in one place; `again`: with a second training, from the local cache."""
    folder = work / case.name.replace(" ", "-")
    folder.mkdir()
    output = f"{case.place}/{folder.name}/train"

    def train(name: str) -> float:
        words = ["trainer.main", *TRAIN, f"--data.train={output}", f"--name={name}"]
        features = FeatureSet(output)
        words += [f"--model.video_width={features.video_shape[-1]}"]
        words += [f"--model.text_width={features.text_shape[-1]}"]
        words += [f"--runs={folder}", f"--data.reading.cache={folder / 'cache'}"]
        return run(words, case, folder / f"{name}.log")

    words = ["launch.extract", *EXTRACT, f"--videos={case.place}/videos", f"--output={output}"]
    told: dict[str, Any] = {"case": case.name}
    told["extraction"] = run(words, case, folder / "extraction.log")
    told["first training"] = train("first")
    asked = case.proxy.requests if case.proxy else 0
    if again:
        told["second training, from the cache"] = train("second")
    if case.proxy:
        told["requests"] = case.proxy.requests
        told["requests of the second training"] = case.proxy.requests - asked
        told["trouble"] = dict(sorted(case.proxy.met.items()))
    names = [name for name in Location(output).names() if name.endswith(".tar")]
    summary = json.loads((Location(output) / "summary.json").read_bytes())
    told |= {"videos": summary["stored"], "failures": summary["failures"], "shards": len(names)}
    told["bytes of shards"] = digest((Location(output) / name).read_bytes() for name in names)
    told["models"] = sorted(
        {digest([model.read_bytes()]) for model in folder.glob("*/model/model.safetensors")}
    )
    return told


def digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]


def made_of(told: dict[str, Any]) -> dict[str, Any]:
    """What came of a case, which is to be the same in all."""
    return {key: told[key] for key in ("videos", "failures", "bytes of shards", "models")}


@contextmanager
def store(videos: Path) -> Iterator[tuple[str, str]]:
    """An S3 store of this machine for as long as this lasts, and a bucket with a copy of `videos`:
    the address of the one, the URL of the other. This process's environment names the store."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    place = "s3://videos-and-shards"
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with mock.patch.dict(os.environ, KNOWN | {"AWS_ENDPOINT_URL": address}):
            s3fs.S3FileSystem().mkdir(place)
            for path in videos.iterdir():
                (Location(place) / videos.name / path.name).write_bytes(path.read_bytes())
            yield address, place
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def measure_through(name: str, share: float, work: Path, at: tuple[str, str]) -> dict[str, Any]:
    """The whole way in a store, behind a proxy that gives trouble to a part of the requests."""
    address, place = at
    with trouble(address, share) as proxy:
        environment = KNOWN | {"AWS_ENDPOINT_URL": proxy.address}
        return measure(Case(name, place, environment, proxy), work)


def compare(work: Path, share: float) -> list[dict[str, Any]]:
    """All cases, one after the other."""
    make_tars(work / "videos")
    told = [measure(Case("disk", str(work), {}), work)]
    with store(work / "videos") as at:
        told.append(measure_through("store", 0.0, work, at))
        told.append(measure_through("store in trouble", share, work, at))
    return told


def main() -> int:
    """Print the cases; 1 if they differ in what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=0.05, help="of requests, for each trouble")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = compare(Path(folder), given.share)
    for each in told:
        print(json.dumps({k: round(v, 1) if isinstance(v, float) else v for k, v in each.items()}))
    same = all(made_of(each) == made_of(told[0]) for each in told)
    return 0 if same and len(told[0]["models"]) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
