"""Tiny feature folders in the layouts of those who released features, one for each preset."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from data_pipeline.video.video import clip_count

VIDEOS = {"a_0": 12.0, "b1": 14.0, "c-2": 16.0}
"""Annotated seconds of each; every video has two queries."""

TOKENS = 5

Save = Callable[[Path, np.ndarray], Any]


def npz(key: str) -> Save:
    return lambda path, values: np.savez(path, **{key: values})


def pt(path: Path, values: np.ndarray) -> None:
    torch.save(torch.from_numpy(values), path)


def hdf5(path: Path, values: np.ndarray) -> None:
    """The path is that of the file, then of the data set in it."""
    file = next(parent for parent in path.parents if parent.suffix == ".hdf5")
    with h5py.File(file, "a") as opened:
        opened[str(path.relative_to(file))] = values


@dataclass(frozen=True)
class Layout:
    """Seconds of a row; pattern -> (width, writer) of each video stream and of the text."""

    seconds: float
    video: Mapping[str, tuple[int, Save]]
    text: tuple[str, int, Save]
    before: tuple[int, ...] = ()
    """Axes between rows and width."""
    text_before: tuple[int, ...] = ()
    """Axes before a query's tokens."""


FEATURES, HIDDEN = npz("features"), npz("last_hidden_state")
SLOWFAST_CLIP = {
    "slowfast_features/{vid}.npz": (14, FEATURES),
    "clip_features/{vid}.npz": (6, FEATURES),
}
WITH_PREFIX = ("clip_text_features/qid{qid}.npz", 6, HIDDEN)
WITHOUT = ("clip_text_features/{qid}.npz", 6, HIDDEN)
VGG = {"rgb_features/{vid}.npy": (10, np.save), "opt_features/{vid}.npy": (10, np.save)}

LAYOUTS = {
    "moment-detr": Layout(2.0, SLOWFAST_CLIP, WITH_PREFIX),
    "lighthouse": Layout(
        2.0,
        {"clip/{vid}.npz": (6, FEATURES), "slowfast/{vid}.npz": (14, FEATURES)},
        ("clip_text/qid{qid}.npz", 6, HIDDEN),
    ),
    "univtg": Layout(
        2.0,
        {"vid_slowfast/{vid}.npz": (14, FEATURES), "vid_clip/{vid}.npz": (6, FEATURES)},
        ("txt_clip/{qid}.npz", 6, HIDDEN),
    ),
    "flashvtg": Layout(
        2.0,
        {"qvhighlight_6b/{vid}.pt": (12, pt)},
        ("qvhighlight_llama_text_feature/qid{qid}.pt", 16, pt),
    ),
    "flashvtg-charades": Layout(
        1.0,
        {"charade_sta_6b/{vid}.pt": (12, pt)},
        ("charade_sta_llama_text_feature/qid{qid}.pt", 16, pt),
    ),
    "pann": Layout(2.0, SLOWFAST_CLIP | {"pann_features/{vid}.npy": (8, np.save)}, WITH_PREFIX),
    "lighthouse-pann": Layout(
        2.0,
        {
            "clip/{vid}.npz": (6, FEATURES),
            "slowfast/{vid}.npz": (14, FEATURES),
            "pann/{vid}.npy": (8, np.save),
        },
        ("clip_text/qid{qid}.npz", 6, HIDDEN),
    ),
    "charades-slowfast-clip": Layout(1.0, SLOWFAST_CLIP, WITH_PREFIX),
    "charades-vgg": Layout(1 / 6, VGG, WITH_PREFIX),
    "charades-vgg-glove": Layout(1 / 6, VGG, ("glove.6B.300d.txt", 3, np.save)),
    "tacos-slowfast-clip": Layout(2.0, SLOWFAST_CLIP, WITHOUT),
    "tacos-c3d": Layout(0.5, {"tall_c3d_features.hdf5/{vid}": (10, hdf5)}, WITHOUT),
    "activitynet-slowfast-clip": Layout(2.0, SLOWFAST_CLIP, WITH_PREFIX),
    "activitynet-c3d": Layout(
        0.32, {"sub_activitynet_v1-3.c3d.hdf5/{vid}/c3d_features": (10, hdf5)}, WITH_PREFIX
    ),
    "nlq-slowfast-bert": Layout(
        8 / 15, {"{vid}.npy": (2304, np.save)}, ("{qid}.npy", 768, np.save)
    ),
    "tvsum-i3d": Layout(
        2.0,
        {"{vid}_rgb.npy": (8, np.save), "{vid}_opt.npy": (8, np.save)},
        ("query_features/{vid}.npz", 6, npz("token")),
    ),
    "youtube-slowfast-clip": Layout(
        1.0,
        {"vid_clip/{vid}.npz": (6, FEATURES), "vid_slowfast/{vid}.npz": (14, FEATURES)},
        ("txt_clip/{vid}.npz", 6, HIDDEN),
    ),
    "universalvtg": Layout(0.5, {"{vid}.pt": (1024, pt)}, ("{qid}.pt", 1024, pt)),
    "sdst": Layout(
        2.0,
        {"vid_feats/{vid}.npz": (12, npz("visual_feats_interm_pooled"))},
        ("txt_feats/{qid}.npz", 16, npz("text_feats")),
        before=(5,),
        text_before=(5,),
    ),
    "r2-tuning": Layout(
        2.0,
        {"vid_feats/{vid}.npy": (12, np.save)},
        ("txt_feats/{qid}.npy", 16, np.save),
        before=(4, 3),
    ),
}


def rows() -> list[dict[str, Any]]:
    """Two queries of each video, about its beginning and its end."""
    found: list[dict[str, Any]] = []
    for vid, duration in VIDEOS.items():
        for window in ([0, 4], [duration - 5, duration]):
            row = {"qid": len(found), "query": "the dog runs", "vid": vid, "duration": duration}
            found.append(row | {"relevant_windows": [window]})
    return found


def write(folder: Path, name: str, given: list[dict[str, Any]] | None = None) -> Path:
    """The feature files of a layout and annotations.jsonl beside them; returns the latter."""
    layout, random = LAYOUTS[name], np.random.default_rng(0)
    given = rows() if given is None else given

    def save(pattern: str, row: dict[str, Any], save: Save, shape: tuple[int, ...]) -> None:
        path = folder / pattern.format(vid=row["vid"], qid=row["qid"])
        if save is not hdf5:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
        save(path, random.normal(size=shape).astype(np.float16).astype(np.float32))

    for row in {row["vid"]: row for row in given}.values():
        count = clip_count(row["duration"], layout.seconds)
        for number, (pattern, (width, writer)) in enumerate(layout.video.items()):
            # As in the released sets, streams differ by a row or so.
            save(pattern, row, writer, (count + number, *layout.before, width))
    pattern, width, writer = layout.text
    if pattern.endswith(".txt"):
        (folder / pattern).write_text("the 1 0 2\ndog 1 1 1\nruns 0 3 4\n")
    else:
        between = (4,) if name == "r2-tuning" else ()
        for row in given:
            save(pattern, row, writer, (*layout.text_before, TOKENS, *between, width))
    path = folder / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    return path
