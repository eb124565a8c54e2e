"""Latencies of very many architectures of one space at once.

What a group of blocks costs depends on only a few of the space's numbers. Each combination of them
is computed once, by building an architecture that has it; after that a prediction is a few look-ups
in arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ghostnas.arrays import Array
from ghostnas.latency.op_costs import OpCosts, Sums
from ghostnas.latency.predictor import Predictor
from ghostnas.networks.space import Space, SpacePart, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Milliseconds, one entry per architecture, as in `ghostnas.latency.predictor.Prediction`."""

    latency_ms: Array
    low_ms: Array
    high_ms: Array


class Sweep:
    """Predicts architectures of a space from the indices of their options.

    Column `j` of the indices is the option of the `j`-th of `names`. A number that an architecture
    does not use changes nothing.

    Raises:
        InputError: the space's parts cannot be separated.
        MissingOpError: on prediction, as `Predictor`.
    """

    def __init__(self, space: Space, predictor: Predictor) -> None:
        self.names = tuple(space.choices)
        self._space = space
        self._predictor = predictor
        self._parts = [_Part(space, predictor.costs, part) for part in space.parts()]

    def sample(self, count: int, seed: int) -> Array:
        """Indices (count, names) of random architectures, options drawn uniformly."""
        rng = np.random.default_rng(seed)
        sizes = [len(self._space.choices[name]) for name in self.names]
        return rng.integers(0, sizes, (count, len(sizes)))

    def params(self, indices: Array) -> dict[str, Value]:
        """Parameters of one architecture, for `Space.decode`."""
        options = self._space.choices
        return {name: options[name][at] for name, at in zip(self.names, indices, strict=True)}

    def predict(self, indices: Array) -> Latencies:
        """Latencies of many architectures.

        Args:
            indices: whole numbers (architectures, names).
        """
        total = sum(part.look_up(indices) for part in self._parts)
        latency_ms, low_ms, high_ms = self._predictor.bounds(
            Sums(*np.asarray(total).T, interpolated=())  # type: ignore[misc]
        )
        return Latencies(latency_ms=latency_ms, low_ms=low_ms, high_ms=high_ms)


class _Part:
    """One of the space's parts: an array with one row of sums per combination of its numbers."""

    def __init__(self, space: Space, costs: OpCosts, part: SpacePart) -> None:
        names = list(space.choices)
        self._space = space
        self._costs = costs
        self._part = part
        self._columns = [names.index(name) for name in part.names]
        self._sizes = tuple(len(space.choices[name]) for name in part.names)
        self._rows = np.zeros((math.prod(self._sizes), len(Sums._fields) - 1))
        self._known = np.zeros(len(self._rows), dtype=bool)
        depth = f"group{part.group}.depth"
        self._depth_column = names.index(depth) if depth in names else None

    def look_up(self, indices: Array) -> Array:
        """Sums (architectures, columns) of this part of each architecture."""
        times = self._times(indices)
        codes = np.zeros(len(indices), dtype=np.int64)
        for column, size in zip(self._columns, self._sizes, strict=True):
            codes = codes * size + indices[:, column]
        for code in np.unique(codes[(times > 0) & ~self._known[codes]]):
            self._rows[code] = self._work_out(int(code))
            self._known[code] = True
        rows: Array = times[:, None] * self._rows[codes]
        return rows

    def _times(self, indices: Array) -> Array:
        """How often each architecture has the part."""
        if not self._part.repeated:
            return np.ones(len(indices), dtype=np.int64)
        depths = np.array(self._space.depths(self._part.group))
        chosen = 0 if self._depth_column is None else indices[:, self._depth_column]
        times: Array = np.broadcast_to(depths[chosen] - 1, len(indices))
        return times

    def _work_out(self, code: int) -> tuple[float, ...]:
        """Sums of the part in the smallest architecture that has these numbers."""
        space, group = self._space, self._part.group
        shallow = {}
        for each in range(1, space.groups + 1):
            depths = space.depths(each)
            shallow[each] = max(depths) if self._part.repeated and each == group else min(depths)
        params: dict[str, Value] = {f"group{each}.depth": n for each, n in shallow.items()}
        options = zip(self._part.names, np.unravel_index(code, self._sizes), strict=True)
        params |= {name: space.choices[name][at] for name, at in options}
        position = space.place(self._part, params)
        if position is None:  # the group's block is skipped, whatever its depth
            return (0.0,) * self._rows.shape[1]
        return self._costs.of_part(space.decode(params), position)[:-1]
