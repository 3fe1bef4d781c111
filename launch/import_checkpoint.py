"""Turn a released checkpoint of another model into one that answers here.

    python -m launch.import_checkpoint model_best.ckpt --kind qd_detr --output models/qd_detr
    accelerate launch trainer/main.py --checkpoint models/qd_detr --eval --dump \
        --data.report features/val
    python -m launch.predict features/val --model models/qd_detr --output found/

Nothing is unpickled but tensors and plain values; the optimizer is left. Every weight has its place
here, and every option that changes what is computed its value, or the file is refused. The order of
the feature streams becomes part of the model's provenance: features with another order are refused
where they are used.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import configs
from data_pipeline.errors import InputError
from data_pipeline.output import check_folder
from data_pipeline.untrusted import natural, read_yaml, shown
from model.config.base import ModelConfig
from model.config.detr import MomentDETRConfig, QDDETRConfig
from model.config.pyramid import PyramidConfig
from trainer.cli import command, dump_config, make_parser, parse, terminal

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipeline.features.shards import Provenance
    from trainer.inference.released import Released

PRESETS = Path(configs.__file__).parent / "import"
FEATURES = {
    ("moment_detr", "official"): "moment-detr",
    ("qd_detr", "official"): "moment-detr",
    ("moment_detr", "lighthouse"): "lighthouse",
    ("qd_detr", "lighthouse"): "lighthouse",
    ("flashvtg", "official"): "flashvtg",
    ("r2_tuning", "official"): "r2-tuning",
}
"""The import preset of the features that each release was trained on."""

WITH_SOUND = {
    ("qd_detr", "official"): "pann",
    ("moment_detr", "lighthouse"): "lighthouse-pann",
    ("qd_detr", "lighthouse"): "lighthouse-pann",
}
"""The same of models that read sound, too."""


@command
def main(args: list[str] | None = None) -> int:
    """Read, check, write an exported model."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="the released file, such as model_best.ckpt")
    kinds = sorted({kind for kind, _ in FEATURES})
    parser.add_argument("--kind", type=str, choices=kinds, required=True, help="whose it is")
    parser.add_argument(
        "--release",
        type=str,
        choices=["official", "lighthouse"],
        default="official",
        help="who trained it; Lighthouse has CLIP before SlowFast",
    )
    parser.add_argument(
        "--features",
        type=str | None,
        help="preset of launch.import_features that it was trained on, where it is another",
    )
    parser.add_argument(
        "--heads", type=int, default=8, help="attention heads, where the file does not tell"
    )
    parser.add_argument(
        "--patches",
        type=int,
        default=50,
        help="vectors of a frame that r2_tuning reads, 50 of CLIP ViT-B/32 with the whole frame's; "
        "its features are imported with --pooling none",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the exported model")
    given = parse(parser, args)
    origin = given.kind, given.release
    if given.features is None and origin not in FEATURES:
        raise InputError(f"--release {given.release}: has no {given.kind}; leave it out")
    check_folder(given.output)
    from model.kinds import build
    from trainer.inference.pretrained import Export, encoder_of
    from trainer.inference.released import read_released
    from trainer.training import checkpoints

    released = read_released(given.checkpoint)
    sizes = released.count("nheads", given.heads), given.patches
    own = given.release == "official"
    config, weights = translated(released, sizes, given.kind, own, given.checkpoint)
    preset = given.features or (WITH_SOUND if released.sound else FEATURES).get(origin)
    if preset is None:
        raise InputError(
            f"{given.checkpoint}: reads sound, too; name the preset of its features with --features"
        )
    model = build(config)
    missing = model.state_dict().keys() ^ weights.keys()
    if missing:
        raise InputError(
            f"{given.checkpoint}: has other weights than a {given.kind} ({sorted(missing)[0]}); "
            "is --kind right?"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # of another shape
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{given.checkpoint}: {reason}; is --kind right?") from error
    features = provenance_of(preset, config, released)
    if given.features is None and released.clip_length is not None:
        features = replace(features, clip_length=released.clip_length)
    export = Export(
        model=config,
        encoder=encoder_of(features),
        features=features,
        max_clips=released.most_clips,
        provenance={
            "origin": f"released checkpoint {given.checkpoint.name}",
            "sha256": checkpoints.file_hash(given.checkpoint),
            "release": f"{given.kind}, {given.release}",
            "features": f"{preset}, {features.summary().get('video streams', preset)}",
        },
    )
    checkpoints.export(given.output, model, dump_config(export))
    console = terminal(soft_wrap=True)
    count = sum(tensor.numel() for tensor in weights.values())
    console.print(f"{given.output}: {config.kind}, {len(weights)} tensors, {count:,} numbers")
    console.print(f"features: {export.provenance['features']}")
    return 0


def translated(
    released: "Released", sizes: tuple[int, int], kind: str, again: bool, path: Path
) -> "tuple[ModelConfig, dict[str, Tensor]]":
    """The configuration that the shapes of the weights tell, and the weights under our names;
    `sizes` are what they do not tell: heads, and patches of a frame; `again` says that sound has
    end points of its own."""
    from model.detr import original as detr
    from model.pyramid import original as pyramid

    try:
        if kind in ("moment_detr", "qd_detr"):
            weights = detr.from_original(released.weights, kind)
            weights, columns = detr.arranged(weights, released.endpoints, released.sound, again)
            return _detr(weights, sizes[0], kind, columns), weights
        if released.sound:  # whose columns no pyramid has a place for
            raise ValueError("reads sound, which is imported of the DETRs alone")
        weights = pyramid.from_original(released.weights, kind)
        return _pyramid(weights, *sizes, kind, released.endpoints), weights
    except ValueError as error:
        raise InputError(f"{path}: {error}; is --kind right?") from error
    except KeyError as error:
        raise InputError(f"{path}: has no weight {error} of a {kind}; is --kind right?") from error


def _detr(
    weights: "Mapping[str, Tensor]", heads: int, kind: str, columns: dict[str, Any]
) -> MomentDETRConfig:
    schema = MomentDETRConfig if kind == "moment_detr" else QDDETRConfig
    queries = "decoder.queries.weight" if kind == "moment_detr" else "decoder.anchors.weight"
    return schema(
        text_width=len(weights["text.reduce.0.weight"]),
        width=len(weights["video.reduce.2.weight"]),
        heads=heads,
        encoder_layers=_count(weights, "encoder.layers."),
        decoder_layers=_count(weights, "decoder.layers."),
        text_to_video_layers=_count(weights, "encoder.text_to_video."),
        feed_forward=len(weights["encoder.layers.0.transition.0.weight"]),
        queries=len(weights[queries]),
        **columns,
    )


def _pyramid(
    weights: "Mapping[str, Tensor]", heads: int, patches: int, kind: str, endpoints: bool
) -> ModelConfig:
    strides = tuple(2**level for level in range(len(weights["boundaries.scale"])))
    ends = 2 if endpoints else 0
    if kind == "r2_tuning":
        return PyramidConfig(
            encoder="recurrent",
            video_width=patches * natural(len(weights["encoder.video.reduce.0.weight"]) - ends),
            patches=patches,
            text_width=len(weights["encoder.text.reduce.0.weight"]),
            width=len(weights["encoder.video.reduce.2.weight"]),
            heads=heads,
            feed_forward=len(weights["encoder.transition.0.weight"]),
            layers=tuple(range(-1, -1 - len(weights["encoder.scale"]), -1)),
            strides=strides,
            endpoints=endpoints,
        )
    return PyramidConfig(
        video_width=natural(len(weights["video.reduce.0.weight"]) - ends),
        text_width=len(weights["text.reduce.0.weight"]),
        width=len(weights["video.reduce.2.weight"]),
        heads=heads,
        feed_forward=len(weights["encoder.layers.0.transition.0.weight"]),
        encoder_layers=_count(weights, "encoder.layers."),
        text_to_video_layers=_count(weights, "encoder.text_to_video."),
        dummies=len(weights["encoder.dummies"]),
        dummy_layers=_count(weights, "encoder.dummy_layers."),
        strides=strides,
        score_kernel=weights["scores.classify.mix.layers.0.weight"].shape[-1],
        score_convolutions=_count(weights, "scores.classify.mix.layers."),
        score_layers=_count(weights, "scores.classify.score.") or 1,
        endpoints=endpoints,
    )


def _count(weights: "Mapping[str, Tensor]", prefix: str) -> int:
    """How many numbered modules lie under `prefix`."""
    numbers = {
        name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)
    }
    return len(numbers)


def provenance_of(preset: str, config: ModelConfig, released: "Released") -> "Provenance":
    """What the preset of an import says of the features, whose widths the files would tell, and the
    checkpoint's options, which may say that they were taken as they were."""
    from data_pipeline.extraction.encoding import package_version
    from data_pipeline.features.shards import IMPORTED, Provenance

    path = PRESETS / f"{preset}.yaml"
    if path.name not in {known.name for known in PRESETS.glob("*.yaml")}:
        there = ", ".join(sorted(known.stem for known in PRESETS.glob("*.yaml")))
        raise InputError(f"--features {shown(preset)}: is no preset; there are {there}")
    values = read_yaml(path)

    def described(streams: list[dict[str, Any]], width: int, what: str) -> dict[str, Any]:
        known = [
            {
                "name": each.get("name", "features"),
                "width": width if len(streams) == 1 else None,
                "l2": each.get("l2", False) and released.normalises(what),
            }
            | ({"rows": each["rows"]} if each.get("rows") else {})
            for each in streams
        ]
        return {"streams": known}

    names = [each.get("name", "features") for each in values["streams"]]
    count = len(config.layers) if values.get("video_depth") else 1

    def layers(depth: int | None) -> tuple[int, ...]:
        deepest = max(depth or count, count)
        return tuple(range(deepest - count, deepest))

    return Provenance(
        video_encoder=values.get("video_encoder", " + ".join(names)),
        video_weights=None,
        video_layers=layers(values.get("video_depth")),
        text_encoder=values.get("text_encoder", values["text"].get("name", "features")),
        text_weights=None,
        text_layers=layers(values.get("text_depth")),
        tokenizer=None,
        clip_length=float(values.get("clip_length", 2.0)),
        frames_per_clip=values.get("frames_per_clip", 0),
        preprocessing=IMPORTED,
        arithmetic=IMPORTED,
        options={
            "video": described(values["streams"], config.video_width, "v"),
            "text": described([values["text"]], config.text_width, "t"),
        },
        version=package_version(),
        preset=preset,
    )


if __name__ == "__main__":
    sys.exit(main())
