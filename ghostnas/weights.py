"""Weights as .safetensors files: arrays by their published key, and nothing that could run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialize

from ghostnas.errors import InputError
from ghostnas.files import write_whole
from ghostnas.graph import Array, Weights


def save(weights: Weights, path: Path) -> None:
    """Write the file whole or not at all."""
    arrays = {key: np.ascontiguousarray(array) for key, array in weights.items()}
    write_whole(path, serialize(arrays))


def load(path: Path) -> dict[str, Array]:
    """Read a file of weights.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    try:
        return dict(parse(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path}: is no whole .safetensors file: {error}") from error
