"""What does it cost to know which frames a video shows, beside taking its packets for them?

    python -m tests.benchmarks.bench_decoding data/quickstart/videos

The baseline is what extraction did before it knew better: a packet is a frame, shown at its
presentation time. It lists the packets, looks at the first frame for its rotation, and decodes what
is asked for, skipping what nothing refers to. Each video is decoded by both, one right after the
other, in turns that begin with either; the pixels must be the same. Told is the processor time of
all videos of each round, and the middle of the rounds' ratios.
"""

import bisect
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import jsonargparse
import numpy as np
from av.video.reformatter import Interpolation

from data_pipeline.video.names import is_video
from data_pipeline.video.video import VideoFile, clip_count

CLIP, FRAMES, SIZE = 2.0, 2, 128
"""Seconds of a clip, its frames, and their sides: what the quick start extracts."""


LIMIT = 600.0
"""Seconds that decoding a video may take."""


def plain(path: Path) -> list[np.ndarray]:
    """The clips of a video, pieces (n, T, H, W, 3), of whose packets each is taken for a frame."""
    stamps, keys, end, others_end = [], [], 0, 0.0
    with opened(path) as container:
        stream = container.streams.video[0]
        begin, base = container.start_time / av.time_base, float(stream.time_base)
        for packet in container.demux():
            if packet.size == 0 or packet.pts is None:
                continue
            if packet.stream_index != stream.index:
                ends = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                others_end = max(others_end, ends)
                continue
            if packet.is_discard:
                continue
            if packet.is_keyframe:
                keys.append((packet.pts, min(packet.pts, packet.dts)))
            if packet.pts >= keys[0][0]:
                stamps.append(packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
    with opened(path) as container:
        turns = round(next(container.decode(video=0)).rotation / 90)
    stamps.sort()
    times = [stamp * base - begin for stamp in stamps]
    count = clip_count(end * base - begin, CLIP) * FRAMES
    shown = [
        max(0, bisect.bisect_right(times, (place + 0.5) * CLIP / FRAMES + 1e-6) - 1)
        for place in range(count)
    ]
    pictures = dict(decoded(path, {stamps[index] for index in shown}, turns))
    clips = np.stack([pictures[stamps[index]] for index in shown])
    return [clips.reshape(-1, FRAMES, SIZE, SIZE, 3)]


def opened(path: Path) -> Any:
    container = av.open(str(path))
    container.streams.video[0].codec_context.thread_count = 1
    return container


def decoded(path: Path, wanted: set[int], turns: int) -> Iterator[tuple[int, np.ndarray]]:
    with opened(path) as container:
        stream = container.streams.video[0]
        left, began = set(wanted), time.monotonic()
        for packet in container.demux(stream):
            skip = packet.size > 0 and packet.pts not in left
            stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
            for frame in packet.decode():
                if frame.pts in left:
                    left.remove(frame.pts)
                    small = frame.reformat(
                        SIZE, SIZE, "rgb24", interpolation=Interpolation.BICUBIC, threads=1
                    )
                    yield frame.pts, np.ascontiguousarray(np.rot90(small.to_ndarray(), turns))
            if not left or time.monotonic() - began > LIMIT:
                return


def ours(path: Path) -> list[np.ndarray]:
    """The same clips as extraction decodes them."""
    return list(VideoFile(path).clips(CLIP, FRAMES, SIZE))


def main(videos: Path, count: int = 60, rounds: int = 5) -> float:
    """Compare, print, and return the middle ratio of processor times.

    Args:
        videos: folder of videos
        count: how many of them to take
        rounds: times that all are decoded
    """
    paths = sorted(path for path in videos.iterdir() if is_video(path.name))[:count]
    ratios = []
    for number in range(rounds):
        spent = {plain: 0.0, ours: 0.0}
        for place, path in enumerate(paths):
            ways = [plain, ours] if (number + place) % 2 else [ours, plain]
            clips = []
            for way in ways:
                began = time.process_time()
                pieces = way(path)
                spent[way] += time.process_time() - began
                clips.append(np.concatenate(pieces))
            assert np.array_equal(*clips), path
        ratios.append(spent[ours] / spent[plain])
        print(
            f"{len(paths)} videos: packets taken for frames {spent[plain]:.2f} s, "
            f"frames as the decoder shows them {spent[ours]:.2f} s, {ratios[-1]:.3f} x"
        )
    middle = statistics.median(ratios)
    print(f"the middle of {rounds} rounds: {middle:.3f} x")
    return middle


if __name__ == "__main__":
    jsonargparse.CLI(main)
