"""How fast are released features imported, beside reading the bytes alone?

    python -m tests.benchmarks.bench_import --videos 2000

Writes files as SDST released them, of QVHighlights' sizes (75 clips, 5 layers of 768; a query of 12
tokens, 5 layers of 1024; float16, uncompressed), reads their bytes alone with as many processes as
there are cores, and imports them. Ray's start is told apart.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jsonargparse
import numpy as np

from data_pipeline.importing import ImportConfig, import_features
from data_pipeline.plan import ShardingConfig


def main(
    folder: Path = Path("/tmp/sdst-bench-import"), videos: int = 2000, workers: int = 2
) -> None:
    """Print MB of released files per second, read alone and imported."""
    write(folder, videos)
    files = sorted(folder.glob("*_feats/*.npz"))
    total = sum(file.stat().st_size for file in files) / 1e6
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(read, [files[:1]] * workers))  # processes are up
        began = time.perf_counter()
        list(pool.map(read, [files[start::workers] for start in range(workers)]))
        alone = time.perf_counter() - began
    print(f"{total:.0f} MB in {len(files)} files; bytes alone: {total / alone:.0f} MB/s")
    summary = import_features(
        ImportConfig(
            annotations=folder / "rows.jsonl",
            output=folder / f"features-{time.time():.0f}",
            video_dir=folder / "vid_feats",
            text_dir=folder / "txt_feats",
            sharding=ShardingConfig(videos=100),
            workers=workers,
        )
    )
    seconds = summary.work_seconds
    print(f"imported: {total / seconds:.0f} MB/s, {summary.stored / seconds:.0f} videos/s")
    print(f"workers were ready after {summary.start_seconds:.1f} s, not counted")


def write(folder: Path, videos: int) -> None:
    """One query a video; files that are there already are kept."""
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
                np.savez(target, visual_feats_interm_pooled=video)
                np.savez(folder / "txt_feats" / f"{number}.npz", text_feats=text)


def read(files: list[Path]) -> int:
    """Read the bytes and nothing else."""
    return sum(len(file.read_bytes()) for file in files)


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(main))
