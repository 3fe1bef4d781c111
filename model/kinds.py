"""Which kinds of models are there, and of what is each built? A new kind is one more line here.

Looking a kind up does not wait for PyTorch; building it does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from model.config import LossConfig, ModelConfig, ObjectiveConfig, SDSTConfig
from model.config.detr import DETRLossConfig, MomentDETRConfig, QDDETRConfig
from model.config.pyramid import PyramidConfig, PyramidLossConfig

if TYPE_CHECKING:
    from model.interface import GroundingModel, Objective


class Kind(NamedTuple):
    """The parts of a kind: `model` and `objective` are where their classes are, `module:class`;
    `source` is the publication, as a model's card names it."""

    config: type[ModelConfig]
    loss: type[ObjectiveConfig]
    model: str
    objective: str
    source: str = ""


KINDS: dict[str, Kind] = {
    "sdst": Kind(
        SDSTConfig,
        LossConfig,
        "model.sdst.sdst:SDST",
        "model.objective.losses:Criterion",
        "SDST (Sparse-Dense Side-Tuner, Pujol-Perich et al., ICCV 2025)",
    ),
    "moment_detr": Kind(
        MomentDETRConfig,
        DETRLossConfig,
        "model.detr.detr:DETR",
        "model.objective.detr:DETRCriterion",
        "Moment-DETR (Lei et al., NeurIPS 2021)",
    ),
    "qd_detr": Kind(
        QDDETRConfig,
        DETRLossConfig,
        "model.detr.detr:DETR",
        "model.objective.detr:DETRCriterion",
        "QD-DETR (Moon et al., CVPR 2023)",
    ),
    "pyramid": Kind(
        PyramidConfig,
        PyramidLossConfig,
        "model.pyramid.pyramid:PyramidModel",
        "model.objective.pyramid:PyramidCriterion",
        "a pyramid of clips (FlashVTG, Cao et al., WACV 2025; R2-Tuning, Liu et al., ECCV 2024)",
    ),
}


def build(config: ModelConfig) -> "GroundingModel":
    """The model that `config` describes, with fresh weights."""
    model: GroundingModel = _load(KINDS[config.kind].model)(config)
    if config.existence:
        # Last: the weights before it are drawn as without it.
        model.existence = _load("model.layers.existence:ExistenceHead")(config)
    return model


def build_objective(config: ModelConfig, loss: ObjectiveConfig) -> "Objective":
    """What that model is trained by."""
    objective: Objective = _load(KINDS[config.kind].objective)(loss)
    if config.existence:
        with_existence = _load("model.objective.existence:WithExistence")
        objective = with_existence(objective, loss.existence)
    return objective


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
