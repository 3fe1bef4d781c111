"""How is a video file opened, whatever it is called, and what is said of one that cannot be?"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
import av.stream
from av.container.core import Flags

from data_pipeline.errors import InputError

MAX_PIXELS = 8192 * 8192
"""A header that claims larger frames is taken for damage, before memory is asked for."""

OBLONG_PIXELS = 10
"""Pixels that a header claims to be more times as wide as high, or as high as wide, are square."""

_PICTURES = re.compile(r"image2|_pipe$")
"""FFmpeg's names of formats that hold one picture."""


class VideoError(InputError):
    """A video that cannot be used; `kind` is a class of causes to count by."""

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


def address(path: str | Path) -> str:
    """A path as FFmpeg takes it: a colon in it names no protocol."""
    return f"file:{os.fspath(path)}"


@contextmanager
def opened(path: Path, name: str) -> Iterator[tuple[Any, Any]]:
    """The container and the stream of its pictures, ready to be decoded by one thread.

    Raises VideoError, which calls the file `name`, for whatever is raised inside: by the system, by
    FFmpeg, or by PyAV on data that it did not expect.
    """
    with _faults(name):
        if path.stat().st_size == 0:
            raise VideoError(f"{name}: is empty (0 bytes); fetch the file again", kind="empty")
        container: Any
        with av.open(address(path), metadata_errors="replace") as container:
            # PyAV asks FFmpeg to make up presentation times where a container has none.
            container.flags &= ~Flags.gen_pts.value
            videos = [s for s in container.streams.video if not _is_cover(s)]
            # An animated AVIF has a still beside it.
            videos.sort(key=lambda stream: (stream.codec_context is None, stream.frames == 1))
            if not videos:
                raise VideoError(f"{name}: holds no video stream", kind="no video stream")
            if _PICTURES.search(container.format.name):
                raise VideoError(f"{name}: is a picture, not a video", kind="picture")
            stream = videos[0]
            if stream.codec_context is None:
                raise VideoError(
                    f"{name}: its video codec is not known to this FFmpeg", kind="unknown codec"
                )
            context = stream.codec_context
            if not 0 < context.width * context.height <= MAX_PIXELS:
                raise VideoError(
                    f"{name}: frames of {context.width} x {context.height} pixels are not "
                    "decoded; is the header damaged?",
                    kind="absurd size",
                )
            # Actors give the parallelism; a frame's bytes are to depend on no thread.
            context.thread_count = 1
            context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream


@contextmanager
def _faults(name: str) -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise VideoError(f"{name}: no such video file", kind="missing") from error
    except (OSError, av.error.FFmpegError) as error:
        # FFmpeg's too, where the system refused what it asked for; its -1 is no such refusal.
        cause = error.strerror or str(error)
        if isinstance(error, OSError) and error.errno != errno.EPERM:
            raise VideoError(f"{name}: cannot be read: {cause}", "io") from error
        raise VideoError(
            f"{name}: cannot be decoded as a video ({cause}); is it complete?"
        ) from error
    except Exception as error:  # PyAV's own: a text that is no UTF-8, an attribute that is None, …
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise VideoError(f"{name}: cannot be decoded as a video ({cause})") from error


def _is_cover(stream: Any) -> bool:
    """Whether a stream is a still attached to a sound file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def display_size(stream: Any) -> tuple[int, int]:
    """Width and height of a stream's pictures as displayed: their pixels need not be square."""
    width, height = stream.codec_context.width, stream.codec_context.height
    aspect = float(stream.sample_aspect_ratio or 1)
    if not 1 / OBLONG_PIXELS <= aspect <= OBLONG_PIXELS:
        aspect = 1.0
    return max(1, round(width * aspect)), height
