"""What does a clip cost with CLIP-like encoders, and how soon does the first one answer?

    python -m tests.benchmarks.bench_clip clips
    python -m tests.benchmarks.bench_clip cold

Random weights in the shapes of the published checkpoints: no weights are needed. `clips`: seconds
of processor for a clip of one frame through the picture tower, the last four layers pooled, in the
batches of configs/extract/, and the memory of the process. `cold`: `launch.predict --model
zero-shot` on a video of 60 s as a new process does it, by part.
"""

import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jsonargparse

CLIP = {
    "model_type": "clip",
    "projection_dim": 512,
    "vision_config": {"model_type": "clip_vision_model", "patch_size": 32},
    "text_config": {"model_type": "clip_text_model"},
}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
SHAPES: dict[str, Any] = {
    "clip_b32": CLIP,
    "clip_l14": {
        "model_type": "clip",
        "projection_dim": 768,
        "vision_config": {"patch_size": 14, "num_attention_heads": 16, **LARGE},
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    },
    "siglip2_b16": {
        "model_type": "siglip",
        "vision_config": {"patch_size": 16, "image_size": 224},
        "text_config": {"vocab_size": 256000},
    },
}
"""What differs from the library's defaults, which are CLIP B/32's and SigLIP B/16's."""

NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def clips(shapes: tuple[str, ...] = tuple(SHAPES), batches: int = 4, batch: int = 8) -> None:
    """Time the picture towers, a process each.

    Args:
        shapes: which of them
        batches: how many batches are timed, after one that is not
        batch: clips of a batch
    """
    for name in shapes:
        program = [sys.executable, "-m", "tests.benchmarks.bench_clip", "one", name]
        subprocess.run([*program, str(batches), str(batch)], check=True)


def one(name: str, batches: int, batch: int) -> None:
    """Time one picture tower in this process, for `clips`.

    Args:
        name: its shape
        batches: as there
        batch: as there
    """
    import torch

    from model.backbones import video_encoder

    torch.set_num_threads(1)
    encoder = video_encoder("clip", config=SHAPES[name], preprocessor=NORMAL)
    size = encoder.image_size
    frames = torch.randn(batch, 3, 1, size, size)
    layers = range(encoder.depth - 4, encoder.depth)
    with torch.inference_mode():
        encoder(frames, layers)
        began = time.process_time()
        for _ in range(batches):
            encoder(frames, layers)
        seconds = (time.process_time() - began) / (batches * batch)
        began = time.process_time()
        for _ in range(batches):
            encoder(frames, [encoder.depth - 1])
        single = (time.process_time() - began) / (batches * batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name}: {1000 * seconds:.0f} ms of processor a clip, {seconds / single:.2f} x that of "
        f"the last layer alone; at most {peak:.1f} GiB"
    )


def cold(seconds: int = 60) -> None:
    """Time the parts of an answer without training, in a new process.

    Args:
        seconds: length of the video, 320 x 240 at 25 frames a second
    """
    from tests.clip_checkpoints import tokenizer
    from tests.data_pipeline.conftest import write_video

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        import torch
        from transformers import AutoConfig, AutoModel

        settings = {key: value for key, value in CLIP.items() if key != "model_type"}
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model("clip", **settings)).save_pretrained(folder)
        crop = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True}
        (folder / "preprocessor_config.json").write_text(json.dumps(NORMAL | crop))
        (folder / "tokenizer.json").write_text(tokenizer())
        video = write_video(folder / "v.mp4", frames=25 * seconds, rate=25, size=(320, 240))
        (folder / "b32.yaml").write_text(
            "encoder: {video: clip, text: clip, threads: 2, batch: 8, "
            f"checkpoint: {folder}, clip_length: 2.0, frames_per_clip: 1}}"
        )
        command = [sys.executable, "-m", "launch.predict", str(video), "a dog runs"]
        command += ["--model", "zero-shot", "--encoder", str(folder / "b32.yaml")]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"the command, from start to end: {time.perf_counter() - began:.1f} s")
        program = [sys.executable, "-m", "tests.benchmarks.bench_clip", "parts"]
        subprocess.run([*program, str(video), str(folder / "b32.yaml")], check=True)


def parts(video: Path, settings: Path) -> None:
    """Answer in this process and tell the parts, for `cold`.

    Args:
        video: the video
        settings: YAML file of the encoder
    """
    marks = [("", time.perf_counter(), time.process_time())]

    def mark(what: str) -> None:
        marks.append((what, time.perf_counter(), time.process_time()))

    from trainer import ZeroShotGrounder

    mark("imports of ours and torch")
    import transformers  # noqa: F401

    grounder = ZeroShotGrounder.from_encoder(settings, "cpu")
    mark("transformers, and the towers without weights")
    grounder.encoder.load()
    mark("weights")
    from data_pipeline.video.video import VideoFile

    shape = (2.0, 1, grounder.encoder.image_size)
    list(VideoFile(video).clips(*shape, crop=grounder.encoder.crop))
    mark("decoding alone")
    encoded = grounder.encode(video)
    mark("decoding and encoding")
    grounder.predict(encoded, "a dog runs")
    mark("the sentence and its windows")
    for (_, *before), (what, *after) in itertools.pairwise(marks):
        wall, busy = (a - b for a, b in zip(after, before, strict=True))
        print(f"  {wall:5.2f} s, {busy:5.2f} s of processor: {what}")


if __name__ == "__main__":
    sys.exit(jsonargparse.auto_cli([clips, cold, one, parts]))
