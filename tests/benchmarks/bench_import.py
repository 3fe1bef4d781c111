"""How fast are released features imported, beside reading the bytes alone?

    python -m tests.benchmarks.bench_import

Writes files as SDST released them, of QVHighlights' sizes (75 clips, 5 layers of 768; a query of 12
tokens, 5 layers of 1024; float16), stored in their zip as `np.savez` does and then deflated as
`np.savez_compressed` does. With as many processes as there are cores it reads their bytes alone,
then reads and unpacks them with numpy, and at last imports them: the same bytes are hashed, written
and synced. Ray's start is told apart. Files that are there already are kept.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jsonargparse
import numpy as np

from data_pipeline.config import ImportConfig, ShardingConfig
from data_pipeline.extraction.importing import import_features


def main(
    folder: Path = Path("/tmp/sdst-bench-import"),
    stored: int = 2000,
    deflated: int = 400,
    workers: int = 2,
) -> None:
    """Print MB of released files per second.

    Args:
        folder: where the files go
        stored: videos whose files are stored in their zip
        deflated: videos whose files are deflated
        workers: processes
    """
    for name, videos, save in (
        ("stored", stored, np.savez),
        ("deflated", deflated, np.savez_compressed),
    ):
        write(folder / name, videos, save)
        measure(name, folder / name, workers)


def measure(name: str, folder: Path, workers: int) -> None:
    """Read, unpack and import the files of a folder."""
    files = sorted(folder.glob("*_feats/*.npz"))
    total = sum(file.stat().st_size for file in files) / 1e6
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(unpack, [files[:1]] * workers))  # processes are up
        rates = []
        for work in (read, unpack):
            began = time.perf_counter()
            list(pool.map(work, [files[start::workers] for start in range(workers)]))
            rates.append(total / (time.perf_counter() - began))
    with tempfile.TemporaryDirectory(dir=folder) as output:
        summary = import_features(
            ImportConfig(
                annotations=folder / "rows.jsonl",
                output=Path(output) / "features",
                video_dir=folder / "vid_feats",
                text_dir=folder / "txt_feats",
                sharding=ShardingConfig(videos=100),
                workers=workers,
            )
        )
    imported = total / summary.work_seconds
    print(f"{name}: {total:.0f} MB in {len(files)} files, {workers} workers")
    print(f"  bytes alone {rates[0]:.0f} MB/s, read by numpy {rates[1]:.0f} MB/s")
    print(
        f"  imported {imported:.0f} MB/s, {imported / rates[1]:.0%} of numpy's, "
        f"{summary.stored / summary.work_seconds:.0f} videos/s; written {summary.bytes / 1e6:.0f} "
        f"MB; workers were ready after {summary.start_seconds:.1f} s, not counted"
    )


def write(folder: Path, videos: int, save: Callable[..., None]) -> None:
    """One query a video."""
    random = np.random.default_rng(0)
    video = random.normal(size=(75, 5, 768)).astype(np.float16)
    text = random.normal(size=(5, 12, 1024)).astype(np.float16)
    for name in ("vid_feats", "txt_feats"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as rows:
        for number in range(videos):
            row = {"qid": number, "query": "something", "vid": f"v{number}", "duration": 150}
            rows.write(json.dumps(row) + "\n")
            if not (folder / "txt_feats" / f"{number}.npz").exists():
                target = folder / "vid_feats" / f"v{number}.npz"
                save(target, visual_feats_interm_pooled=video)
                save(folder / "txt_feats" / f"{number}.npz", text_feats=text)


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


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
