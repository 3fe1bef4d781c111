"""Turn a released checkpoint of another model into one that answers here.

    python -m launch.import_checkpoint model_best.ckpt --kind qd_detr --output models/qd_detr
    accelerate launch trainer/main.py --checkpoint models/qd_detr --eval --dump \
        --data.report features/val
    python -m launch.predict features/val --model models/qd_detr --output found/

Nothing is unpickled but tensors and plain values; of the options only sizes are read, the optimizer
is left. Every weight has its place here, or the file is refused. The order of the feature streams
becomes part of the model's provenance: features with another order are refused where they are used.
"""

import argparse
import sys
from collections import OrderedDict
from collections.abc import Mapping
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

WEIGHTS = ("model", "state_dict")
"""Where the originals keep their weights."""


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
    preset = given.features or FEATURES.get((given.kind, given.release))
    if preset is None:
        raise InputError(f"--release {given.release}: has no {given.kind}; leave it out")
    check_folder(given.output)
    state, options = read_checkpoint(given.checkpoint)
    sizes = options.get("nheads", given.heads), given.patches
    config, weights = translated(state, sizes, given.kind, given.checkpoint)
    from model.kinds import build
    from trainer.inference.pretrained import Export, encoder_of
    from trainer.training import checkpoints

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
    features = provenance_of(preset, config)
    export = Export(
        model=config,
        encoder=encoder_of(features),
        features=features,
        max_clips=max(1, options.get("max_v_l", 75)),
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


def read_checkpoint(path: Path) -> "tuple[Mapping[str, Tensor], dict[str, int]]":
    """The weights and, as far as they are whole numbers of a sane size, the options of a file.

    Raises InputError for a file that is not there, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; download it from its authors' page")
    import torch

    stand_ins: list[Any] = [
        argparse.Namespace,
        # A dictionary with attributes, in which Lighthouse keeps its options.
        *((OrderedDict, f"{module}.EasyDict") for module in ("easydict", "easydict.easydict")),
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle or zip trips
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: not a checkpoint of tensors and plain values ({cause}); download it again"
        ) from error
    held = content if isinstance(content, dict) else {}
    state = next((held[name] for name in WEIGHTS if isinstance(held.get(name), dict)), None)
    if not state or not all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in state.items()
    ):
        raise InputError(f"{path}: holds no weights under {' or '.join(WEIGHTS)}; is it released?")
    if not all(value.isfinite().all() for value in state.values()):
        raise InputError(f"{path}: holds weights that are not finite; download it again")
    options = held.get("opt")
    values = options if isinstance(options, dict) else getattr(options, "__dict__", {})
    numbers = {
        name: value
        for name, value in values.items()
        if isinstance(name, str) and type(value) is int and 0 < value < 2**20
    }
    return {name.removeprefix("module."): value for name, value in state.items()}, numbers


def translated(
    state: "Mapping[str, Tensor]", sizes: tuple[int, int], kind: str, path: Path
) -> "tuple[ModelConfig, dict[str, Tensor]]":
    """The configuration that the shapes of the weights tell, and the weights under our names;
    `sizes` are what they do not tell: heads, and patches of a frame."""
    from model.detr import original as detr
    from model.pyramid import original as pyramid

    detrs = kind in ("moment_detr", "qd_detr")
    try:
        weights = (detr if detrs else pyramid).from_original(state, kind)
        config = (_detr if detrs else _pyramid)(weights, *sizes, kind)
    except ValueError as error:
        raise InputError(f"{path}: {error}; is --kind right?") from error
    except KeyError as error:
        raise InputError(f"{path}: has no weight {error} of a {kind}; is --kind right?") from error
    return config, weights


def _detr(weights: "Mapping[str, Tensor]", heads: int, _: int, kind: str) -> ModelConfig:
    schema = MomentDETRConfig if kind == "moment_detr" else QDDETRConfig
    queries = "decoder.queries.weight" if kind == "moment_detr" else "decoder.anchors.weight"
    return schema(
        video_width=natural(len(weights["video.reduce.0.weight"]) - 2),
        text_width=len(weights["text.reduce.0.weight"]),
        width=len(weights["video.reduce.2.weight"]),
        heads=heads,
        encoder_layers=_count(weights, "encoder.layers."),
        decoder_layers=_count(weights, "decoder.layers."),
        text_to_video_layers=_count(weights, "encoder.text_to_video."),
        feed_forward=len(weights["encoder.layers.0.transition.0.weight"]),
        queries=len(weights[queries]),
    )


def _pyramid(weights: "Mapping[str, Tensor]", heads: int, patches: int, kind: str) -> ModelConfig:
    strides = tuple(2**level for level in range(len(weights["boundaries.scale"])))
    if kind == "r2_tuning":
        return PyramidConfig(
            encoder="recurrent",
            video_width=patches * natural(len(weights["encoder.video.reduce.0.weight"]) - 2),
            patches=patches,
            text_width=len(weights["encoder.text.reduce.0.weight"]),
            width=len(weights["encoder.video.reduce.2.weight"]),
            heads=heads,
            feed_forward=len(weights["encoder.transition.0.weight"]),
            layers=tuple(range(-1, -1 - len(weights["encoder.scale"]), -1)),
            strides=strides,
        )
    return PyramidConfig(
        video_width=natural(len(weights["video.reduce.0.weight"]) - 2),
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
        score_layers=_count(weights, "scores.classify.score.") or 1,
    )


def _count(weights: "Mapping[str, Tensor]", prefix: str) -> int:
    """How many numbered modules lie under `prefix`."""
    numbers = {
        name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)
    }
    return len(numbers)


def provenance_of(preset: str, config: ModelConfig) -> "Provenance":
    """What the preset of an import says of the features, whose widths the files would tell."""
    from data_pipeline.extraction.encoding import package_version
    from data_pipeline.features.shards import IMPORTED, Provenance

    path = PRESETS / f"{preset}.yaml"
    if path.name not in {known.name for known in PRESETS.glob("*.yaml")}:
        there = ", ".join(sorted(known.stem for known in PRESETS.glob("*.yaml")))
        raise InputError(f"--features {shown(preset)}: is no preset; there are {there}")
    values = read_yaml(path)

    def described(streams: list[dict[str, Any]], width: int) -> dict[str, Any]:
        known = [
            {
                "name": each.get("name", "features"),
                "width": width if len(streams) == 1 else None,
                "l2": each.get("l2", False),
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
            "video": described(values["streams"], config.video_width),
            "text": described([values["text"]], config.text_width),
        },
        version=package_version(),
        preset=preset,
    )


if __name__ == "__main__":
    sys.exit(main())
