"""One process at a time writes into a folder; what ends lets go, however it ends."""

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from data_pipeline.errors import InputError
from data_pipeline.holding import hold

HOLDER = """
    import sys, time
    from pathlib import Path
    from data_pipeline.holding import hold

    with hold(Path(sys.argv[1]), "job"):
        print("held", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds the folder `held` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "held")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_that_is_held_is_refused_and_the_holder_named(holder, tmp_path: Path) -> None:
    message = rf"held: another job is running, process {holder.pid}$"
    with pytest.raises(InputError, match=message), hold(tmp_path / "held", "job"):
        pass
    assert holder.poll() is None


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_folder_is_free_when_its_holder_is_gone(holder, tmp_path: Path, end: str) -> None:
    if end == "ends":
        holder.communicate("\n")
        assert not (tmp_path / "held").exists()  # it held nothing else
    else:
        holder.kill()
        holder.wait()
    with hold(tmp_path / "held", "job"):
        (tmp_path / "held" / "work").touch()
    assert (tmp_path / "held" / "work").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    with hold(tmp_path, "job"):
        pass
    assert tmp_path.is_dir()


def test_a_file_system_without_locks_keeps_nobody_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path / "new", "job"):
        assert "No locks available: see that nobody else writes there" in caplog.text
