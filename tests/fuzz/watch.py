"""Did reading a file run something, or touch what lies outside? And how did it end?"""

import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import InputError

LONGEST = 1500  # letters of a refusal


class Lie(Exception):
    """What was read is not what was written, and nothing said so; or a refusal that is unclear."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `kind` is a column of the table, `what` tells it from others."""

    kind: str
    what: str = ""


class Watch:
    """Notes, once `begin` was called, what starts programs, imports strangers or leaves a folder.

    Python's audit hooks stay for the life of a process; between cases this one notes nothing.
    """

    STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
    CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "shutil.rmtree")

    def __init__(self, allowed: tuple[Path, ...]) -> None:
        self._allowed = tuple(str(path.resolve()) for path in allowed)
        self._secret = ""
        self._on = False
        self.noted: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self, folder: Path, secret: Path) -> None:
        """From now on only `folder` may be written, and `secret` not be opened."""
        self._folder, self._secret = str(folder.resolve()), str(secret.resolve())
        self.noted, self._on = [], True

    def end(self) -> list[str]:
        """What was noted."""
        self._on = False
        return self.noted

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in self.STARTS:
            self.noted.append(f"ran {args[0]!r}")
        elif event == "import" and str(args[0]).partition(".")[0] == "stranger":
            self.noted.append("imported stranger")
        elif event == "open" and isinstance(args[0], str | bytes):
            self._opened(os.fsdecode(args[0]), int(args[2] or 0))
        elif event in self.CHANGES and isinstance(args[0], str | bytes):
            self._wrote(os.fsdecode(args[0]))

    def _opened(self, path: str, flags: int) -> None:
        if "\0" in path:
            return
        if os.path.realpath(path) == self._secret:
            self.noted.append("opened a file outside")
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._wrote(path)

    def _wrote(self, path: str) -> None:
        real = os.path.realpath(path)
        if not any(
            real == folder or real.startswith(folder + "/")
            for folder in (self._folder, *self._allowed)
        ):
            self.noted.append(f"wrote {real}")


def judge(read: Callable[[], None]) -> Outcome:
    """Read, and say how that ended."""
    try:
        with silenced():
            read()
    except InputError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST or not text.isprintable():
            return Outcome("unclear", f"{text[:200]!r}")
        return Outcome("refused")
    except Lie as error:
        return Outcome("silent", str(error)[:300])
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [
            f for f in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in f[0]
        ]
        place = next((f for f in reversed(ours) if "/tests/" not in f.filename), last)
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Outcome("trace", f"{type(error).__name__} at {where}: {str(error)[:120]!r}")
    return Outcome("accepted")


@contextlib.contextmanager
def silenced() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is printed goes into memory."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


def run_command(main: Callable[[list[str]], int | None], args: list[str]) -> None:
    """A command as users run it: InputError for status 2, with the line that it prints."""
    with silenced() as (_, err):
        try:
            status = main(args)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 2
    if status == 2:
        said = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        rest = err.getvalue().partition("error: ")[2].removesuffix("\n")
        if len(said) != 1 or "\n" in rest:
            raise InputError(f"unclear\n{err.getvalue()[-400:]}")
        raise InputError(rest)
