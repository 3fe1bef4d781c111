"""Drawn objects: anti-aliased shapes with a texture and a soft shadow, as signed distances."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # (h, w), float32 in fact
Colour = tuple[int, int, int]

_PALETTE: dict[str, Colour] = {
    "red": (222, 40, 44),
    "yellow": (250, 208, 40),
    "green": (36, 184, 60),
    "blue": (44, 96, 228),
    "pink": (255, 92, 190),
    "white": (244, 244, 240),
}

# A shape maps coordinates in units of its radius, y down, to the signed distance from its outline
# in the same units: negative inside.


def _ball(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - 1.0


def _square(x: Field, y: Field) -> Field:
    distance: Field = np.maximum(np.abs(x), np.abs(y)) - 0.84
    return distance


def _triangle(x: Field, y: Field) -> Field:
    slope = 0.8660254 * np.abs(x)
    distance: Field = np.maximum(slope - 0.5 * (y + 0.12), y + 0.12) - 0.56
    return distance


def _star(x: Field, y: Field) -> Field:
    # Folded into one tenth of the plane, the outline is the line from a tip to the next notch.
    tenth = math.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - 2 * tenth * np.rint(angle / (2 * tenth)))
    radius = np.hypot(x, y)
    notch = 0.48
    tip_x, notch_x, notch_y = 1.08, notch * math.cos(tenth), notch * math.sin(tenth)
    length = math.hypot(tip_x - notch_x, notch_y)
    along, across = radius * np.cos(angle) - tip_x, radius * np.sin(angle)
    distance: Field = (along * notch_y + across * (tip_x - notch_x)) / length
    return distance


def _heart(x: Field, y: Field) -> Field:
    # A square on its corner with a disc on each of its upper sides.
    x, y = np.abs(x), y - 0.12
    half = 0.52
    corner = (x + np.abs(y)) * 0.70710678 - half
    disc = np.hypot(x - half * 0.70710678, y + half * 0.70710678) - half
    distance: Field = np.minimum(corner, disc)
    return distance


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.hypot(x, y) - 0.76) - 0.24


# A texture says how much of the second, darker tone shows, 0..1, in the same coordinates.


def _plain(x: Field, y: Field) -> Field:
    return np.zeros_like(x)


def _dots(x: Field, y: Field) -> Field:
    cell = 0.5
    across, down = (v / cell - np.rint(v / cell) for v in (x, y))
    return _soft_step(0.3 - np.hypot(across, down))


def _checks(x: Field, y: Field) -> Field:
    return _soft_step(np.sin(x * 7.5) * np.sin(y * 7.5) * 0.5)


def _stripes(x: Field, y: Field) -> Field:
    return _soft_step(np.sin(y * 14.0) * 0.25)


def _soft_step(value: Field) -> Field:
    share: Field = np.clip(0.5 + value * 8.0, 0.0, 1.0)
    return share


_SHAPES: dict[str, tuple[Callable[[Field, Field], Field], Callable[[Field, Field], Field]]] = {
    "ball": (_ball, _dots),
    "square": (_square, _checks),
    "triangle": (_triangle, _stripes),
    "star": (_star, _plain),
    "heart": (_heart, _plain),
    "ring": (_ring, _plain),
}


def paint(
    frame: np.ndarray,
    shape: str,
    colour: str,
    centre: tuple[float, float],
    radius: float,
    angle: float,
) -> None:
    """Paint one object onto `frame` (H, W, 3) uint8, in place.

    `centre` (x, y) and `radius` are in pixels, `angle` in radians clockwise. Whatever lies outside
    the frame is cut off.
    """
    outline, texture = _SHAPES[shape]
    reach = 1.25 * radius + 2
    height, width = frame.shape[:2]
    left, right = max(0, int(centre[0] - reach)), min(width, int(centre[0] + reach) + 1)
    top, bottom = max(0, int(centre[1] - reach)), min(height, int(centre[1] + reach) + 1)
    if left >= right or top >= bottom:
        return
    x = (np.arange(left, right, dtype=np.float32)[None, :] + 0.5 - centre[0]) / radius
    y = (np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - centre[1]) / radius
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    turned_x, turned_y = x * cos + y * sin, y * cos - x * sin
    distance = outline(turned_x, turned_y) * radius  # pixels
    cover = np.clip(0.5 - distance, 0.0, 1.0)
    shadow = np.zeros_like(cover)
    drop = max(2, int(radius / 12))
    shadow[drop:, drop:] = (
        0.4 * np.clip(0.5 - distance / (0.12 * radius + 2), 0.0, 1.0)[:-drop, :-drop]
    )
    light = 1.0 - 0.16 * (x + 1.4 * y) / 1.7  # from the upper left
    tone = light * (1.0 - 0.5 * texture(turned_x, turned_y))
    patch = frame[top:bottom, left:right]
    behind = (1.0 - shadow) * (1.0 - cover)
    lit = cover * tone
    # One channel at a time: long inner loops are several times faster than loops of three.
    for channel, level in enumerate(_PALETTE[colour]):
        mixed = patch[..., channel] * behind + lit * np.float32(level)
        patch[..., channel] = np.minimum(mixed, 255.0)  # the light may overshoot white
