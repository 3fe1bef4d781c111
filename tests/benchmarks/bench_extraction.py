"""How near is extraction to the best that its work allows, and is its memory flat?

    python -m tests.benchmarks.bench_extraction speed data/quickstart/videos --count 100
    python -m tests.benchmarks.bench_extraction memory

`speed`: processor seconds of decoding the videos alone plus those of encoding them alone, divided
by the cores, are the ideal; the extraction of the same videos is timed in the same run. What Ray
and the workers take to start is told apart. `memory`: the largest memory of all processes (shared
pages counted once) with ten times the videos, and with a video ten times as long.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jsonargparse

from data_pipeline.encoding import EncoderConfig, FeatureEncoder
from data_pipeline.extraction import ExtractionConfig, extract
from data_pipeline.plan import ShardingConfig
from data_pipeline.shard_job import Progress, Summary
from data_pipeline.video import VideoFile, probe
from tests.data_pipeline.conftest import write_video

QUICKSTART = EncoderConfig(
    video_layers=(11, 12, 13, 14),
    video_options={"image_size": 128},
    text_layers=(2, 3, 4, 5),
    frames_per_clip=2,
    batch=4,
)


def speed(videos: Path, count: int = 100, cores: int = 2) -> None:
    """Compare the wall time of an extraction with the ideal.

    Args:
        videos: folder of videos
        count: how many of them to take
        cores: processors, and workers of the extraction
    """
    paths = sorted(videos.iterdir())[:count]
    encoder = FeatureEncoder(QUICKSTART)
    encoder.load()
    decode = encode = 0.0
    for path in paths:
        began = time.process_time()
        clips = VideoFile(path).clips(2.0, encoder.frames_per_clip, encoder.image_size)
        pieces = [(path, piece) for piece in clips]
        decoded = time.process_time()
        list(encoder.encode_clips([*pieces, (path, None)]))
        encode += time.process_time() - decoded
        decode += decoded - began
    ideal = (decode + encode) / cores
    print(f"{len(paths)} videos alone: decode {decode:.1f} s + encode {encode:.1f} s of processor")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        summary = run(Path(folder), videos, paths, cores, lambda _: watch.begin())
    watch.stop()
    wall = summary.work_seconds
    print(
        f"extraction: {wall:.1f} s on {cores} cores, {wall / ideal:.2f} x the ideal {ideal:.1f} s"
    )
    used = watch.processor / (decode + encode)
    print(f"processor time of all its processes: {watch.processor:.1f} s, {used:.2f} x that alone")
    print(f"workers were ready after {summary.start_seconds:.1f} s, not counted")
    print(f"encoders busy {summary.encoder_utilisation:.0%}, load {os.getloadavg()[0]:.1f}")


def memory(short: int = 100, minutes: int = 6, workers: int = 2) -> None:
    """Compare the largest memory of small and of ten times larger extractions.

    Args:
        short: number of short videos, then ten times as many
        minutes: length of a long video, then ten times as long
        workers: workers of the extraction
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name, number, frames in (
            (f"{short} videos of 2 s", short, 4),
            (f"{10 * short} videos of 2 s", 10 * short, 4),
            (f"one video of {minutes} minutes", 1, 2 * 60 * minutes),
            (f"one video of {10 * minutes} minutes", 1, 20 * 60 * minutes),
        ):
            videos = base / name.replace(" ", "-")
            videos.mkdir()
            first = write_video(videos / "v0.mp4", frames=frames, rate=2, g="20")
            for other in range(1, number):
                (videos / f"v{other}.mp4").hardlink_to(first)
            watch = Watch()
            summary = run(base / f"out-{videos.name}", videos, sorted(videos.iterdir()), workers)
            watch.stop()
            print(f"{name}: {summary.clips} clips, at most {watch.memory / 2**20:.0f} MiB")


def run(
    folder: Path,
    videos: Path,
    paths: list[Path],
    workers: int,
    report: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Extract `paths`, a query each."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"qid": n, "query": f"thing {n}", "vid": path.stem, "duration": probe(path).duration}
        for n, path in enumerate(paths)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = ExtractionConfig(
        annotations=folder / "rows.jsonl",
        videos=videos,
        output=folder / "features",
        encoder=QUICKSTART,
        sharding=ShardingConfig(videos=8),
        workers=workers,
    )
    return extract(config, report)


class Watch:
    """Watches this process and all that it starts: memory in bytes, pages that several processes
    share divided among them, at most; processor seconds since `begin`."""

    def __init__(self) -> None:
        self.memory = 0
        self.processor = 0.0
        self._mark = f"SDST_BENCH={time.time()}"
        os.environ["SDST_BENCH"] = self._mark.partition("=")[2]  # inherited
        self._begin_asked = False
        self._before: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def begin(self) -> None:
        """Count processor time from now on."""
        self._begin_asked = True

    def stop(self) -> None:
        """The figures are final after this."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: dict[str, float] = {}
        while not self._ended.wait(0.25):
            memory = 0
            for process in [Path("/proc/self"), *Path("/proc").glob("[0-9]*")]:
                try:
                    if process.name == "self" or self._is_ours(process):
                        memory += proportional(process)
                        seen[process.name] = processor(process)
                except OSError:  # it has ended, or is another user's
                    continue
            self.memory = max(self.memory, memory)
            if self._begin_asked and not self._before:
                self._before = dict(seen)
            self.processor = sum(t - self._before.get(name, 0.0) for name, t in seen.items())

    def _is_ours(self, process: Path) -> bool:
        return self._mark.encode() in (process / "environ").read_bytes()


def proportional(process: Path) -> int:
    """Bytes of a process, pages that several share divided among them."""
    for line in (process / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def processor(process: Path) -> float:
    """Seconds of processor time that a process has used."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli([speed, memory]))
