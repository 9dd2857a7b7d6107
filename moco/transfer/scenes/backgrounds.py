"""Backgrounds for composed scenes: random colored textures with edges and shapes."""

import itertools
import math
from colorsys import hsv_to_rgb
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from moco.images.decode import Pixels

Field = NDArray[np.float32]
"""float32, height x width, in [0, 1]."""

OCTAVES = 4
_CALM = 0.2  # contrast between a texture's colors without clutter


def background(draw: Generator, height: int, width: int, clutter: float) -> Pixels:
    """Draw a texture, or two that meet at an edge, some shapes on them, and grain over everything.

    Args:
        draw: the random generator.
        height: pixels.
        width: pixels.
        clutter: from 0, soft shades of one color, to 1: full contrast, an edge in half of the
            images, up to four shapes.

    Returns:
        uint8, height x width x 3.
    """
    image = _texture(draw, height, width, clutter)
    if draw.random() < 0.5 * clutter:
        beyond = _along(draw, height, width) > draw.uniform(-0.2, 0.2)
        image[beyond] = _texture(draw, height, width, clutter)[beyond]
    for _ in range(int(draw.uniform(0, 1 + 4 * clutter))):
        _add_shape(draw, image)
    grain = draw.integers(0, 256, (height, width), dtype=np.uint8).astype(np.float32)
    soft = 255 * clouds(draw, height, width, 6)
    light = draw.uniform(0.02, 0.1) * (grain - 128) + draw.uniform(0.05, 0.25) * (soft - 128)
    return np.clip(image + light[:, :, None], 0, 255).astype(np.uint8)


def color(draw: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> NDArray[np.float32]:
    """Draw a color with saturation and value from these ranges: float32 [3] in [0, 255]."""
    rgb = hsv_to_rgb(draw.random(), draw.uniform(*saturation), draw.uniform(*value))
    return np.array([round(255 * channel) for channel in rgb], np.float32)


def clouds(draw: Generator, height: int, width: int, cells: float) -> Field:
    """Draw value noise in octaves, each twice as fine and half as strong as the one before.

    Args:
        draw: the random generator.
        height: pixels.
        width: pixels.
        cells: of the coarsest octave along the longer side.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(OCTAVES):
        total += np.float32(0.5**octave) * _value_noise(draw, height, width, cells * 2**octave)
    low, high = total.min(), total.max()
    return _field((total - low) / max(high - low, np.float32(1e-6)))


def _value_noise(draw: Generator, height: int, width: int, cells: float) -> Field:
    """Random numbers on a grid, joined smoothly."""
    step = cells / max(height, width)
    (top, y), (left, x) = _knots(draw, height, step), _knots(draw, width, step)
    grid = draw.random((int(top[-1]) + 2, int(left[-1]) + 2), dtype=np.float32)
    rows = grid[:, left] * (1 - x) + grid[:, left + 1] * x
    return _field(rows[top] * (1 - y[:, None]) + rows[top + 1] * y[:, None])


def _field(values: NDArray[Any]) -> Field:
    return values.astype(np.float32, copy=False)


def _knots(draw: Generator, length: int, step: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each pixel, the grid point before it and how far it is to the next, eased."""
    at = draw.random() + step * np.arange(length)
    before = np.floor(at).astype(np.int64)
    share = (at - before).astype(np.float32)
    return before, share * share * (3 - 2 * share)


def _texture(draw: Generator, height: int, width: int, clutter: float) -> Pixels:
    noise = clouds(draw, height, width, draw.uniform(1.5, 5))
    field: Field
    match int(draw.integers(5)):
        case 0:
            field = noise
        case 1:
            field = 0.5 + 0.7 * _along(draw, height, width) + 0.3 * (noise - 0.5)
        case 2:
            field = _waves(draw, _along(draw, height, width), noise)
        case 3:
            across, along = _along(draw, height, width), _along(draw, height, width)
            field = 0.5 * (_waves(draw, across, noise) + _waves(draw, along, noise))
        case _:
            steps = int(draw.integers(3, 6))
            field = _field(np.floor(noise * steps) / (steps - 1))
    return _colored(draw, field, _CALM + (1 - _CALM) * clutter)


def _along(draw: Generator, height: int, width: int) -> Field:
    """How far each pixel lies along a random direction from the center, in longer sides."""
    angle = draw.uniform(0, 2 * math.pi)
    longer = max(height, width)
    y = (np.arange(height, dtype=np.float32) - height / 2) * np.float32(math.sin(angle) / longer)
    x = (np.arange(width, dtype=np.float32) - width / 2) * np.float32(math.cos(angle) / longer)
    return y[:, None] + x


def _waves(draw: Generator, along: Field, noise: Field) -> Field:
    """Stripes, bent by the noise, with soft or hard edges."""
    place = along * np.float32(draw.uniform(3, 12)) + noise * np.float32(draw.uniform(0, 1.5))
    triangle = np.abs(np.mod(place, 2) - 1)
    return np.clip((triangle - 0.5) * np.float32(draw.uniform(1, 8)) + 0.5, 0, 1)


def _colored(draw: Generator, field: Field, contrast: float) -> Pixels:
    """Three colors, blended over the field; less contrast draws them towards their mean."""
    colors = [color(draw, (0.05, 0.7), (0.15, 0.95)) for _ in range(3)]
    mean = np.mean(colors, axis=0)
    colors = [mean + (each - mean) * np.float32(contrast) for each in colors]
    mix = np.linspace(0, 1, 128, dtype=np.float32)[:, None]
    ramp = np.concatenate([a + (b - a) * mix for a, b in itertools.pairwise(colors)])
    table: Pixels = ramp.astype(np.uint8)
    return table[np.clip(field * 255, 0, 255).astype(np.uint8)]


def _add_shape(draw: Generator, image: Pixels) -> None:
    """Draw an ellipse or polygon of one color, about an item's size: an edge of no item."""
    height, width = image.shape[:2]
    radius = draw.uniform(0.06, 0.22) * max(height, width)
    center = (draw.uniform(0, width), draw.uniform(0, height))
    fill = [float(channel) for channel in color(draw, (0.05, 0.8), (0.1, 1))]
    corners = int(draw.integers(3, 7)) if draw.random() < 0.6 else 24
    turns = 2 * math.pi * (np.arange(corners) + draw.random()) / corners
    reach = radius * (draw.uniform(0.6, 1.2, corners) if corners < 24 else np.ones(corners))
    squeeze, lean = draw.uniform(0.35, 1), draw.uniform(0, math.pi)
    points = [
        (
            center[0] + r * (math.cos(t) * math.cos(lean) - squeeze * math.sin(t) * math.sin(lean)),
            center[1] + r * (math.cos(t) * math.sin(lean) + squeeze * math.sin(t) * math.cos(lean)),
        )
        for t, r in zip(turns, reach, strict=True)
    ]
    cv2.fillPoly(image, [np.rint(np.array(points) * 16).astype(np.int32)], fill, cv2.LINE_AA, 4)
