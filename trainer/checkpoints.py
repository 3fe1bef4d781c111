"""What is kept so that training goes on after any crash, and how is it never half-written?

`<run>/checkpoints/step_00000123/` holds model.safetensors, optimizer.pt, random.pt (one entry a
rank) and state.json, which is written last; the folder gets its name by a rename once it is whole.
"""

import dataclasses
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from data_pipeline.errors import InputError

LOG = logging.getLogger(__name__)

WEIGHTS, STATE = "model.safetensors", "state.json"


@dataclass
class State:
    """Where training stands: `step` optimizer steps are done, `batch` is the next global batch of
    `epoch`; `best` is the best value of the selection metric so far, at step `best_step`."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = float("-inf")
    best_step: int = -1
    mlflow_run: str | None = None


def save(
    folder: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
    keep: int,
) -> None:
    """Write a checkpoint; every rank calls it. Keeps the newest `keep` and the best."""
    random = gather_object([_random_state()])
    if accelerator.is_main_process:
        target = folder / f"step_{state.step:08d}"
        temporary = folder / f".{target.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_weights(model), temporary / "model.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        torch.save(random, temporary / "random.pt")
        (temporary / "state.json").write_text(json.dumps(dataclasses.asdict(state), indent=2))
        if (
            target.exists()
        ):  # written by a run that was stopped between the rename and its next step
            shutil.rmtree(target)
        temporary.rename(target)
        _prune(folder, state, keep)
    accelerator.wait_for_everyone()


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none."""
    found = sorted(path.parent for path in folder.glob("step_*/state.json"))
    return found[-1] if found else None


def load(
    path: Path, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> State:
    """Restore everything that `save` wrote; InputError where it does not belong to this model."""
    load_weights(path / "model.safetensors", model)
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True))
    random = torch.load(path / "random.pt", weights_only=True)
    if len(random) == accelerator.num_processes:
        _restore_random(random[accelerator.process_index])
    else:
        LOG.warning(
            "the checkpoint was made by %d processes, this run has %d: dropout draws anew",
            len(random),
            accelerator.num_processes,
        )
    return State(**json.loads((path / "state.json").read_text()))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`; InputError in one line if they are another model's."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from error
    expected = model.state_dict()
    missing, extra = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or extra:
        odd = sorted(missing or extra)[0]
        raise InputError(
            f"{path}: made by another model: {len(missing)} weights are missing and {len(extra)} "
            f"unknown ({odd!r} for one); use the config that was saved beside it"
        )
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            raise InputError(
                f"{path}: made by another model: {name!r} has shape {tuple(weight.shape)}, the "
                f"config asks for {tuple(expected[name].shape)}; use the config that was saved "
                f"beside it"
            )
    model.load_state_dict(weights)


def export(folder: Path, model: nn.Module, config: str) -> None:
    """Write `model.safetensors` and `config.yaml`, the pair that prediction needs.

    The weights come last: a folder with weights has its configuration.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "model.safetensors"):
        temporary = folder / f".{name}.tmp"
        if name == "config.yaml":
            temporary.write_text(config)
        else:
            save_file(_weights(model), temporary)
        temporary.replace(folder / name)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _prune(folder: Path, state: State, keep: int) -> None:
    complete = sorted(path.parent for path in folder.glob("step_*/state.json"))
    best = folder / f"step_{state.best_step:08d}"
    for path in complete[:-keep]:
        if path != best:
            shutil.rmtree(path)


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
