"""A run that takes seconds, for every test that calls the trainer's main."""

import pytest


@pytest.fixture(scope="module")
def data(make_features, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    for seed, split in enumerate(("train", "dev", "val")):
        make_features(folder / split, videos=16 if split == "train" else 4, seed=seed)
    return folder


@pytest.fixture
def command(data, tmp_path):
    """The flags of a run of 12 steps."""
    flags = {
        "runs": tmp_path / "runs",
        "name": "tiny",
        "epochs": 2,
        "data.train": data / "train",
        "data.selection": data / "dev",
        "data.report": data / "val",
        "data.batch_size": 8,
        "data.order.lanes": 8,
        "model.video_width": 12,
        "model.text_width": 10,
        "model.layers": "[-1, -2]",
        "model.width": 32,
        "model.heads": 4,
        "model.queries": 5,
        "model.input_dropout": 0.1,
        "optim.lr": 0.002,
        "optim.warmup": 5,
        "tracking.every": 2,
        "tracking.mlflow": "false",
    }

    def build(**changes):
        return [f"--{key}={value}" for key, value in {**flags, **changes}.items()]

    return build
