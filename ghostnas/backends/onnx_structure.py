"""A network's structure as an ONNX file to look at, in Netron for instance: every node is named by
its place, every map has its shape. Its weights are random; `ghostnas.deployment` exports real ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from ghostnas.backends import onnx_writer
from ghostnas.ir.graph import Graph
from ghostnas.ir.random_weights import random_weights

SEED = 0


def write(graph: Graph, title: str, notes: Mapping[str, str]) -> bytes:
    """The deployed network: batch norms folded and branches merged, as runtimes run it.

    Args:
        graph: its nodes' names become those of the file; `ghostnas.networks.arch.lower_by_place`
            names them by stage and block.
        title: the model's name.
        notes: by place, such as ``stage3/block1``, the description of each node of it.
    """
    written = onnx_writer.write(graph, random_weights(graph, SEED))
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(written), strict_mode=True)
    model.graph.name = title
    model.doc_string = f"{title}. Random weights: this file shows the structure only."
    for node in model.graph.node:
        parts = node.name.split("/")
        for end in range(1, len(parts)):
            if note := notes.get("/".join(parts[:end])):
                node.doc_string = note
    return model.SerializeToString()  # type: ignore[no-any-return]
