"""How do a run's records become curves in TensorBoard? (tracking.tensorboard)"""

from collections.abc import Mapping
from pathlib import Path

from data_pipeline.errors import InputError


def check_installed() -> None:
    """Raise InputError where TensorBoard's package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"tracking.tensorboard: {error}; install it with pip install 'sdst[tensorboard]', or "
            "set tracking.tensorboard to false"
        ) from error


class TensorBoard:
    """Writes the records of a run into a folder as TensorBoard reads them, as `<kind>/<name>`.

    A resumed run goes on after `step`: what an earlier process wrote of later steps is passed over.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=30)

    def log(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Add a record."""
        for name, value in numbers.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
