"""How are pictures prepared for a checkpoint's tower, by its `preprocessor_config.json`?"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

Three = tuple[float, float, float]

RESAMPLING = (2, 3)
"""Bilinear and bicubic, by Pillow's numbers: both are done as bicubic."""


def preparation(settings: Mapping[str, Any], image_size: int) -> tuple[Three, Three, float | None]:
    """Mean, deviation and `VideoEncoder.crop` for a tower that sees squares of `image_size`.

    Raises ValueError for what is not done here.
    """
    if not settings.get("do_rescale", True):
        _refuse(settings, "do_rescale", "true")
    factor = settings.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        _refuse(settings, "rescale_factor", "1 / 255")
    if settings.get("resample", 3) not in RESAMPLING:
        _refuse(settings, "resample", "2 or 3")
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if settings.get("do_normalize", True):
        mean, std = _three(settings, "image_mean"), _three(settings, "image_std")
    size = settings.get("size", image_size)
    shortest = isinstance(size, Mapping) and "shortest_edge" in size
    if not settings.get("do_center_crop", shortest):
        if shortest or _length(size) != image_size:
            _refuse(settings, "size", f"{image_size} x {image_size}")
        return mean, std, None
    if _length(settings.get("crop_size", image_size)) != image_size:
        _refuse(settings, "crop_size", f"{image_size} x {image_size}")
    if not image_size <= _length(size) <= 4 * image_size:
        _refuse(settings, "size", f"a shortest_edge of at least {image_size}")
    return mean, std, image_size / _length(size)


def _length(size: Any) -> int:
    """Pixels that a number, {"shortest_edge": n} or {"height": n, "width": n} stand for, or 0."""
    if isinstance(size, Mapping):
        shortest = size.get("shortest_edge")
        size = shortest if shortest or size.get("height") != size.get("width") else size["height"]
    return size if type(size) is int else 0


def _three(settings: Mapping[str, Any], key: str) -> Three:
    match settings.get(key):
        case [int() | float() as red, int() | float() as green, int() | float() as blue]:
            three = float(red), float(green), float(blue)
            if all(math.isfinite(value) for value in three) and (key != "image_std" or all(three)):
                return three
    return _refuse(settings, key, "a list of three numbers")


def _refuse(settings: Mapping[str, Any], key: str, wanted: str) -> NoReturn:
    found = repr(settings.get(key))[:80]
    raise ValueError(f"preprocessor_config.json: {key} is {found}, and only {wanted} is done here")
