"""TensorBoard shows what metrics.jsonl holds, each step once."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.main import main
from trainer.tracking.tracking import Tracker

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the group `dev`"
)


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }


def kept(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for line in (folder / "metrics.jsonl").open():
        record = json.loads(line)
        kind, step = record.pop("kind"), record.pop("step")
        del record["epoch"], record["time"]
        for name, value in record.items():
            found.setdefault(f"{kind}/{name}", []).append((step, pytest.approx(value, rel=1e-6)))
    return found


def test_curves_are_the_records_also_of_a_run_that_went_on(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"tracking.tensorboard": "true", "tracking.every": 1}
    with monkeypatch.context() as patch:

        def interrupted(self: Any, *arguments: Any) -> None:
            moved(self, *arguments)
            if arguments[0] == 9:  # after the checkpoint at step 6: three steps are lost
                raise KeyboardInterrupt

        moved = Tracker.moved
        patch.setattr(Tracker, "moved", interrupted)
        assert main(command(**flags)) == 130
    assert main(command(**flags)) == 0
    run = tmp_path / "runs/tiny"
    shown = curves(run / "tensorboard")
    assert shown == kept(run)
    assert [step for step, _ in shown["train/loss"]] == list(range(1, 13))


def test_without_the_package_the_run_ends_in_one_line_that_names_it(
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return importing(name, *arguments, **options)

    importing = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", missing)
    assert main(command(**{"tracking.tensorboard": "true"})) == 2
    assert "sdst[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "runs/tiny/config.yaml").exists()
