"""A run that takes seconds, for every test that calls the trainer's main."""

import pytest


@pytest.fixture
def command(tiny_run, tmp_path):
    """The flags of a run of 12 steps."""
    flags = tiny_run | {
        "runs": tmp_path / "runs",
        "name": "tiny",
        "epochs": 2,
        "model.input_dropout": 0.1,
        "optim.lr": 0.002,
        "tracking.every": 2,
    }

    def build(**changes):
        return [f"--{key}={value}" for key, value in {**flags, **changes}.items()]

    return build
