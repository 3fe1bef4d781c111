"""How does a folder of videos become features, on one machine or a cluster?"""

from collections.abc import Callable
from dataclasses import replace

import ray

from data_pipeline.config import ExtractionConfig
from data_pipeline.errors import InputError
from data_pipeline.extraction.archive import ArchivePlan
from data_pipeline.extraction.decoder import Decoding
from data_pipeline.extraction.encoding import FeatureEncoder
from data_pipeline.extraction.job import Progress, Summary, make_shards
from data_pipeline.extraction.pool import Workers
from data_pipeline.extraction.worker import Extractor
from data_pipeline.storage import Location


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


def _workers(config: ExtractionConfig, decoding: Decoding) -> Workers:
    """As many encoders, each with its decoders, as the cluster has room for."""
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = int(cluster.get("CPU", 0)), cluster.get("GPU", 0.0)
    if config.gpus:
        room = int(gpus / config.gpus)
        if room < 1:
            raise InputError("gpus: too few are known to Ray; set gpus to 0 or start Ray with them")
        size = min(config.workers or room, room)
        decoders = config.decoders or max(1, cpus // size - 1)
        decoder_cpus = 1.0
    else:
        # An encoder that computes on a processor has its decoders beside it: what they take of the
        # processor it would else spend on decoding itself, so they are not counted.
        room = max(1, cpus)
        size = min(config.workers or room, room)
        decoders, decoder_cpus = config.decoders or 1, 0.0
    arguments = (
        *(config.encoder, decoding, decoders, decoder_cpus, config.output),
        config.captions,
    )
    return Workers(Extractor, arguments, size, gpus=config.gpus, encode_text=True)
