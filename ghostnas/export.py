"""Writes a network as files that a stranger can use, and proves each before it is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghostnas import onnx_model, tflite, torch_program, weights
from ghostnas.arch import Arch, lower, to_json
from ghostnas.errors import ExportError, InputError
from ghostnas.files import write_whole
from ghostnas.graph import Array, Graph, Weights
from ghostnas.torch_net import net_of

TOLERANCE = 1e-4  # largest difference of the logits as a share of their largest magnitude
PROOF_IMAGES = 3


class Format(NamedTuple):
    """How a kind of file is written, and run in its own runtime."""

    suffix: str
    write: Callable[[Graph, Weights], bytes]
    run: Callable[[bytes, Array], Array]


FORMATS = {
    "torch": Format(".pt2", torch_program.write, torch_program.run),
    "onnx": Format(".onnx", onnx_model.write, onnx_model.run),
    "tflite": Format(".tflite", tflite.write, tflite.run),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written file, and how far its logits were from the torch network's (relative)."""

    path: Path
    size_bytes: int
    difference: float

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "bytes": self.size_bytes,
            "difference_from_torch": self.difference,
        }


def parse_formats(text: str) -> list[str]:
    """The formats of a list such as ``torch,onnx``.

    Raises:
        InputError: one is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise InputError(f"format {(unknown or [text])[0]!r}: known are {', '.join(FORMATS)}")
    return names


def export(
    arch: Arch, values: Weights, formats: Sequence[str], folder: Path, name: str = "model"
) -> list[Exported]:
    """Write ``arch.json``, ``model.safetensors`` and a file a format into `folder`.

    Each model is run in its own runtime on random pictures and held against torch first.

    Raises:
        ExportError: a file's logits are further than TOLERANCE from torch's; it is not written.
        InputError: the weights do not fit the architecture.
    """
    graph = lower(arch)
    images = np.random.default_rng(0).normal(size=(PROOF_IMAGES, *graph.input_shape))
    images = images.astype(np.float32)
    expected = _torch_logits(graph, values, images)
    exported = []
    for kind in formats:
        suffix, write, run = FORMATS[kind]
        model = write(graph, values)
        difference = _difference(run(model, images), expected)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{kind}: the logits differ from torch's by {difference:.1e}, more than {TOLERANCE}"
            )
        path = folder / f"{name}{suffix}"
        write_whole(path, model)
        exported.append(Exported(path=path, size_bytes=len(model), difference=difference))
    write_whole(folder / "arch.json", json.dumps(to_json(arch), indent=1).encode())
    weights.save(values, folder / f"{name}.safetensors")
    return exported


def _torch_logits(graph: Graph, values: Weights, images: Array) -> Array:
    import torch

    with torch.inference_mode():
        logits: Array = net_of(graph, values)(torch.from_numpy(images)).numpy()
    return logits


def _difference(logits: Array, expected: Array) -> float:
    return float(np.abs(logits - expected).max() / np.abs(expected).max())
