"""A set of ten classes of 32x32 images that is drawn here: no download, and not easy.

An image holds one light figure of its class at a random place, size, angle and colour, on a dark
ground of random stripes, under noise, with a smaller figure of any class beneath or beside it.
Colour and brightness say nothing about the class; only shape does.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ghostnas.arrays import Array

Floats: TypeAlias = npt.NDArray[np.float64]

SIZE = 32
TRAIN_PICTURES = 5000
TEST_PICTURES = 1000
CLASSES = (
    *("disc", "ring", "square", "frame", "triangle"),
    *("cross", "bars", "star", "crescent", "checker"),
)
NOISE = 0.06
DISTRACTORS = 1


def draw(pictures: int, seed: int) -> tuple[Array, Array]:
    """Images (pictures, 32, 32, 3) uint8 and labels (pictures,) int64, equally many of each class.

    The same number and seed give the same images.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(pictures) % len(CLASSES))
    images = np.stack([_picture(int(label), rng) for label in labels])
    return images, labels.astype(np.int64)


def _picture(label: int, rng: np.random.Generator) -> Array:
    image = _ground(rng)
    for _ in range(DISTRACTORS):
        other = int(rng.integers(len(CLASSES)))
        image = _put(image, _figure(other, rng, size=rng.uniform(2.5, 4.0), margin=2.0), rng)
    image = _put(image, _figure(label, rng, size=rng.uniform(8.0, 12.0), margin=11.0), rng)
    image = image + rng.normal(0.0, NOISE, image.shape)
    return (np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)


def _ground(rng: np.random.Generator) -> Array:
    """Two colours in soft stripes of a random direction and width."""
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, period, phase = rng.uniform(0, np.pi), rng.uniform(4, 24), rng.uniform(0, 2 * np.pi)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + phase)
    first, second = rng.uniform(0, 0.45, 3), rng.uniform(0, 0.45, 3)
    ground: Array = wave[..., None] * first + (1 - wave[..., None]) * second
    return ground


def _put(image: Array, mask: Array, rng: np.random.Generator) -> Array:
    """The figure in a light colour of its own."""
    colour = rng.uniform(0.55, 1.0, 3)
    put: Array = image * (1 - mask[..., None]) + colour * mask[..., None]
    return put


def _figure(label: int, rng: np.random.Generator, size: float, margin: float) -> Array:
    """A soft mask (32, 32) of a figure, `size` pixels from its centre to its edge."""
    cx, cy = rng.uniform(margin, SIZE - margin, 2)
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.0)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    x, y = x - cx, y - cy
    u = (x * np.cos(angle) + y * np.sin(angle)) / size
    v = (y * np.cos(angle) - x * np.sin(angle)) / (size * squeeze)
    distance = _distance(CLASSES[label], u, v)
    mask: Array = np.clip(0.5 - distance * size, 0.0, 1.0)
    return mask


def _distance(name: str, u: Floats, v: Floats) -> Floats:
    """About the signed distance to the figure's edge, negative inside; the figure fills -1 to 1."""
    radius: Floats = np.hypot(u, v)
    box: Floats = np.maximum(np.abs(u), np.abs(v))
    distance: Floats
    match name:
        case "disc":
            distance = radius - 0.95
        case "ring":
            distance = np.abs(radius - 0.72) - 0.22
        case "square":
            distance = box - 0.85
        case "frame":
            distance = np.abs(box - 0.66) - 0.2
        case "triangle":
            distance = np.maximum(np.abs(u) * 0.87 + v * 0.5, -v) - 0.5
        case "cross":
            distance = np.maximum(np.minimum(np.abs(u), np.abs(v)) - 0.26, box - 0.95)
        case "bars":
            distance = np.maximum(np.abs(np.abs(u) - 0.6) - 0.25, np.abs(v) - 0.9)
        case "star":
            distance = radius - 0.62 - 0.33 * np.cos(5 * np.arctan2(v, u))
        case "crescent":
            distance = np.maximum(radius - 0.95, 0.8 - np.hypot(u - 0.5, v))
        case "checker":
            distance = np.maximum(box - 0.9, np.minimum(np.abs(u), np.abs(v)) * -np.sign(-u * v))
        case _:
            raise ValueError(name)
    return distance
