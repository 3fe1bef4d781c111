"""SDST in pure PyTorch: no files, no processes, no configuration parsing.

One alphabet for every shape comment in the project:

    B  batch (video, query pairs)    L  clips of a video         T  text tokens
    K  stored feature layers         S  recurrence steps         M  moment queries
    N  ground-truth windows (padded) F  hidden width             H  attention heads
    P  sampling points per head      Dv, Dt  widths of the frozen video and text features

Masks are boolean and True where the entry is real. Spans are (centre, width) in [0, 1] unless a
name says otherwise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.config import SDSTConfig
    from model.sdst.sdst import SDST

__all__ = ["SDST", "SDSTConfig"]

_HOMES = {"SDST": "model.sdst.sdst", "SDSTConfig": "model.config"}


def __getattr__(name: str) -> Any:
    # What is not asked for is not imported: a command's --help must not wait for PyTorch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
