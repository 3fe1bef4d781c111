"""A run that takes seconds, and an empty MLflow store."""

import shutil

import mlflow
import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A file with MLflow's tables: making them takes longer than any test that uses them."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A client of an empty store of this test's own, which MLFLOW_TRACKING_URI names."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # where MLflow puts the files of an sqlite store
    return mlflow.MlflowClient(uri)


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
