"""Weights as .safetensors files: arrays by their published key, and nothing executable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save as serialize

from ghostnas.arrays import Array
from ghostnas.errors import InputError, short
from ghostnas.files import SEAL_MARK, check_seal, read_bytes, seal, write_whole
from ghostnas.ir.graph import Weights
from ghostnas.ir.preprocessing import Preprocessing, from_json

PREPROCESSING = "preprocessing"  # its key in the file's metadata
STEP_COUNTER = "num_batches_tracked"  # of PyTorch's batch norms; not a weight
_SIZES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def save(weights: Weights, path: Path, preprocessing: Preprocessing | None = None) -> None:
    """Write the file whole or not at all, with what the network expects of an image."""
    arrays = {key: np.ascontiguousarray(array) for key, array in weights.items()}
    about = {"seal": SEAL_MARK}
    if preprocessing is not None:  # in one text: the library writes several in no fixed order
        about = {PREPROCESSING: json.dumps({**preprocessing.to_json(), **about})}
    write_whole(path, seal(serialize(arrays, about)))


def load(path: Path) -> dict[str, Array]:
    """The weights of a file as float32 arrays; float16, bfloat16 and float64 are converted.

    Raises:
        InputError: there is no such file, it is damaged, or it holds anything but finite numbers.
    """
    return parse(read_bytes(path), str(path))


def preprocessing_of(path: Path) -> Preprocessing | None:
    """What the file says its network expects of an image, if anything.

    Raises:
        InputError: as `load`, or what it says there is invalid.
    """
    return parse_preprocessing(read_bytes(path), str(path))


def parse(content: bytes, where: str) -> dict[str, Array]:
    """As `load`, from a file's content; `where` names it in an error."""
    arrays = {}
    for key, about in _deserialize(content, where):
        if key.endswith(STEP_COUNTER):
            continue
        if about["dtype"] not in _SIZES:
            raise InputError(f"{where}: {short(key)} is of type {about['dtype']}, not a float")
        array = np.frombuffer(about["data"], _SIZES[about["dtype"]])
        if about["dtype"] == "BF16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[key] = array.reshape(about["shape"])
    return finite(arrays, where)


def parse_preprocessing(content: bytes, where: str) -> Preprocessing | None:
    """As `preprocessing_of`, from a file's content; `where` names it in an error."""
    _deserialize(content, where)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header.get("__metadata__", {}).get(PREPROCESSING)
    if text is None:
        return None
    return from_json(text, f"{where}: {PREPROCESSING}")


def finite(arrays: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The arrays as float32.

    Raises:
        InputError: there are none, or some number is not finite or beyond float32.
    """
    if not arrays:
        raise InputError(f"{where}: holds no weights")
    found = {}
    for key, array in arrays.items():
        with np.errstate(over="ignore", invalid="ignore"):
            found[key] = np.ascontiguousarray(array, np.float32)
        if not np.isfinite(found[key]).all():
            raise InputError(f"{where}: {short(key)} holds numbers that are not finite")
        if key.endswith(".running_var") and (found[key] < 0).any():
            raise InputError(f"{where}: {short(key)} holds a variance below 0")
    return found


def _deserialize(content: bytes, where: str) -> list[tuple[str, dict[str, Any]]]:
    check_seal(content, where)
    try:
        return list(safetensors.deserialize(content))  # type: ignore[no-untyped-call]
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{where}: is not a complete .safetensors file: {short(error)}") from error
