"""Weights that no training has made, to compare readers on and to time files with."""

from __future__ import annotations

import numpy as np

from ghostnas.arrays import Array
from ghostnas.ir.branches import count_terms
from ghostnas.ir.graph import Graph, weight_shapes


def random_weights(graph: Graph, seed: int) -> dict[str, Array]:
    """Weights as after some training: scaled normal kernels, batch norms off their initial values.

    Activations stay near unit scale, as they do in a trained network, so that readers can be
    compared on them: batch norms whose outputs are summed as branches of one convolution share that
    scale. No weight is zero, so no runtime can skip one.
    """
    terms = count_terms(graph)
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for node in graph.nodes:
        for key, shape in weight_shapes(node).items():
            if key.endswith(".running_var"):
                values = rng.uniform(1.0, 2.0, shape)
            elif len(shape) == 1 and key.endswith(".weight"):
                values = rng.uniform(0.5, 1.5, shape)
            elif len(shape) == 1:
                values = rng.normal(0.0, 0.1, shape)
            else:
                values = rng.normal(0.0, float(np.prod(shape[1:])) ** -0.5, shape)
            if node.name in terms:
                values = (
                    values if key.endswith("running_var") else values * terms[node.name] ** -0.5
                )
            weights[key] = values.astype(np.float32)
    return weights
