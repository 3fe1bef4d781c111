"""Backgrounds of drawn scenes: quiet, muted pictures that leave the colour to the object."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Pixels = np.ndarray  # (H, W, 3) uint8


def background(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """One picture (H, W, 3) uint8 of a random kind; `size` is (W, H)."""
    painters = (_gradient, _clouds, _hills, _planks, _lights)
    return painters[rng.integers(len(painters))](size, rng)


def _muted(rng: np.random.Generator, value: tuple[float, float]) -> np.ndarray:
    """A colour (3,) float32 of little saturation and a brightness within `value`."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.08, 0.3), rng.uniform(*value))
    return np.array([255.0 * part for part in rgb], dtype=np.float32)


def _noise(size: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise (H, W) float32 in 0..1 with about `cells` bumps across."""
    coarse = rng.integers(0, 256, size=(max(2, cells * size[1] // size[0]), cells), dtype=np.uint8)
    fine = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float32) / 255.0


def _blend(weight: np.ndarray, low: np.ndarray, high: np.ndarray) -> Pixels:
    mixed = low + (high - low) * weight[..., None]
    pixels: Pixels = np.clip(mixed, 0, 255).astype(np.uint8)
    return pixels


def _gradient(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    x = np.linspace(0, 1, size[0], dtype=np.float32)[None, :]
    y = np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    tilt = rng.uniform(-0.6, 0.6)
    weight = np.clip(y + tilt * (x - 0.5), 0, 1)
    return _blend(weight, _muted(rng, (0.45, 0.65)), _muted(rng, (0.15, 0.35)))


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    weight = (
        0.55 * _noise(size, 5, rng) + 0.3 * _noise(size, 13, rng) + 0.15 * _noise(size, 40, rng)
    )
    return _blend(weight, _muted(rng, (0.2, 0.35)), _muted(rng, (0.5, 0.7)))


def _hills(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    width, height = size
    picture = _gradient(size, rng).astype(np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)
    shade = _muted(rng, (0.4, 0.55))
    for layer in range(3):
        ridge = np.full(width, height * (0.5 + 0.16 * layer), dtype=np.float32)
        for _ in range(2):
            cycles, phase = rng.uniform(1, 3) * (layer + 1) / width, rng.uniform(0, 6.28)
            ridge += 0.05 * height * np.sin(6.28 * cycles * x + phase)
        cover = np.clip(rows - ridge[None, :], 0.0, 1.0)[..., None]
        picture = picture * (1 - cover) + shade * (0.85 - 0.25 * layer) * cover
    pixels: Pixels = picture.astype(np.uint8)
    return pixels


def _planks(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    width = size[0]
    plank = rng.integers(28, 48)
    number = np.arange(width) // plank
    tone = rng.uniform(0.7, 1.0, size=int(number[-1]) + 1).astype(np.float32)[number]
    gap = np.where(np.arange(width) % plank < 2, np.float32(0.5), np.float32(1.0))
    grain = Image.fromarray(rng.integers(0, 256, size=(6, width), dtype=np.uint8))
    lines = np.asarray(grain.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    wood = _muted(rng, (0.4, 0.6))
    return _blend((tone * gap)[None, :] * (0.82 + 0.18 * lines), np.zeros(3, np.float32), wood)


def _lights(size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Dim blurred lights in the dark."""
    picture = Image.fromarray(
        _blend(_noise(size, 4, rng), _muted(rng, (0.1, 0.18)), _muted(rng, (0.2, 0.3)))
    )
    glow = Image.new("RGB", size)
    canvas = ImageDraw.Draw(glow)
    for _ in range(26):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        radius = rng.uniform(0.01, 0.04) * size[0]
        red, green, blue = (int(c) for c in _muted(rng, (0.25, 0.55)))
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(red, green, blue))
    glow = glow.filter(ImageFilter.GaussianBlur(size[0] / 110))
    total = np.asarray(picture, dtype=np.uint16) + np.asarray(glow, dtype=np.uint16)
    return np.minimum(total, 255).astype(np.uint8)
