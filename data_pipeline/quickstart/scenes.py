"""Drawn scenes: one object in motion before a background that pans slowly."""

import math
from collections.abc import Iterator

import numpy as np

from data_pipeline.quickstart.backgrounds import background
from data_pipeline.quickstart.kinds import Drawn
from data_pipeline.quickstart.shapes import paint

_SMALLEST, _LARGEST = 0.2, 0.42  # radius in parts of the picture's height, by prominence


def draw(
    kind: Drawn,
    prominence: np.ndarray,
    frame_rate: int,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of the object, one per entry of `prominence`; `size` is (W, H).

    Prominence sets the object's size; `rng` the background, its pan, and the object's place.
    """
    width, height = size
    margin = width // 5
    backdrop = background((width + margin, height), rng)
    pan = rng.permutation([0, margin])
    home = rng.uniform(0.35, 0.65), rng.uniform(0.44, 0.56)
    phase = rng.uniform(0, 2 * math.pi)
    for number, value in enumerate(prominence):
        progress = (number + 0.5) / len(prominence)
        left = round(pan[0] + (pan[1] - pan[0]) * progress)
        frame = backdrop[:, left : left + width].copy()
        x, y, angle, swell = _pose(kind.motion, home, progress, number / frame_rate, phase)
        radius = (_SMALLEST + (_LARGEST - _SMALLEST) * float(value)) * height * swell
        paint(frame, kind.shape, kind.colour, (x * width, y * height), radius, angle)
        yield frame


def _pose(
    motion: str, home: tuple[float, float], progress: float, seconds: float, phase: float
) -> tuple[float, float, float, float]:
    """(x, y in parts of the picture, angle in radians, factor on the size) of an object."""
    x, y = home
    match motion:
        case "left":
            return 0.78 - 0.56 * progress, y, -seconds, 1.0
        case "right":
            return 0.22 + 0.56 * progress, y, seconds, 1.0
        case "up":
            return x, 0.78 - 0.28 * progress, 0.0, 1.0
        case "down":
            return x, 0.5 + 0.28 * progress, 0.0, 1.0
        case "turn":
            return x, y, phase + 0.7 * seconds, 1.0
        case "spin":
            return x, y, phase + 2.4 * seconds, 1.0
        case "beat":
            return x, y, 0.0, 1.0 + 0.1 * math.sin(phase + 7.0 * seconds)
        case "swing":
            angle = 0.6 * math.sin(phase + 2.2 * seconds)
            return x + 0.3 * math.sin(angle), y + 0.12 * math.cos(angle) - 0.1, angle, 1.0
    raise ValueError(f"unknown motion {motion!r}")
