"""A graph and its weights as a .pt2 file: a program of torch.export that loads with torch alone."""

from __future__ import annotations

import io
import warnings

import torch

from ghostnas.graph import Array, Graph, Weights
from ghostnas.torch_net import net_of


def write(graph: Graph, weights: Weights) -> bytes:
    """The program: ``image`` (N, 3, height, width), any N, to logits (N, classes).

    Raises:
        InputError: `weights` do not fit `graph`.
    """
    net = net_of(graph, weights)
    example = torch.zeros(2, *graph.input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        program = torch.export.export(
            net, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def run(model: bytes, images: Array) -> Array:
    """Logits (n, classes) of `images` (n, 3, height, width)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(io.BytesIO(model))
    with torch.inference_mode():
        logits: Array = program.module()(torch.from_numpy(images).float()).numpy()
    return logits
