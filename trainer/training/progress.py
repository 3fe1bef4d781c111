"""What does a person at the terminal see of a training under way?"""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.training.checkpoints import State

FIGURES = "steps, epoch {task.fields[epoch]}, loss {task.fields[loss]}, {task.fields[speed]}"


class TrainingBar:
    """A line with the steps of `state` out of `steps`, and the figures of the last record."""

    def __init__(self, console: Console, steps: int, state: State, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(FIGURES),
            TimeRemainingColumn(),
            console=console,
            disable=not shown,
        )
        self._state = state
        self._task = self._progress.add_task(
            "", total=steps, completed=state.step, epoch=state.epoch, loss="", speed=""
        )

    def __enter__(self) -> "TrainingBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def move(self) -> None:
        """Show the state's step."""
        self._progress.update(self._task, completed=self._state.step)

    def tell(self, numbers: Mapping[str, float]) -> None:
        """Show the figures of a training record."""
        self._progress.update(
            self._task,
            epoch=self._state.epoch,
            loss=f"{numbers['loss']:.3f}",
            speed=f"{numbers['pairs_per_second']:.0f} pairs/s",
        )
