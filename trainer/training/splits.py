"""Which features does this rank read, and does the model fit them?"""

from accelerate import Accelerator

from data_pipeline.errors import InputError
from data_pipeline.features.shards import FeatureSet
from data_pipeline.stream.stream import PairStream
from model.config import SDSTConfig
from trainer.config import Config


def open_split(folder: str, config: Config, accelerator: Accelerator) -> PairStream:
    """This rank's stream over feature shards; InputError where the model cannot read them."""
    features = FeatureSet(folder, config.data.skip_damaged)
    check_model_fits(config.model, features)
    return PairStream(
        features, config.data, config.seed, accelerator.process_index, accelerator.num_processes
    )


def check_model_fits(model: SDSTConfig, features: FeatureSet) -> None:
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
