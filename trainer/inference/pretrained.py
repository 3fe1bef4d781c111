"""What prediction needs of a trained model: a folder with model.safetensors and config.yaml."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_pipeline.config import EncoderConfig
from data_pipeline.errors import InputError
from data_pipeline.features.shards import IMPORTED, UNKNOWN, Provenance
from data_pipeline.untrusted import read_yaml
from model.config import ModelConfig
from model.interface import GroundingModel
from model.kinds import build
from trainer.cli import load_config
from trainer.config import PostprocessConfig
from trainer.inference.calibration import AS_IT_IS, Calibration
from trainer.training.checkpoints import digest_of, file_hash, load_weights, stored_types

LOG = logging.getLogger(__name__)

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


@dataclass(frozen=True)
class Seal:
    """By what exported weights are known again.

    Attributes:
        sha256: of the file; empty in models of earlier versions
        dtypes: types of the weights, by the names of safetensors
        calibration: SHA-256 of the calibration; empty in models of earlier versions
    """

    sha256: str = ""
    dtypes: tuple[str, ...] = ()
    calibration: str = ""


@dataclass(frozen=True)
class Export:
    """The config.yaml of an exported model.

    Attributes:
        model: the architecture that the weights belong to
        encoder: makes the features of new videos and sentences; the place for paths of weights
        postprocess: what was done to its windows before they were scored
        max_clips: longest video seen in training; longer ones are taken in overlapping stretches
        features: how the training features were made, by the hash of every weight
        provenance: what else is told of the run
        calibration: what makes probabilities of the outputs; without a split to fit it on they are
            taken as they are
        seal: by what the weights are known again; it is written with them
    """

    model: ModelConfig
    encoder: EncoderConfig
    features: Provenance
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    max_clips: int = 75
    provenance: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    seal: Seal = field(default_factory=Seal)

    def __post_init__(self) -> None:
        if self.max_clips < 1:
            raise ValueError(f"max_clips must be at least 1, found {self.max_clips}")


def encoder_of(features: Provenance) -> EncoderConfig:
    """The encoders that made `features`; paths of weights that no package brings are left open."""
    default = EncoderConfig()
    # What an import says of streams is no option of an encoder.
    options = {} if features.preprocessing == IMPORTED else features.options
    checkpoint, _, revision = (features.origin or "").partition("@")
    return EncoderConfig(
        video=features.video_encoder,
        video_layers=features.video_layers,
        video_options=options.get("video", {}),
        text=features.text_encoder,
        text_layers=features.text_layers,
        text_options=options.get("text", {}),
        clip_length=features.clip_length,
        frames_per_clip=features.frames_per_clip or None,
        arithmetic="bfloat16" if features.arithmetic == "bfloat16" else "float32",
        batch=features.batch or default.batch,
        threads=features.threads or default.threads,
        checkpoint=checkpoint or None,
        revision=revision or None,
    )


def check_encoder(config: Path, here: Provenance, trained: Provenance) -> None:
    """Raise InputError unless the encoder at hand makes the features that were trained on.

    What imported features do not tell, such as hashes and preprocessing, is not compared.
    """
    unknown: dict[str, Any] = {
        name: getattr(here, name)
        for name in (
            *("video_encoder", "text_encoder", "video_weights", "text_weights", "tokenizer"),
            *("frames_per_clip", "preprocessing", "arithmetic"),
        )
        if getattr(trained, name) in (None, 0, IMPORTED, UNKNOWN)
    }
    if trained.preprocessing == IMPORTED:
        unknown["options"] = here.options
    for kind in ("video", "text"):
        if f"{kind}_encoder" in unknown:
            unknown[f"{kind}_layers"] = getattr(here, f"{kind}_layers")
    differences = here.differences(replace(trained, **unknown))
    if differences:
        raise InputError(
            f"{config}: the encoder at hand is not the one of the training features "
            f"({'; '.join(differences)}); point 'encoder' to the weights used then"
        )


def check_encoder_is_known(config: Path, encoder: EncoderConfig) -> None:
    """Raise InputError where the training features were made by nobody knows what."""
    if UNKNOWN in (encoder.video, encoder.text):
        raise InputError(
            f"{config}: which encoders made the training features is not known, so that no video "
            "can be encoded for the model; if you know them, name them in its section 'encoder'"
        )


def find_model(folder: Path) -> Path:
    """The folder of the model's files: `folder` itself, or `model/` in a run's folder.

    Raises InputError that says what is missing.
    """
    candidates = (folder / "model", folder)
    for candidate in candidates:
        if (candidate / WEIGHTS).is_file():
            if not (candidate / CONFIG).is_file():
                raise InputError(f"{candidate / CONFIG}: is missing; copy it from the training run")
            return candidate
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; train a model first, or name one with --model")
    raise InputError(
        f"{folder}: holds no trained model ({WEIGHTS} beside {CONFIG}, here or in model/); "
        "train one first, or name another folder"
    )


def check_seal(folder: Path, export: Export) -> None:
    """Raise InputError unless the weights in `folder` are those that `export` was written with.

    Those of a model without a seal, as earlier versions wrote it, are taken with a warning.
    """
    weights = folder / WEIGHTS
    if export.calibration != AS_IT_IS:
        # As it stands there: a later version may know of more settings.
        written = read_yaml(folder / CONFIG)["calibration"]
        if digest_of(written) != export.seal.calibration:
            raise InputError(
                f"{folder / CONFIG}: its calibration is not what it was written with, so that its "
                "scores would mean nothing; copy the file anew from the run that made it"
            )
    if not export.seal.sha256:
        LOG.warning(
            "%s: was exported before models were sealed, so that damage would not be noticed; "
            "Grounder.save_pretrained seals it",
            weights,
        )
        return
    types, expected = stored_types(weights), list(export.seal.dtypes)
    if types != expected:
        raise InputError(
            f"{weights}: holds weights of {', '.join(types)} and not of {', '.join(expected)} as "
            f"{CONFIG} beside it says; copy both anew from the run that made them"
        )
    if file_hash(weights) != export.seal.sha256:
        raise InputError(
            f"{weights}: is not what {CONFIG} beside it was written with: damaged, or of another "
            "export; copy both anew from the run that made them"
        )


def load_pretrained(folder: Path) -> tuple[GroundingModel, Export]:
    """The model in evaluation mode, and its configuration.

    Raises InputError for missing files, a configuration that cannot be read, and weights that are
    another model's, were altered, or are not finite.
    """
    folder = find_model(folder)
    export = load_config(Export, folder / CONFIG)
    check_seal(folder, export)
    # Which kernel trained the weights says nothing about the machine that uses them.
    model = build(export.model.portable())
    load_weights(folder / WEIGHTS, model)
    return model.eval(), export
