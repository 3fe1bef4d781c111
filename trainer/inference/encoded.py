"""How is an encoded video kept, so that it need not be decoded again?

In a safetensors file: the features, and what they were made with, without which they mean nothing.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data_pipeline.errors import InputError
from data_pipeline.extraction.encoding import VideoFeatures
from data_pipeline.features.shards import Provenance
from data_pipeline.output import write_bytes
from data_pipeline.untrusted import parse_json, reading

FORMAT = "sdst video 1"
ENCODE = "encode the video again"


def save_video(path: Path, video: VideoFeatures, made_with: Provenance) -> None:
    """Write features; the file appears complete or not at all."""
    about = {
        "format": FORMAT,
        "duration": json.dumps(video.duration),
        "clip_length": json.dumps(video.clip_length),
        "made_with": json.dumps(asdict(made_with)),
    }
    arrays = {"features": video.features, "joint": video.joint}
    kept = {name: np.ascontiguousarray(a) for name, a in arrays.items() if a is not None}
    write_bytes(path, save(kept, about))


def load_video(path: Path, encoder: Provenance, shape: tuple[int, int]) -> VideoFeatures:
    """The features in a file of `save_video`, made as `encoder` makes them; `shape` is (K, Dv).

    Raises InputError for others.
    """
    with reading(path, ENCODE):
        try:
            with safe_open(path, framework="np") as file:
                about = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path}: is no encoded video ({error}); {ENCODE}") from error
        if about.get("format") != FORMAT or "features" not in arrays:
            raise InputError(f"{path}: is no encoded video; {ENCODE}")
        told = {name: parse_json(about[name], path) for name in ("duration", "clip_length")}
        made_with = Provenance.from_json(parse_json(about["made_with"], path))
        if differing := encoder.differences(made_with):
            raise InputError(f"{path}: was encoded by other encoders ({differing[0]}); {ENCODE}")
        features, joint = arrays["features"], arrays.get("joint")
        duration, length = float(told["duration"]), float(told["clip_length"])
        if not (0 < duration < math.inf and 0 < length < math.inf):
            raise ValueError(f"lasts {duration} s in clips of {length} s")
        if features.ndim != 3 or not len(features) or features.shape[1:] != shape:
            raise ValueError(f"features {features.shape}, expected (L, {shape[0]}, {shape[1]})")
        if joint is not None and (joint.ndim != 2 or len(joint) != len(features)):
            raise ValueError(f"vectors {joint.shape} of {len(features)} clips")
        for array in arrays.values():
            if array.dtype != np.float16 or not np.isfinite(array).all():
                raise ValueError("values that no encoder writes")
    return VideoFeatures(features, duration, length, joint)
