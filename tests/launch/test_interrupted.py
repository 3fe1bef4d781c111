"""What Ctrl-C does before a command has begun."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("raised", "printed"), [("KeyboardInterrupt", "interrupted"), ("ValueError", "Traceback")]
)
def test_only_an_interrupted_import_of_a_command_leaves_no_trace(raised, printed):
    done = subprocess.run(
        [sys.executable, "-c", f"import launch; raise {raised}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stderr.startswith(printed)
    assert done.stderr.count("\n") == 1 or raised == "ValueError"
