"""The latency of a whole network from a table of its ops, with an interval.

A network's latency is the sum over its ops. An op that the table has is taken from there. For one
that it has not, the table's ops of the same kind are fitted by what a kernel does (multiply-adds
with rows and channels rounded up to the tile, bytes in, bytes out, bytes of weights, a call), and
the nearest of them in size correct the fit. Such an op widens the interval by the error that the
same interpolation makes on the table's own ops, each left out in its turn.

The interval's ends take all ops off to one side at once. It is not calibrated on whole networks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ghostnas.errors import MissingOpError
from ghostnas.graph import Array, Graph
from ghostnas.latency import OpSignature, Table, signatures

ROW_TILE, CHANNEL_TILE = 6, 8  # of XNNPACK's float32 matrix kernels on 64-bit ARM with NEON
NEIGHBOURS = 3
FEWEST_TO_FIT = 4
VECTOR = 4  # float32 lanes of a NEON register

Kind: TypeAlias = tuple[str, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Milliseconds of one network; `interpolated` are its ops that the table has not."""

    latency_ms: float
    low_ms: float
    high_ms: float
    interpolated: tuple[OpSignature, ...]


class Predictor:
    """Predicts from one table. Building one fits every kind of op; a prediction is a few look-ups.

    Raises:
        MissingOpError: on prediction, if the table has too few ops of a kind that it lacks one of.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        kinds: dict[Kind, list[OpSignature]] = defaultdict(list)
        for signature in table.rows:
            kinds[_kind(signature)].append(signature)
        self._fits = {
            kind: _Fit(rows, [table.rows[row].median_ms for row in rows])
            for kind, rows in kinds.items()
            if len(rows) >= FEWEST_TO_FIT
        }
        method = table.origin.op_error
        self._known = {
            row: (t.median_ms, max(method, (t.p90_ms - t.p10_ms) / (2 * t.median_ms)))
            for row, t in table.rows.items()
        }
        self._interpolated: dict[OpSignature, tuple[float, float]] = {}

    def predict(self, graph: Graph) -> Prediction:
        """Latency of a network, deployed or not, with a batch of one."""
        total = spread = 0.0
        missing = []
        for signature in signatures(graph):
            known = self._known.get(signature)
            if known is None:
                known = self._interpolate(signature)
                missing.append(signature)
            ms, error = known
            total += ms
            spread += ms * error
        return Prediction(
            latency_ms=total,
            low_ms=total - spread,
            high_ms=total + spread,
            interpolated=tuple(missing),
        )

    def _interpolate(self, signature: OpSignature) -> tuple[float, float]:
        """Milliseconds of an op that the table has not, and its share of error."""
        if signature not in self._interpolated:
            fit = self._fits.get(_kind(signature))
            if fit is None:
                raise MissingOpError(
                    f"table {self.table.name} has too few ops like {signature} to predict it; "
                    "build one with: ghostnas latency build"
                )
            error = min(1.0, fit.error + self.table.origin.op_error)
            self._interpolated[signature] = (fit.predict(signature), error)
        return self._interpolated[signature]


class _Fit:
    """One kind of op: non-negative costs of its features, corrected by the nearest ops' residuals.

    `error` is the 90th percentile of the relative error on ops left out one by one.
    """

    def __init__(self, rows: Sequence[OpSignature], latencies_ms: Sequence[float]) -> None:
        self._features = np.array([_features(row) for row in rows])
        targets = np.array(latencies_ms)
        # Divided by the latency, so that small ops count as much as large ones.
        self._costs = _non_negative_fit(self._features / targets[:, None], np.ones(len(rows)))
        self._logs = np.log(self._features + 1.0)
        self._residuals = np.log(targets / (self._features @ self._costs))
        # Each op lies nearest to itself, so its correction is looked up among the others.
        corrections = [self._correction(at, skip=index) for index, at in enumerate(self._logs)]
        errors = np.abs(np.expm1(np.array(corrections) - self._residuals))
        self.error = float(np.percentile(errors, 90))

    def predict(self, signature: OpSignature) -> float:
        features = np.array(_features(signature))
        correction = self._correction(np.log(features + 1.0))
        return float(features @ self._costs * np.exp(correction))

    def _correction(self, at: Array, skip: int | None = None) -> float:
        """Mean log residual of the nearest ops, nearer ones weighing more."""
        distances = np.abs(self._logs - at).sum(axis=1)
        if skip is not None:
            distances[skip] = np.inf
        nearest = np.argsort(distances, kind="stable")[:NEIGHBOURS]
        weights = 1.0 / (distances[nearest] + 0.05)
        return float(weights @ self._residuals[nearest] / weights.sum())


def _kind(signature: OpSignature) -> Kind:
    """What has a kernel of its own in the runtime, and so a fit of its own here.

    Such are depthwise convolutions that make several maps of each, 1x1 convolutions of one pixel
    (which only wait for their weights), and concatenations by the number of parts.
    """
    s = signature
    variant = 0
    if s.op in ("depthwise", "concat"):
        variant = s.out_channels // s.in_channels
    elif s.op == "conv":
        variant = int(s.height * s.width == 1)
    return (s.op, s.kernel, s.stride, min(variant, 3))


def _features(signature: OpSignature) -> tuple[float, ...]:
    """Multiply-adds and tiles as rounded up, bytes read, written and of weights, pixels, pixels
    whose channels leave a remainder of the vector, and 1 for the call.
    """
    s = signature
    stride, taps = max(s.stride, 1), max(s.kernel, 1) ** 2
    pixels = -(-s.height // stride) * -(-s.width // stride)
    read, written = s.height * s.width * s.in_channels, pixels * s.out_channels
    tiles = _tiled(pixels, ROW_TILE) * _tiled(s.out_channels, CHANNEL_TILE)
    weights = 0
    if s.op == "depthwise":
        work, weights = pixels * _tiled(s.out_channels, VECTOR) * taps, taps * s.out_channels
    elif s.op in ("conv", "dense"):
        work, weights = tiles * s.in_channels * taps, s.in_channels * taps * s.out_channels
    else:
        work = written
    remainders = (s.in_channels % VECTOR > 0) + (s.out_channels % VECTOR > 0)
    return (work, tiles, read, written, weights, pixels, pixels * remainders, 1.0)


def _tiled(size: int, tile: int) -> int:
    return -(-size // tile) * tile


def _non_negative_fit(features: Array, targets: Array) -> Array:
    """Least squares with costs of at least 0; negative ones leave one by one, worst first."""
    scale = features.max(axis=0)
    scale[scale == 0] = 1.0
    scaled = features / scale
    active = list(range(features.shape[1]))
    while True:
        fitted = np.linalg.lstsq(scaled[:, active], targets, rcond=None)[0]
        if len(active) == 1 or fitted.min() >= 0:
            costs = np.zeros(features.shape[1])
            costs[active] = np.maximum(fitted, 0)
            return costs / scale  # type: ignore[no-any-return]
        active.pop(int(fitted.argmin()))
