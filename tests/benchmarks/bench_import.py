"""How fast are released features imported, beside reading the bytes alone?

    python -m tests.benchmarks.bench_import

Writes files of QVHighlights' sizes: as SDST released them (75 clips, 5 layers of 768; a query of 12
tokens, 5 layers of 1024; float16), stored in their zip as `np.savez` does and then deflated as
`np.savez_compressed` does, and as Moment-DETR did (streams of 2304 and 512, tokens of 512; float32,
stored), whose rows are normalised on the way. With as many processes as there are cores it reads
their bytes alone, then reads and unpacks them with numpy, then copies them as shards are written
(100 videos to a file, hashed by SHA-256 and synced), and at last imports them. Ray's start is told
apart. Files that are there already are kept.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jsonargparse
import numpy as np

from data_pipeline.importing.features import import_features
from launch.import_features import with_preset


def main(
    folder: Path = Path("/tmp/sdst-bench-import"),
    stored: int = 2000,
    deflated: int = 400,
    streams: int = 2000,
    workers: int = 2,
) -> None:
    """Print MB of released files per second.

    Args:
        folder: where the files go
        stored: videos whose files are stored in their zip
        deflated: videos whose files are deflated
        streams: videos in Moment-DETR's layout
        workers: processes
    """
    for name, videos, preset, save in (
        ("stored", stored, "sdst", np.savez),
        ("deflated", deflated, "sdst", np.savez_compressed),
        ("streams", streams, "moment-detr", np.savez),
    ):
        if videos:
            write(folder / name, videos, preset, save)
            measure(name, folder / name, preset, workers)


def measure(name: str, folder: Path, preset: str, workers: int) -> None:
    """Read, unpack and import the files of a folder."""
    files = sorted(folder.glob("*/*.npz"))
    total = sum(file.stat().st_size for file in files) / 1e6
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(unpack, [files[:1]] * workers))  # processes are up
        rates = []
        for work in (read, unpack, copy):
            began = time.perf_counter()
            list(pool.map(work, [files[start::workers] for start in range(workers)]))
            rates.append(total / (time.perf_counter() - began))
    with tempfile.TemporaryDirectory(dir=folder) as output:
        command = {
            "annotations": folder / "rows.jsonl",
            "output": Path(output) / "features",
            "features": folder,
            "sharding.videos": 100,
            "workers": workers,
        }
        given = [f"--{key}={value}" for key, value in command.items()]
        summary = import_features(with_preset(preset, given))
    imported = total / summary.work_seconds
    print(f"{name}: {total:.0f} MB in {len(files)} files, {workers} workers")
    print(
        f"  bytes alone {rates[0]:.0f} MB/s, read by numpy {rates[1]:.0f} MB/s, read, hashed, "
        f"written and synced {rates[2]:.0f} MB/s"
    )
    print(
        f"  imported {imported:.0f} MB/s, {imported / rates[0]:.0%} of the bytes alone, "
        f"{imported / rates[1]:.0%} of numpy's, {imported / rates[2]:.0%} of those copied, "
        f"{summary.stored / summary.work_seconds:.0f} "
        f"videos/s; written {summary.bytes / 1e6:.0f} MB; workers were ready after "
        f"{summary.start_seconds:.1f} s, not counted"
    )


def write(folder: Path, videos: int, preset: str, save: Callable[..., None]) -> None:
    """One query a video."""
    random = np.random.default_rng(0)
    half = {
        "vid_feats/{vid}": ("visual_feats_interm_pooled", random.normal(size=(75, 5, 768))),
        "txt_feats/{qid}": ("text_feats", random.normal(size=(5, 12, 1024))),
    }
    streams = {
        "slowfast_features/{vid}": ("features", random.normal(size=(75, 2304))),
        "clip_features/{vid}": ("features", random.normal(size=(75, 512))),
        "clip_text_features/qid{qid}": ("last_hidden_state", random.normal(size=(12, 512))),
    }
    layout, kind = (half, np.float16) if preset == "sdst" else (streams, np.float32)
    files = {name: (key, values.astype(kind)) for name, (key, values) in layout.items()}
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as rows:
        for number in range(videos):
            row = {"qid": number, "query": "something", "vid": f"v{number}", "duration": 150}
            rows.write(json.dumps(row) + "\n")
            for name, (key, values) in files.items():
                path = folder / f"{name.format(vid=row['vid'], qid=number)}.npz"
                if not path.exists():
                    save(path, **{key: values})


def read(files: Sequence[Path]) -> int:
    """Read the bytes and nothing else."""
    return sum(len(file.read_bytes()) for file in files)


def unpack(files: Sequence[Path]) -> int:
    """Read arrays as their users do."""
    total = 0
    for file in files:
        with np.load(file) as archive:
            total += sum(archive[name].nbytes for name in archive.files)
    return total


def copy(files: Sequence[Path]) -> int:
    """Read, hash, write and sync the bytes, those of 100 videos into a file."""
    total = 0
    per_file = 100 * len({file.parent for file in files})
    for start in range(0, len(files), per_file):
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=files[0].parent.parent) as copied:
            for file in files[start : start + per_file]:
                data = file.read_bytes()
                digest.update(data)
                copied.write(data)
                total += len(data)
            copied.flush()
            os.fsync(copied.fileno())
    return total


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
