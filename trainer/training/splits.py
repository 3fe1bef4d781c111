"""Which features does this rank read, and does the model fit them?"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from accelerate import Accelerator

from data_pipeline.annotations import Annotation, doubts
from data_pipeline.config import DataConfig
from data_pipeline.errors import InputError
from data_pipeline.features.opening import OPENED_AT_ONCE
from data_pipeline.features.samples import parse_details
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.stream import PairStream
from model.config import ModelConfig
from trainer.config import Config
from trainer.training.provenance import part_of


def open_split(
    folder: str, config: Config, accelerator: Accelerator, held_out: bool = True
) -> PairStream:
    """This rank's stream over feature shards; InputError where the model cannot read them.

    Of data.fold it is the part that is `held_out`, or the others.
    """
    features = FeatureSet(folder, config.data.skip_damaged)
    check_model_fits(config.model, features)
    if config.data.domain is not None or config.data.fold is not None:
        keep_part(features, config.data, held_out)
    return PairStream(
        features,
        config.data,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device,
    )


def keep_part(features: FeatureSet, data: DataConfig, held_out: bool) -> None:
    """Leave of a set the videos of data.domain, and of these those in data.fold, or not in it.

    Videos of each domain are dealt in the order of the SHA-256 of their ids: the same parts,
    however a set stores them. Raises InputError where nothing is left.
    """
    domains: dict[str, str | None] = {}
    with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
        stored = threads.map(lambda i: _annotations(features, i), range(len(features.samples)))
        for entry, rows in zip(features.samples, stored, strict=True):
            domains[entry.vid] = rows[0].domain if rows else None
    known = sorted({domain for domain in domains.values() if domain is not None})
    if data.domain is not None and data.domain not in known:
        there = ", ".join(known) or "none: rows have no key domain"
        raise InputError(f"{features.folder}: has no domain {data.domain!r}; there are {there}")
    kept: set[str] = set()
    for domain in dict.fromkeys(domains.values()):
        vids = [vid for vid, its in domains.items() if its == domain]
        if data.domain is None or domain == data.domain:
            vids.sort(key=lambda vid: hashlib.sha256(vid.encode()).digest())
            parts = [place % data.folds for place in range(len(vids))]
            kept |= {
                vid
                for vid, part in zip(vids, parts, strict=True)
                if data.fold is None or (part == data.fold) == held_out
            }
    left = [row for row, entry in enumerate(features.samples) if entry.vid in kept]
    features.keep(np.array(left, np.int64))
    if not left:
        raise InputError(
            f"{features.folder}: {part_of(data)}: holds no video; there are fewer than data.folds"
        )


def check_model_fits(model: ModelConfig, features: FeatureSet) -> None:
    """Raise InputError unless the features have the widths and the layers that the model reads."""
    features.check_widths(model.video_width, model.text_width)
    stored = features.video_shape[0]
    if not all(-stored <= layer < stored for layer in model.layers):
        raise InputError(
            f"{features.folder}: features have {stored} layers, model.layers is "
            f"{list(model.layers)}; use indices from {-stored} to {stored - 1}"
        )


def check_selection(selection: FeatureSet, config: Config) -> None:
    """Raise InputError where models would be chosen on the split that results are reported on."""
    if selection.split == "test" and not config.eval.select_on_test:
        raise InputError(
            f"{selection.folder}: is a test split, and choosing a model on it makes its score "
            "worthless; give data.selection a held-out split, or, where the field has none, set "
            "eval.select_on_test true: every result will say so"
        )
    same = config.data.selection == config.data.report
    if config.data.fold is not None and same and not config.eval.select_on_test:
        raise InputError(
            f"{selection.folder}: the fold that is held out would choose the model that it judges; "
            "set data.selection null, which keeps the last epoch, or, as others do, "
            "eval.select_on_test true: every result will say so"
        )


LOOKED_AT = 500
"""Videos whose annotations are looked at when training starts: more would take its time."""


def doubts_of(features: FeatureSet, existence: bool = False) -> list[str]:
    """What the annotations of a training set hardly mean, counted, a line for each kind.

    Where `existence` is judged, an empty list of windows means that the video does not show it.
    """
    count = len(features.samples)
    looked_at = range(0, count, -(-count // LOOKED_AT)) if count else ()
    rows = annotations_of(features, looked_at)
    pairs = "training pairs" + (" that were looked at" if len(looked_at) < count else "")
    bare = sum(row.windows is None if existence else not row.windows for row in rows)
    have = "has" if bare == 1 else "have"
    lines = [
        f"{bare} of {len(rows)} {pairs} {have} no window: nothing is learned of where they are"
    ]
    return lines * bool(bare) + [line.replace(" rows ", f" {pairs} ", 1) for line in doubts(rows)]


def annotations_of(features: FeatureSet, samples: Iterable[int]) -> list[Annotation]:
    """The rows of stored videos, by one small read each."""
    with ThreadPoolExecutor(OPENED_AT_ONCE) as threads:
        stored = threads.map(lambda index: _annotations(features, index), samples)
        return [row for of_video in stored for row in of_video]


def _annotations(features: FeatureSet, index: int) -> list[Annotation]:
    """The rows of a stored video, by one small read; none of a damaged one, which reading tells."""
    entry = features.samples[index]
    try:
        with features.named(entry):
            data = features.path(entry.shard).read_range(*entry.members["json"])
            _, queries = parse_details(data, entry, features.provenance.clip_length)
    except InputError:
        return []
    return [query.annotation for query in queries]
