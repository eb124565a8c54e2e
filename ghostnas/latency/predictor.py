"""The latency of a whole network from a table of its ops, with an interval.

A network's latency is the sum over its ops, corrected by the networks that were measured whole on
the same device; their spread around predictions calibrates the interval. A table without such has
no correction: there the interval's ends assume that the errors of all ops lie on one side. With a
correction they assume so only of ops whose kind the table lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ghostnas.errors import InputError
from ghostnas.ir.graph import Graph
from ghostnas.latency import calibration
from ghostnas.latency.op_costs import OpCosts, Sums
from ghostnas.latency.op_signature import OpSignature
from ghostnas.latency.table import Table
from ghostnas.networks.arch import Arch

CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Milliseconds of one network; `interpolated` are its ops that the table lacks.

    `calibrated` says that the interval was calibrated on networks measured whole.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    interpolated: tuple[OpSignature, ...]
    calibrated: bool


class Predictor:
    """Predicts from one table. Ops and parts of networks are computed once and cached.

    Args:
        confidence: the share of networks whose latency the interval is to hold.

    Raises:
        InputError: the table is not calibrated for that confidence.
        MissingOpError: on prediction, if an op is missing and the table has too few of its kind
            and of all its relatives.
    """

    def __init__(self, table: Table, confidence: float = CONFIDENCE) -> None:
        self.table = table
        self.costs = OpCosts(table)
        if table.correction is not None:
            self._width = calibration.quantile(table.correction, confidence)
        elif confidence != CONFIDENCE:
            raise InputError(
                f"table {table.name} was calibrated on no networks: it has only its own range, "
                f"for a confidence of {CONFIDENCE:g}"
            )

    def predict(self, network: Graph | Arch) -> Prediction:
        """Latency of a network with a batch of one; a graph may be deployed or not."""
        of = self.costs.of_arch if isinstance(network, Arch) else self.costs.of_graph
        return self.from_sums(of(network))  # type: ignore[arg-type]

    def from_sums(self, sums: Sums) -> Prediction:
        """Latency of the network that these ops form."""
        latency_ms, low_ms, high_ms = map(float, self.bounds(sums))
        return Prediction(
            latency_ms=latency_ms,
            low_ms=low_ms,
            high_ms=high_ms,
            interpolated=sums.interpolated,
            calibrated=self.table.correction is not None,
        )

    def bounds(self, sums: Sums) -> tuple[Any, Any, Any]:
        """Latency and the ends of its interval, in milliseconds; arrays if the sums are."""
        if self.table.correction is None:
            latency_ms = sums.latency_ms
            low_ms = np.maximum(latency_ms - sums.spread_ms, 0.0)
            return latency_ms, low_ms, latency_ms + sums.spread_ms
        latency_ms = calibration.apply(self.table.correction, sums, self.costs.bytes_a_weight)
        factor = np.exp(self._width * calibration.uncertainty(sums))
        borrowed = sums.borrowed_ms / sums.latency_ms
        low_ms = latency_ms * (1.0 - borrowed) / factor
        return latency_ms, low_ms, latency_ms * (1.0 + borrowed) * factor
