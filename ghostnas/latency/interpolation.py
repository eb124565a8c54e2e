"""The latency of an op that a table lacks, from the ops that it has, with the error of that.

The table's ops of the same kind are fitted by what a kernel does (multiply-adds with rows and
channels rounded up to the tile, bytes in, bytes out, bytes of weights, a call), and the nearest of
them in size correct the fit. The error is the one that the same interpolation makes on the table's
own ops, each left out in turn.

A kind of which the table has too few ops borrows a fit from its relatives: the same op with other
kernels and strides, which separate the cost of a window from that of a map, or ops that treat their
bytes alike (an activation costs about what an addition does). Its error is the one that borrowing
makes on the table's own kinds, each left out as a whole.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import mul
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.optimize import nnls
from scipy.spatial import cKDTree

from ghostnas.arrays import Array
from ghostnas.latency.op_signature import NONLINEARITIES, OpSignature, taps_of, weight_count

# Rows and channels of XNNPACK's matrix kernels: NEON float32 and int8, AVX2, AVX-512.
TILES = ((6, 8), (4, 8), (4, 16), (5, 16), (7, 16), (7, 32))
NEIGHBOURS = 4
NEARNESS = 0.05  # in logs of sizes: ops nearer than this weigh about the same
FEWEST_TO_FIT = 4
LEAST_SHARE = 0.1  # of the fastest op's latency: if few ops were measured, costs may be all 0
MOST_TO_REFIT = 50  # with more ops, leaving one out hardly changes the costs
COVERED = 0.9  # the share of ops that are off by at most the stated error
VECTOR = 4  # float32 lanes of a NEON register
# XNNPACK has depthwise kernels for windows of up to 5x5. It runs a larger one as convolutions of a
# single channel each, of the 8 that a tile makes.
LARGEST_WINDOW, CHANNELS_WASTED = 25, 8
# Ops that treat what they read and write alike: if a table has none of an op, the others stand in.
RELATED = (
    frozenset({"conv", "dense"}),
    frozenset({"depthwise", "strip", "maxpool", "avgpool"}),
    frozenset({"add", "multiply", "concat", "narrow", "affine", "pad", "flatten", *NONLINEARITIES})
    | {"product", "upsample", "channelconv"},
)
FEWEST_KINDS = 4  # that show what borrowing is worth; with fewer, its error is taken as 1

Kind: TypeAlias = tuple[str, int, int, int]


class Interpolated(NamedTuple):
    """Milliseconds of an op, and the share of them by which nine in ten such are off at most.

    `borrowed` says that the table has too few ops of the kind, and its relatives were used.
    """

    latency_ms: float
    error: float
    borrowed: bool = False


class Interpolator:
    """Fitted to a table's ops once for each kind of op that is requested."""

    def __init__(self, medians_ms: Mapping[OpSignature, float]) -> None:
        self._kinds: dict[Kind, dict[OpSignature, float]] = defaultdict(dict)
        for signature in sorted(medians_ms):  # of ops equally near, the first ones are taken
            self._kinds[kind_of(signature)][signature] = medians_ms[signature]
        self._fitted = {kind for kind, ops in self._kinds.items() if len(ops) >= FEWEST_TO_FIT}
        self._fits: dict[Kind, _Fit] = {}

    def predict(self, signature: OpSignature) -> Interpolated | None:
        """None if the table has too few ops of the kind and of all its relatives."""
        kind = kind_of(signature)
        borrowed = kind not in self._fitted
        if kind not in self._fits:
            own = self._kinds.get(kind, {})
            ops = {**self._lent(kind), **own} if borrowed else own
            if len(ops) < FEWEST_TO_FIT:
                return None
            self._fits[kind] = _best_fit(ops)
        fit = self._fits[kind]
        error = self._borrowed_error if borrowed else fit.error
        return Interpolated(fit.predict(signature), error, borrowed)

    def _lent(self, kind: Kind) -> dict[OpSignature, float]:
        """The ops of the same op's kinds, of the nearest variant; otherwise all related ops."""
        others = [other for other in self._kinds if other in self._fitted and other != kind]
        lenders = [other for other in others if other[0] == kind[0]]
        if lenders:
            nearest = min(abs(other[3] - kind[3]) for other in lenders)
            lenders = [other for other in lenders if abs(other[3] - kind[3]) == nearest]
        else:
            related = next((ops for ops in RELATED if kind[0] in ops), frozenset[str]())
            lenders = [other for other in others if other[0] in related]
        return {op: ms for other in lenders for op, ms in self._kinds[other].items()}

    @cached_property
    def _borrowed_error(self) -> float:
        """The share of a borrowed latency by which nine in ten are off at most: those of the
        table's own kinds, each predicted from what would be lent to it. All kinds count alike.
        """
        errors: list[Array] = []
        for kind in self._kinds:
            lent = self._lent(kind)
            if kind in self._fitted and len(lent) >= FEWEST_TO_FIT:
                fit, own = _best_fit(lent), self._kinds[kind]
                predicted_ms = [fit.predict(op) for op in own]
                errors.append(np.abs(np.array(list(own.values())) / predicted_ms - 1.0))
        if len(errors) < FEWEST_KINDS:
            return 1.0
        every = np.concatenate(errors)
        order = np.argsort(every)
        shares = np.concatenate([np.full(len(each), 1 / len(each)) for each in errors])[order]
        rank = int(np.searchsorted(np.cumsum(shares), COVERED * len(errors)))
        return float(every[order[min(rank, len(order) - 1)]])


def _best_fit(ops: Mapping[OpSignature, float]) -> _Fit:
    """A fit of the ops' milliseconds, with the tile that predicts best."""
    rows, latencies_ms = list(ops), np.array(list(ops.values()))
    fits = [_Fit(rows, latencies_ms, tile) for tile in _tiles_of(rows[0])]
    return min(fits, key=lambda fit: fit.error)


class _Fit:
    """One kind of op: non-negative costs of its features, corrected by the nearest ops' residuals.

    `error` is the 90th percentile of the relative error on ops left out one by one.
    """

    def __init__(
        self, rows: Sequence[OpSignature], latencies_ms: Array, tile: tuple[int, int]
    ) -> None:
        self._rows = rows
        self._latencies_ms = latencies_ms
        self._tile = tile
        features = np.array([_features(row, tile) for row in rows])
        # Divided by the latency, so that small ops count as much as large ones.
        relative = features / latencies_ms[:, None]
        scale = np.maximum(relative.max(axis=0), 1e-12)
        costs = nnls(relative / scale, np.ones(len(rows)))[0] / scale
        self._costs: list[float] = costs.tolist()
        self._logs = np.log(features + 1.0)
        self._least_ms = float(LEAST_SHARE * latencies_ms.min())
        self._residuals = np.log(latencies_ms / np.maximum(features @ costs, self._least_ms))
        self._near = cKDTree(self._logs)
        self._ranks = range(1, min(NEIGHBOURS, len(rows)) + 1)

    @cached_property
    def error(self) -> float:
        errors = np.sort(np.abs(self._left_out_ms() / self._latencies_ms - 1.0))
        rank = min(math.ceil(COVERED * (len(errors) + 1)), len(errors))
        return float(errors[rank - 1])

    def predict(self, signature: OpSignature) -> float:
        # A single op is faster without arrays.
        features = _features(signature, self._tile)
        fitted: float = max(sum(map(mul, features, self._costs)), self._least_ms)
        logs = [math.log(feature + 1.0) for feature in features]
        distances, nearest = self._near.query(logs, self._ranks, p=1)
        weights: list[float] = [1.0 / (distance + NEARNESS) for distance in distances.tolist()]
        residuals: list[float] = self._residuals[nearest].tolist()
        return fitted * math.exp(sum(map(mul, weights, residuals)) / sum(weights))

    def _left_out_ms(self) -> Array:
        """What each op would be predicted to take if it were not in the table."""
        rows, latencies_ms = self._rows, self._latencies_ms
        if len(rows) <= MOST_TO_REFIT:
            fits = [
                _Fit([*rows[:at], *rows[at + 1 :]], np.delete(latencies_ms, at), self._tile)
                for at in range(len(rows))
            ]
            return np.array([fit.predict(row) for fit, row in zip(fits, rows, strict=True)])
        distances, nearest = self._near.query(self._logs, range(1, NEIGHBOURS + 2), p=1)
        weights = (nearest != np.arange(len(rows))[:, None]) / (distances + NEARNESS)
        corrections = (weights * self._residuals[nearest]).sum(axis=1) / weights.sum(axis=1)
        left_out: Array = latencies_ms * np.exp(corrections - self._residuals)
        return left_out


def kind_of(signature: OpSignature) -> Kind:
    """What has its own kernel in the runtime, and so its own fit here.

    So do depthwise convolutions that make several maps of each, 1x1 convolutions of one pixel
    (which only wait for their weights), and concatenations by the number of parts.
    """
    s = signature
    variant = 0
    if s.op in ("depthwise", "concat"):
        variant = s.out_channels // s.in_channels
    elif s.op == "conv":
        variant = int(s.height * s.width == 1)
    return (s.op, s.kernel, s.stride, min(variant, 3))


def _tiles_of(signature: OpSignature) -> tuple[tuple[int, int], ...]:
    return TILES if signature.op in ("conv", "dense") else TILES[:1]


def _features(signature: OpSignature, tile: tuple[int, int]) -> tuple[float, ...]:
    """Multiply-adds and tiles as rounded up, both once more where the channels leave a remainder of
    the tile (kernels have slower paths for that), numbers read, written and of weights, pixels,
    pixels whose channels leave a remainder of the vector, and 1 for the call.
    """
    s = signature
    stride, taps = max(s.stride, 1), taps_of(s)
    pixels = -(-s.height // stride) * -(-s.width // stride)
    read, written = s.height * s.width * s.in_channels, pixels * s.out_channels
    tiles = _tiled(pixels, tile[0]) * _tiled(s.out_channels, tile[1])
    if s.op in ("depthwise", "strip"):
        work = pixels * _tiled(s.out_channels, VECTOR) * taps
        if taps > LARGEST_WINDOW:
            work *= CHANNELS_WASTED
    elif s.op in ("conv", "dense"):
        work = tiles * s.in_channels * taps
    else:
        work = written
    remainders = (s.in_channels % VECTOR > 0) + (s.out_channels % VECTOR > 0)
    rest = s.op in ("conv", "dense") and s.out_channels % tile[1] > 0
    tiled = (work, tiles, work * rest, tiles * rest)
    return (*tiled, read, written, weight_count(s), pixels, pixels * remainders, 1.0)


def _tiled(size: int, tile: int) -> int:
    return -(-size // tile) * tile
