"""What the parts of `everything` work on: pairs of QVHighlights' shape, or videos and a tower.

python -m tests.gpu.generated --folder F --pairs 2048                      (F/train)
python -m tests.gpu.generated --folder F --videos 24 --seconds 30 [--tower true]  (F/extract.yaml)

Everything is invented: features hold a faint trace of the windows, the tower's weights are random.
"""

import sys
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from safetensors.torch import save_file

from data_pipeline.annotations import Annotation
from data_pipeline.output import write_text
from model.backbones.internvideo2 import InternVideo2
from model.config import InternVideo2Config
from tests.benchmarks.generated_features import FeatureConfig, generate
from tests.data_pipeline.conftest import write_video

WORDS = ("cat", "dog", "man", "woman", "child", "car", "boat", "tree", "street", "river", "house")

EXTRACT = """\
videos: {folder}/videos
output: {folder}/features
gpus: {gpus}
encoder:
{encoder}
"""
SMALL = """\
  video: efficientnet-lite0
  video_layers: [11, 12, 13, 14]
  video_options: {image_size: 128}
  frames_per_clip: 2
  batch: 4"""
TOWER = """\
  video: internvideo2-1b
  video_layers: [-4, -3, -2, -1]
  video_weights: {folder}/vision.safetensors
  frames_per_clip: 4
  arithmetic: bfloat16
  batch: 32"""


def make(
    folder: Path, pairs: int = 0, videos: int = 0, seconds: int = 30, tower: bool = False
) -> None:
    """Write what is asked for.

    Args:
        folder: where
        pairs: videos of 150 s with a sentence each, as features
        videos: files of 1280 x 720 pixels, 30 pictures a second
        seconds: of each
        tower: take InternVideo2-1B's vision tower, with random weights, and a GPU
    """
    folder.mkdir(parents=True, exist_ok=True)
    if pairs:
        rows = [row(number) for number in range(pairs)]
        features = generate(rows, folder / "train", "train", FeatureConfig(layers=4))
        print(f"{features.folder}: {features.pairs} pairs")
    if videos:
        (folder / "videos").mkdir(exist_ok=True)
        first = write_moving(folder / "videos" / "video_000.mp4", seconds)
        for number in range(1, videos):
            (folder / "videos" / f"video_{number:03d}.mp4").write_bytes(first.read_bytes())
        if tower:
            save_tower(folder / "vision.safetensors")
        encoder = TOWER.format(folder=folder) if tower else SMALL
        text = EXTRACT.format(folder=folder, encoder=encoder, gpus=1 if tower else 0)
        write_text(folder / "extract.yaml", text)
        print(f"{folder}: {videos} videos of {seconds} s, {first.stat().st_size / 1e6:.1f} MB each")


def row(number: int) -> Annotation:
    """A sentence of some 12 words about one window of a video of 150 s."""
    random = np.random.default_rng(number)
    start = 2 * int(random.integers(0, 60))
    end = min(150, start + 2 * int(random.integers(1, 30)))
    query = " ".join(random.choice(WORDS, int(random.integers(6, 20))))
    clips = dict.fromkeys(range(start // 2, end // 2), (3.0, 3.0, 4.0))
    window = ((float(start), float(end)),)
    return Annotation(number, query, f"video{number}", 150.0, window, clips)


def write_moving(path: Path, seconds: int) -> Path:
    """A video whose picture moves, so that it costs what real ones cost to decode."""
    random = np.random.default_rng(0)
    wall = random.integers(0, 255, (90, 320, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return write_video(
        path,
        frames=30 * seconds,
        rate=30,
        size=(1280, 720),
        picture=lambda n: wall[:, 4 * n % 1280 : 4 * n % 1280 + 1280],
        preset="veryfast",
    )


def save_tower(path: Path) -> None:
    """Random weights of InternVideo2-1B's vision tower, 2 GB, under the published names."""
    with torch.device("meta"):
        encoder = InternVideo2(InternVideo2Config())
    weights = {
        name: torch.empty(value.shape, dtype=torch.bfloat16).normal_(std=0.02)
        for name, value in encoder.state_dict().items()
    }
    save_file(weights, path)


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli(make, as_positional=False))
