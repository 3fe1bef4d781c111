"""How does a folder of videos become features, on one machine or a cluster?"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import ray

from data_pipeline.annotations import Annotation, read_annotations
from data_pipeline.config import ExtractionConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.archive import ArchivePlan
from data_pipeline.extraction.decoder import Decoding
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.job import Progress, Summary, make_shards
from data_pipeline.extraction.listing import TAR
from data_pipeline.extraction.pool import Workers
from data_pipeline.extraction.worker import Extractor
from data_pipeline.storage import Location
from data_pipeline.video.names import find_video

LOOKED_FOR = 20
"""Annotated videos that are looked for before tars are suspected."""

LOG = logging.getLogger(__name__)


def extract(
    config: ExtractionConfig, report: Callable[[Progress], None] = lambda _: None
) -> Summary:
    """Make what is missing of a feature set; `report` is called about once a second.

    Raises InputError for bad inputs and for an output folder that holds another set,
    ClusterLostError if Ray is gone before the end.
    """
    plan: ArchivePlan | None = None
    if config.annotations is None:
        plan = ArchivePlan(config)
    elif not Location(config.videos).is_dir():
        raise InputError(f"{config.videos}: no such folder of videos")
    elif config.captions or config.drop_removed:
        raise InputError("captions and drop_removed are for archives, without annotations")
    else:
        _check_loose(config.videos, read_annotations(config.annotations))
    encoder = FeatureEncoder(config.encoder)
    decoding = Decoding(
        videos=config.videos,
        clip_length=config.encoder.clip_length,
        frames_per_clip=encoder.frames_per_clip,
        image_size=encoder.image_size,
        time_limit=config.time_limit,
        retries=config.retries,
        crop=encoder.crop,
    )
    config = replace(config, encoder=encoder.pinned())
    return make_shards(
        config,
        encoder.provenance,
        config.videos,
        lambda: _workers(config, decoding),
        report,
        encoder.joint_width,
        plan,
    )


def _check_loose(folder: str | Path, annotations: Sequence[Annotation]) -> None:
    """Raise InputError where the videos of an annotation file lie in tars, which are no files."""
    vids = islice(dict.fromkeys(row.vid for row in annotations), LOOKED_FOR)
    if any(find_video(folder, vid) for vid in vids):
        return
    if tar := next((name for name in Location(folder).names() if name.endswith(TAR)), None):
        raise InputError(
            f"{folder}: holds tars ({tar}), and none of the annotated videos as a file; extract it "
            "without --annotations, then join them: python -m launch.shards annotate"
        )


def _workers(config: ExtractionConfig, decoding: Decoding) -> Workers:
    """As many encoders, each with its decoders, as the cluster has room for.

    On a cluster that is not ours as many as are asked for: those that find no room wait until nodes
    come, and what waits is what an autoscaler adds nodes for.
    """
    asked = config.workers if os.environ.get("RAY_ADDRESS") else None
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(cluster.get("CPU", 0)), cluster.get("GPU", 0.0)
    if config.gpus:
        room = int(gpus / config.gpus)
        if room < 1 and not asked:
            raise InputError(
                "gpus: too few are known to Ray; set gpus to 0 or start Ray with them (on a "
                "cluster that grows, set workers)"
            )
        size = asked or min(config.workers or room, room)
        decoders = config.decoders or max(1, cpus // size - 1)
        decoder_cpus = 1.0
    else:
        # An encoder that computes on a processor has its decoders beside it: what they take of the
        # processor it would else spend on decoding itself, so they are not counted.
        room = max(1, cpus)
        size = asked or min(config.workers or room, room)
        decoders, decoder_cpus = config.decoders or 1, 0.0
    if size > room:
        LOG.warning(
            "Ray has room for %d of %d encoders; the others wait until it grows", room, size
        )
    arguments = (
        *(config.encoder, decoding, decoders, decoder_cpus, config.output),
        config.captions,
    )
    return Workers(Extractor, arguments, size, gpus=config.gpus, encode_text=True)
