"""Two trainings of one name do not run at once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "trainer" / "main.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_second_of_two_trainings_is_one_line_and_status_2_and_costs_the_first_nothing(
    command, tmp_path
):
    run = tmp_path / "runs" / "tiny"
    arguments = command(epochs=40, **{"checkpoints.every": 1, "tracking.every": 1})
    first = start(arguments)
    try:
        while not (run / "metrics.jsonl").is_file():
            assert first.poll() is None
            time.sleep(0.05)
        second = start(arguments)
        _, error = second.communicate(timeout=200)
        assert second.returncode == 2
        lines = [line for line in error.splitlines() if "error" in line]
        assert len(lines) == 1
        assert f"tiny: another training of this name is running, process {first.pid}" in lines[0]
        _, error = first.communicate(timeout=200)
        assert first.returncode == 0, error
    finally:
        first.kill()
    records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    steps = [record["step"] for record in records if record["kind"] == "train"]
    assert steps == list(range(1, 241))
    assert (run / "metrics.json").is_file()
