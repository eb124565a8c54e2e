"""Shared by end-to-end tests: a small space and small images, so that a search takes seconds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLED = 8  # of what is numbered, run by .ci/run
# Op by op, as a device's table is: 2,000 ops of the space ghostnet on an emulated Cortex-A76.
TABLE = str(Path(__file__).parent / "golden" / "emulated-a76.csv")
SPACE = """
block = "ghost"
alpha = 1.0
resolution = [32, 64]
round_to = 4

[stem]
channels = 8

[[group]]
stride = 2
depth = [1, 2]
width = [8, 12, 16]
expansion = [1, 2]
se = [0, 0.25]
ghost_ratio = [2, 3]
cheap_kernel = [3, 5]
kernel = [3, 5]

[head]
channels = [16, 32]
features = 32
"""


def write_space(folder: Path) -> Path:
    path = folder / "small.toml"
    path.write_text(SPACE)
    return path


def write_pictures(folder: Path, a_class: int = 24, size: int = 16) -> Path:
    """Bright and dark images, one folder per class, some as PNG and some as JPEG."""
    rng = np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 50)):
        place = folder / "pictures" / name
        place.mkdir(parents=True)
        for index in range(a_class):
            pixels = np.clip(rng.normal(level, 20, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.{'jpg' if index % 2 else 'png'}")
    return folder / "pictures"


def numbered(count: int, by_default: int) -> list:
    """Parameters from 0 to `count`: the first ones run by default, some more with ``-m slow``, and
    the rest are `exhaustive` besides.
    """
    marks = [pytest.mark.slow, pytest.mark.exhaustive]
    return [
        pytest.param(n, marks=[] if n < by_default else marks[: 1 if n < SAMPLED else 2])
        for n in range(count)
    ]
