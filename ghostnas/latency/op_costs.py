"""What a network's ops cost on a table, added up: the sums that a prediction is made from.

They are additive over the parts of an architecture, and a part's are computed only once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from ghostnas.errors import MissingOpError
from ghostnas.ir.graph import Graph
from ghostnas.latency.interpolation import Interpolator
from ghostnas.latency.op_signature import OpSignature, signatures, weight_count
from ghostnas.latency.table import Table
from ghostnas.networks.arch import Arch, Part, lower_part, parts


class Sums(NamedTuple):
    """Over some ops: milliseconds, errors in milliseconds, how many ops, numbers of weights.

    Attributes:
        spread_ms: the errors of all ops, as if all lay on one side.
        variance_ms2: squares of the errors of the ops that the table lacks, of kinds it has.
        borrowed_ms: errors of those whose kind it lacks, as if all lay on one side. What networks
            measured whole say of errors does not apply to these: they count as they are.
        interpolated: all ops that the table lacks.
    """

    latency_ms: float
    spread_ms: float
    variance_ms2: float
    ops: int
    weights: int
    borrowed_ms: float
    interpolated: tuple[OpSignature, ...]


class OpCost(NamedTuple):
    """Milliseconds of an op, and the share of them that it may be off by.

    `guessed` if it was interpolated, `borrowed` if from other kinds of op.
    """

    latency_ms: float
    error: float
    weights: int
    guessed: bool = False
    borrowed: bool = False


class OpCosts:
    """A table's ops, and for those it lacks its cost model, or without one an interpolation.

    Raises:
        MissingOpError: on use, if an op is missing and the table has too few of its kind and of
            all its relatives.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        method = table.origin.op_error
        self._costs = {
            row: OpCost(
                t.median_ms,
                max(method, (t.p90_ms - t.p10_ms) / (2 * t.median_ms)),
                weight_count(row),
            )
            for row, t in table.rows.items()
        }
        self._parts: dict[Part, Sums] = {}

    @property
    def bytes_a_weight(self) -> int:
        return 1 if self._table.origin.dtype == "int8" else 4

    def of_graph(self, graph: Graph) -> Sums:
        """The sums of a network, deployed or not."""
        total = spread = variance = borrowed_ms = 0.0
        ops = weights = 0
        missing = []
        for signature in signatures(graph):
            latency_ms, error, weight, guessed, borrowed = self._costs.get(signature) or self.of_op(
                signature
            )
            if borrowed:
                borrowed_ms += latency_ms * error
            elif guessed:
                variance += (latency_ms * error) ** 2
            if guessed:
                missing.append(signature)
            total += latency_ms
            spread += latency_ms * error
            weights += weight
            ops += 1
        return Sums(total, spread, variance, ops, weights, borrowed_ms, tuple(missing))

    def of_arch(self, arch: Arch) -> Sums:
        """The sums of an architecture; quick, since other architectures share its parts."""
        return add(self._of_part(part) for part in parts(arch))

    def of_part(self, arch: Arch, position: int) -> Sums:
        """The sums of its stem (position 0), a block or its head (the last)."""
        return self._of_part(parts(arch)[position])

    def _of_part(self, part: Part) -> Sums:
        known = self._parts.get(part)
        if known is None:
            known = self._parts[part] = self.of_graph(lower_part(part))
        return known

    def of_op(self, signature: OpSignature) -> OpCost:
        """What one op costs."""
        cost = self._costs.get(signature)
        if cost is None:
            model, origin = self._table.model, self._table.origin
            if model is None:
                cost = self._interpolate(signature)
            else:
                latency_ms = model.latency_ms(signature, origin.dtype)
                cost = OpCost(latency_ms, origin.op_error, weight_count(signature))
            self._costs[signature] = cost
        return cost

    def _interpolate(self, signature: OpSignature) -> OpCost:
        guess = self._interpolator.predict(signature)
        if guess is None:
            raise MissingOpError(
                f"table {self._table.name} has too few ops like {signature} to predict it; "
                "build a table with: ghostnas latency build"
            )
        error = min(1.0, guess.error + self._table.origin.op_error)
        weight = weight_count(signature)
        return OpCost(guess.latency_ms, error, weight, guessed=True, borrowed=guess.borrowed)

    @cached_property
    def _interpolator(self) -> Interpolator:
        return Interpolator({op: timing.median_ms for op, timing in self._table.rows.items()})


def add(several: Iterable[Sums]) -> Sums:
    """The sums of all together."""
    total = spread = variance = borrowed_ms = 0.0
    ops = weights = 0
    missing: tuple[OpSignature, ...] = ()
    for part in several:
        total += part.latency_ms
        spread += part.spread_ms
        variance += part.variance_ms2
        ops += part.ops
        weights += part.weights
        borrowed_ms += part.borrowed_ms
        missing += part.interpolated
    return Sums(total, spread, variance, ops, weights, borrowed_ms, missing)
