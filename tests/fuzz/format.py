"""What is a format to the campaign? Files that are made, altered and read."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutations import mutate_bytes, replace_file

Reader = Callable[[Path], Any]
Alter = Callable[[random.Random, Path, Path], None]


@dataclass(frozen=True)
class Format:
    """A kind of files.

    `make` writes true ones into a folder; `alter` changes them, drawing from the given source, the
    last argument being the folder of the whole campaign; `readers` are all that take them in, each
    for its share of the cases.
    """

    make: Callable[[Path], None]
    alter: Alter
    readers: dict[str, tuple[Reader, float]]


def one_of(**kinds: tuple[str, Callable[[random.Random, bytes, Path], bytes]]) -> Alter:
    """Alters one file: the pattern says which, and how; now and then another thing is there."""

    def alter(draw: random.Random, folder: Path, root: Path) -> None:
        pattern, mutate = draw.choice(list(kinds.values()))
        path = draw.choice(sorted(folder.glob(pattern)))
        if draw.random() < 0.05:
            replace_file(draw, path, folder)
        else:
            path.write_bytes(mutate(draw, path.read_bytes(), root))

    return alter


def plain_bytes(draw: random.Random, data: bytes, root: Path) -> bytes:
    """`mutate_bytes` where a mutation of a text is asked for."""
    return mutate_bytes(draw, data)


def digest(*parts: Any) -> str:
    """Of values and arrays."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()
