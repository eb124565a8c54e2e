"""Holds an exported file, opened as its user will, against the torch network; writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghostnas import tflite, tflite_run
from ghostnas.deploy import deploy
from ghostnas.errors import ExportError, InputError
from ghostnas.graph import Array, Concat, Conv, Dense, GlobalPool, Graph, Weights
from ghostnas.model_file import open_model
from ghostnas.torch_net import net_of

RANDOM_IMAGES = 3  # that prove a file where no pictures are given
PROOF_IMAGES = 32  # at most of those that are given
AGREEMENT_IMAGES = 16  # fewer say nothing of how often two networks agree


class Tolerance(NamedTuple):
    """How far a file's logits may be from torch's, as shares of their largest magnitude, and for
    how many of the pictures the first class must be the same.
    """

    largest: float
    mean: float
    agreement: float


TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-4, 0.0),
    "fp16": Tolerance(2e-2, 2e-2, 0.0),
    "int8": Tolerance(np.inf, 0.1, 0.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written file, and how its own runtime's logits compare with the torch network's.

    Attributes:
        difference, mean_difference: largest and mean one, as shares of the largest logit.
        agreement: share of the proof's pictures with the same first class.
        pictures: how many these were.
        xnnpack_parts: of a .tflite: in how many parts XNNPACK took it; 1 is all of it at once.
        ops: of a .tflite: how many of each.
    """

    path: Path
    format: str
    dtype: str
    size_bytes: int
    difference: float
    mean_difference: float
    agreement: float
    pictures: int
    xnnpack_parts: int | None = None
    ops: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "format": self.format,
            "dtype": self.dtype,
            "bytes": self.size_bytes,
            "difference_from_torch": self.difference,
            "mean_difference_from_torch": self.mean_difference,
            "same_class": self.agreement,
            "proof_pictures": self.pictures,
            "xnnpack_parts": self.xnnpack_parts,
            "ops": dict(self.ops) if self.ops is not None else None,
        }


def proof_images(graph: Graph, calibration: Array | None) -> Array:
    if calibration is not None:
        return calibration[:PROOF_IMAGES].astype(np.float32)
    drawn = np.random.default_rng(0).normal(size=(RANDOM_IMAGES, *graph.input_shape))
    return drawn.astype(np.float32)


def torch_logits(graph: Graph, values: Weights, images: Array) -> Array:
    import torch

    with torch.inference_mode():
        logits: Array = net_of(graph, values)(torch.from_numpy(images)).numpy()
    if not np.isfinite(logits).all():
        raise InputError("the weights give logits that are no finite numbers")
    return logits


def prove(
    path: Path, kind: str, dtype: str, graph: Graph, images: Array, expected: Array
) -> Exported:
    """The file as a user would open it, held against torch.

    Raises:
        ExportError: it is too far from it, or XNNPACK does not take all of a float .tflite at once.
    """
    logits = open_model(path).run(images)
    apart = np.abs(logits - expected) / (np.abs(expected).max() or 1.0)
    agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
    largest, mean = float(apart.max()), float(apart.mean())
    allowed = TOLERANCES[dtype]
    if not largest <= allowed.largest:
        raise ExportError(f"logits differ from torch's by {largest:.1e}, over {allowed.largest}")
    if not mean <= allowed.mean:
        raise ExportError(
            f"logits differ from torch's by {mean:.2g} on average, over {allowed.mean}; give more "
            "pictures for calibration, or export in fp32 or fp16"
        )
    if len(images) >= AGREEMENT_IMAGES and agreement < allowed.agreement:
        raise ExportError(
            f"puts the class first that torch does for {agreement:.0%} of {len(images)} pictures "
            f"only, under {allowed.agreement:.0%}"
        )
    parts = ops = None
    if kind == "tflite":
        parts, ops = _inspect(path.read_bytes(), dtype, graph)
    return Exported(
        path=path,
        format=kind,
        dtype=dtype,
        size_bytes=path.stat().st_size,
        difference=largest,
        mean_difference=mean,
        agreement=agreement,
        pictures=len(images),
        xnnpack_parts=parts,
        ops=ops,
    )


def _inspect(model: bytes, dtype: str, graph: Graph) -> tuple[int, dict[str, int]]:
    parts, gives_output = tflite_run.delegates(tflite_run.load(model))
    if dtype != "int8" and not (parts == 1 and gives_output):
        raise ExportError(f"XNNPACK took the model in {parts} parts, not in one")
    ops = tflite.count_ops(model)
    nodes = [type(node.op) for node in deploy(graph).nodes]
    for kind, names in {
        Conv: ("CONV_2D", "DEPTHWISE_CONV_2D"),
        Dense: ("FULLY_CONNECTED",),
        Concat: ("CONCATENATION",),
        GlobalPool: ("MEAN",),
    }.items():
        found, wanted = sum(ops.get(name, 0) for name in names), nodes.count(kind)
        if found != wanted:
            raise ExportError(f"holds {found} {' and '.join(names)} for {wanted} in the network")
    return parts, ops
