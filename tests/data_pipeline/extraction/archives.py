"""Archives for tests: tars of videos and of pictures in WebDataset's layout."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar of members (name, data)."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def picture(colour: str, size: tuple[int, int] = (64, 48), kind: str = "JPEG") -> bytes:
    """An encoded picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()
