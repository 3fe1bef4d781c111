"""Train, evaluate, track and use SDST models; `accelerate launch` runs `trainer/main.py`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.archive.archive import Archive
    from trainer.inference.grounding import Grounding, Groundings
    from trainer.inference.predict import Grounder
    from trainer.inference.zero_shot import ZeroShotGrounder

__all__ = ["Archive", "Grounder", "Grounding", "Groundings", "ZeroShotGrounder"]

_HOMES = {
    "Archive": "trainer.archive.archive",
    "Grounder": "trainer.inference.predict",
    "Grounding": "trainer.inference.grounding",
    "Groundings": "trainer.inference.grounding",
    "ZeroShotGrounder": "trainer.inference.zero_shot",
}


def __getattr__(name: str) -> Any:
    # What is not asked for is not imported: a command's --help must not wait for PyTorch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
