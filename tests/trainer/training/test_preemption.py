"""Signals of a scheduler that takes the machine away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer.training.preemption import Stopped, StopSignals

ALONE = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)


@pytest.fixture
def left(monkeypatch):
    """The statuses with which the process would have left at once."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def test_whoever_does_not_reach_the_end_of_a_step_within_the_grace_leaves_without(left, capfd):
    with StopSignals(ALONE, grace=0.05, workers=False):
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not left and time.monotonic() < deadline:
            time.sleep(0.01)
    assert left == [75]
    assert "no checkpoint within 0.05 s of SIGTERM" in capfd.readouterr().err


def test_whoever_reaches_it_in_time_stops_after_the_item_at_hand(left):
    served = []

    def serve(stop):
        for item in stop.watch(range(9)):
            served.append(item)
            if item == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with StopSignals(ALONE, grace=30, workers=False) as stop, pytest.raises(Stopped) as stopped:
        serve(stop)
    assert served == [0, 1, 2, 3, 4]
    assert stopped.value.status == 75
    assert not left


def test_a_second_ctrl_c_interrupts_at_once():
    with StopSignals(ALONE, grace=30, workers=False):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_signals_are_handled_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(ALONE, grace=30, workers=True):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


PROGRAM = """
import tempfile
from multiprocessing import get_context, util
from trainer.training.preemption import keep_sockets_short

keep_sockets_short()
worker = get_context("forkserver").Process(target=print, args=("worked",), kwargs={"flush": True})
worker.start()
worker.join()
print(util.get_temp_dir(), tempfile.gettempdir())
"""


@pytest.mark.parametrize("letters", [1, 100])
def test_a_long_temporary_folder_is_no_hindrance_to_workers(tmp_path, letters):
    folder = tmp_path / ("x" * letters)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    worked, sockets, temporary = done.stdout.split()
    assert worked == "worked"
    assert temporary == str(folder)
    assert sockets.startswith("/tmp/pymp-" if len(str(folder)) > 70 else str(folder))
    assert not Path(sockets).exists()
