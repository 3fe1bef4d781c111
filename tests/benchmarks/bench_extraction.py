"""How near is extraction to the best that its work allows, and is its memory flat?

    python -m tests.benchmarks.bench_extraction speed data/quickstart/videos
    python -m tests.benchmarks.bench_extraction speed data/quickstart/videos --tars true
    python -m tests.benchmarks.bench_extraction memory
    python -m tests.benchmarks.bench_extraction memory_of_tars
    python -m tests.benchmarks.bench_extraction listing

`speed`: processor seconds of decoding the videos alone plus those of encoding them alone, divided
by the cores, are the ideal; the extraction of the same videos is timed in the same run. Beside it
stands what the cores give when each of them decodes and encodes its part at the same time, without
Ray: they share caches and memory. What Ray and the workers take to start is told apart. `memory`:
the largest memory of all processes (shared pages counted once) with ten times the videos, and with
a video ten times as long; `memory_of_tars` with a tar of ten times the videos. With `--tars true`
the same videos lie in tars of eight. `listing`: seconds to list and plan an archive of many files.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jsonargparse

from data_pipeline.config import EncoderConfig, ExtractionConfig, ShardingConfig
from data_pipeline.extraction.archive import ArchivePlan
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.extraction import extract
from data_pipeline.extraction.job import Progress, Summary
from data_pipeline.extraction.ray_session import WORKER_ENVIRONMENT
from data_pipeline.video.video import VideoFile, probe
from tests.data_pipeline.conftest import write_video
from tests.data_pipeline.extraction.archives import write_tar

QUICKSTART = EncoderConfig(
    video_layers=(11, 12, 13, 14),
    video_options={"image_size": 128},
    text_layers=(2, 3, 4, 5),
    frames_per_clip=2,
    batch=4,
)


def speed(videos: Path, count: int = 280, cores: int = 2, tars: bool = False) -> None:
    """Compare the wall time of an extraction with the ideal.

    Args:
        videos: folder of videos
        count: how many of them to take
        cores: processors, and workers of the extraction
        tars: extract the videos from tars, with a caption each
    """
    paths = sorted(videos.iterdir())[:count]
    ((decode, encode, _),) = alone([paths])
    ideal = (decode + encode) / cores
    print(f"{len(paths)} videos alone: decode {decode:.1f} s + encode {encode:.1f} s of processor")
    parts = alone([paths[core::cores] for core in range(cores)])
    without_ray = max(wall for *_, wall in parts)
    at_once = sum(decode + encode for decode, encode, _ in parts) / (decode + encode)
    print(
        f"{cores} processes at once, without Ray: {without_ray:.1f} s, "
        f"{at_once:.2f} x the processor time"
    )
    watch = Watch(memory=False)
    with tempfile.TemporaryDirectory() as folder:
        summary = run(
            # Processor time counts from when a worker is ready, as the wall time does.
            *(Path(folder), videos, paths, cores),
            lambda progress: watch.begin() if progress.seconds else None,
            tars,
        )
    watch.stop()
    wall = summary.work_seconds
    print(
        f"extraction: {wall:.1f} s on {cores} cores, {wall / ideal:.2f} x the ideal {ideal:.1f} s, "
        f"{wall / without_ray:.2f} x without Ray; {summary.clips_per_second:.0f} clips/s"
    )
    used = watch.processor / (decode + encode)
    print(f"processor time of all its processes: {watch.processor:.1f} s, {used:.2f} x that alone")
    print(f"workers were ready after {summary.start_seconds:.1f} s, not counted")
    print(f"encoders busy {summary.encoder_utilisation:.0%}, load {os.getloadavg()[0]:.1f}")


def alone(parts: list[list[Path]]) -> list[tuple[float, float, float]]:
    """Processor seconds of decoding and of encoding, and seconds, of a process for each part.

    They run at once, with the environment that extraction gives its workers.
    """
    program = [sys.executable, "-m", "tests.benchmarks.bench_extraction", "plain"]
    environment = os.environ | WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([*program, json.dumps([*map(str, part)])], env=environment, stdout=-1)
        for part in parts
    ]
    return [tuple(json.loads(process.communicate()[0])) for process in running]


def plain(paths: list[Path]) -> None:
    """Decode and encode videos one after another in this process, for `speed`.

    Args:
        paths: the videos
    """
    encoder = FeatureEncoder(QUICKSTART)
    encoder.load()
    decode = encode = 0.0
    start = time.perf_counter()
    for path in paths:
        began = time.process_time()
        clips = VideoFile(path).clips(2.0, encoder.frames_per_clip, encoder.image_size)
        pieces = [(path, piece) for piece in clips]
        decoded = time.process_time()
        list(encoder.encode_clips([*pieces, (path, None)]))
        encoder.encode_text([f"thing {path}"])
        encode += time.process_time() - decoded
        decode += decoded - began
    print(json.dumps([decode, encode, time.perf_counter() - start]))


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
            watch = Watch(memory=True)
            summary = run(base / f"out-{videos.name}", videos, sorted(videos.iterdir()), workers)
            watch.stop()
            print(f"{name}: {summary.clips} clips, at most {watch.memory / 2**20:.0f} MiB")


def memory_of_tars(short: int = 100, workers: int = 1) -> None:
    """Compare the largest memory of a tar of some videos and of one of ten times as many.

    Args:
        short: number of videos of 2 s, each filled up to half a megabyte
        workers: workers of the extraction
    """
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        video = write_video(base / "v.mp4", frames=4, rate=2).read_bytes()
        video += bytes(500_000 - len(video))  # FFmpeg passes over what follows the last box
        for number in (short, 10 * short):
            tars = base / f"tars-{number}"
            tars.mkdir()
            write_tar(tars / "0.tar", [(f"{n:06d}.mp4", video) for n in range(number)])
            watch = Watch(memory=True)
            summary = extract(
                ExtractionConfig(
                    videos=tars, output=base / f"out-{number}", encoder=QUICKSTART, workers=workers
                )
            )
            watch.stop()
            size = (tars / "0.tar").stat().st_size / 1e6
            print(
                f"a tar of {size:.0f} MB, {summary.stored} videos: {summary.clips} clips, at most "
                f"{watch.memory / 2**20:.0f} MiB"
            )


def listing(files: int = 100_000, folders: int = 1000) -> None:
    """Time the listing of an archive on a local disk, and the plan of its shards.

    Args:
        files: empty files named as videos
        folders: folders that they lie in
    """
    with tempfile.TemporaryDirectory() as name:
        top = Path(name) / "top"
        for number in range(files):
            folder = top / f"{number % folders:04d}"
            if number < folders:
                folder.mkdir(parents=True)
            (folder / f"{number:06d}.mp4").touch()
        began = time.perf_counter()
        plan = ArchivePlan(ExtractionConfig(videos=top, output=Path(name) / "out"))
        listed = time.perf_counter()
        (Path(name) / "out").mkdir()
        shards = plan.shards()
        print(
            f"{len(plan.listing.found)} files in {folders} folders: listed in "
            f"{listed - began:.1f} s, planned as {len(shards)} shards in "
            f"{time.perf_counter() - listed:.1f} s, load {os.getloadavg()[0]:.1f}"
        )


def run(
    folder: Path,
    videos: Path,
    paths: list[Path],
    workers: int,
    report: Callable[[Progress], None] = lambda _: None,
    tars: bool = False,
) -> Summary:
    """Extract `paths`, a query each."""
    folder.mkdir(exist_ok=True)
    if tars:
        (folder / "tars").mkdir()
        for first in range(0, len(paths), 8):
            members = []
            for n, path in enumerate(paths[first : first + 8], first):
                members += [(f"{n:06d}{path.suffix}", path.read_bytes())]
                members += [(f"{n:06d}.txt", f"thing {n}".encode())]
            write_tar(folder / "tars" / f"{first:06d}.tar", members)
        packed = ExtractionConfig(
            videos=folder / "tars",
            captions=True,
            output=folder / "features",
            encoder=QUICKSTART,
            workers=workers,
        )
        return extract(packed, report)
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
    share divided among them, at most; processor seconds since `begin`. To add up the memory takes
    processor time itself."""

    def __init__(self, memory: bool) -> None:
        self._add_up = memory
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
        while not self._ended.wait(0.25 if self._add_up else 1.0):
            memory = 0
            for process in [Path("/proc/self"), *Path("/proc").glob("[0-9]*")]:
                try:
                    if process.name == "self" or self._is_ours(process):
                        memory += proportional(process) if self._add_up else 0
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
    sys.exit(jsonargparse.auto_cli([speed, memory, memory_of_tars, listing, plain]))
