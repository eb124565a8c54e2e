"""What an op costs on a core, from its sizes: six kinds of work, each at its own price.

A table measured on a device knows its ops one by one. A cost model knows a core by six numbers, the
nanoseconds of a unit of each kind of work, and so has a latency for every op and nothing to
interpolate. The prices are fitted to whole networks (`fit`); the units below are what TFLite's
kernels for ARM do, and are the same for all cores. `scripts/experiments/latency_targets.py` says
how well that predicts networks of a family that the fit has not seen.

In float32 (XNNPACK) a convolution multiplies tiles of 4 pixels by 8 channels without copying its
input, and looks up an address for each tap. In int8 the published networks ran TFLite's own
kernels: a convolution first copies each window into a row (im2col), multiplies in steps of 4
channels, and a PAD before it is an op of its own. Neither has a depthwise kernel for more than 25
taps: a multiply-add of a 7x7 window costs several of a 5x5 one's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.latency.op_signature import NONLINEARITIES, OpSignature, taps_of, weight_count

ROUNDS = 20  # of reweighting, towards absolute errors
LEAST_RESIDUAL = 0.02  # below which all errors weigh alike
LEAST_MS = 1e-6  # of an op that only changes a shape
LARGEST_WINDOW = 25  # taps of the depthwise kernels


class Work(NamedTuple):
    """Units of work of an op, or the sum over several.

    Attributes:
        matrix: multiply-adds of convolutions, with the tiles filled up.
        depthwise: multiply-adds of depthwise convolutions, and their maps.
        weights: numbers of weights that are read.
        packing: numbers that a convolution reads for its windows and writes.
        elementwise: numbers that all other ops read and write.
        slices: pixels that slices of channels copy one by one; TFLite runs those outside XNNPACK.
    """

    matrix: float = 0.0
    depthwise: float = 0.0
    weights: float = 0.0
    packing: float = 0.0
    elementwise: float = 0.0
    slices: float = 0.0


KINDS = len(Work._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Units:
    """How the kernels of one dtype work; see the module's text.

    Attributes:
        step: channels that a matrix kernel takes at a time.
        address: of a tap of a window, in multiply-adds of a channel.
        row: of a window that is copied, in numbers.
        written: of a number that a convolution writes, in those that it reads.
        depthwise_map: of a number that a depthwise convolution reads or writes, in multiply-adds.
        large_window: of a multiply-add of a window that has no depthwise kernel.
        padded: whether a map is copied to be padded.
        elementwise: of a number that each op reads or writes.
        tap: of a number in a pooled window.
    """

    step: int
    address: int
    row: int
    written: int
    depthwise_map: int
    large_window: int
    padded: bool
    elementwise: Mapping[str, float]
    tap: float


_MAPS = ("add", "multiply", "pad", "pool")
_UNITS = {
    "fp32": _Units(
        step=1,
        address=2,
        row=10,
        written=1,
        depthwise_map=3,
        large_window=4,
        padded=False,
        elementwise={
            **dict.fromkeys((*_MAPS, "affine", "maxpool", "avgpool"), 0.25),
            **dict.fromkeys(NONLINEARITIES, 0.1),
            "concat": 0.5,
        },
        tap=0.0,
    ),
    "int8": _Units(
        step=4,
        address=0,
        row=20,
        written=3,
        depthwise_map=4,
        large_window=3,
        padded=True,
        elementwise={
            **dict.fromkeys((*_MAPS, *NONLINEARITIES), 1.0),
            "affine": 2.0,  # a multiplication and an addition
            "concat": 0.5,
        },
        tap=1.0,
    ),
}
# The published float networks cannot tell other ops from the packing of convolutions: one price.
TIED: Mapping[str, Mapping[str, str]] = {"fp32": {"packing": "elementwise"}, "int8": {}}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """A core's price of a unit of each kind of `Work`, in nanoseconds.

    `networks` is how many networks it was fitted to.
    """

    costs_ns: tuple[float, ...]
    networks: int

    def __post_init__(self) -> None:
        if len(self.costs_ns) != KINDS or not min(self.costs_ns) >= 0 or not max(self.costs_ns) > 0:
            raise InputError(
                f"costs_ns must be {KINDS} numbers of at least 0, not all 0: "
                f"{', '.join(Work._fields)}"
            )

    def latency_ms(self, op: OpSignature, dtype: str) -> float:
        """Milliseconds of an op; positive."""
        done = work(op, dtype)
        return 1e-6 * sum(c * w for c, w in zip(self.costs_ns, done, strict=True)) + LEAST_MS


def work(op: OpSignature, dtype: str) -> Work:
    """The work of an op in ``fp32`` or ``int8``."""
    units = _UNITS[dtype]
    pixels = _output_pixels(op)
    read, written = op.height * op.width * op.in_channels, pixels * op.out_channels
    taps = taps_of(op)
    padding = (op.height + op.kernel - 1) * (op.width + op.kernel - 1) * op.in_channels
    copied = float(read + padding) if units.padded and op.kernel > 1 else 0.0
    if op.op == "dense" or (op.op == "conv" and pixels == 1):
        return Work(weights=weight_count(op))
    if op.op == "conv":
        window = op.kernel > 1 or op.in_channels <= 4
        channels = _up(op.in_channels, units.step) + (units.address if window else 0)
        return Work(
            matrix=_up(pixels, 4) * _up(op.out_channels, 8) * channels * taps,
            weights=weight_count(op),
            packing=pixels * op.in_channels * taps
            + (units.row * pixels * op.kernel if op.kernel > 1 else 0)
            + units.written * written,
            elementwise=copied,
        )
    if op.op in ("depthwise", "strip"):
        macs = pixels * _up(op.out_channels, 4) * taps
        macs *= units.large_window if taps > LARGEST_WINDOW else 1
        return Work(
            depthwise=macs + units.depthwise_map * (read + written),
            weights=weight_count(op),
            elementwise=copied,
        )
    if op.op == "narrow":
        return Work(slices=pixels)
    if op.op == "flatten":
        return Work()
    if op.op == "pool":
        return Work(elementwise=units.elementwise["pool"] * read)
    if op.op in ("maxpool", "avgpool") and units.tap:
        return Work(elementwise=units.tap * written * taps)
    if op.op in NONLINEARITIES and pixels == 1:
        return Work()
    if op.op == "channelconv":  # a window over a row of single numbers
        return Work(depthwise=written * taps, weights=weight_count(op))
    maps = {
        "add": 2 * read + written,
        "product": 2 * read + written,
        "concat": 2 * written,
        # Copied four times side by side, then moved to its place.
        "upsample": 4 * read + 2 * written,
    }.get(op.op, read + written)
    # Of these no phone's times are known: they move maps as their relatives do.
    known = {"product": "multiply", "upsample": "concat"}.get(op.op, op.op)
    return Work(elementwise=units.elementwise[known] * maps)


def total(ops: Iterable[OpSignature], dtype: str) -> Array:
    """The work of several ops together (6,)."""
    sums: Array = np.sum([work(op, dtype) for op in ops], axis=0)
    return sums


def fit(
    works: Array,
    measured_ms: Array,
    dtype: str,
    weights: Array | None = None,
    prior_ns: Sequence[float] | None = None,
    trust: float = 0.0,
) -> tuple[float, ...]:
    """Prices that bring the networks' relative errors closest to 0, absolutely.

    Args:
        works: sums of `Work` (networks, 6).
        weights: of each network; by default all alike.
        prior_ns: prices of a core that is like this one. Their proportions are kept as far as
            `trust` says: how many networks, off by 100 %, a price that is off by 100 % weighs.
    """
    from scipy.optimize import nnls  # slow to import, and predictions need none of it

    mixing = _tied(dtype)
    shares = 1e-6 * works @ mixing / measured_ms[:, None]
    if prior_ns is not None:
        # In units of the prior, at this device's speed: each price is then about 1.
        units = mixing.T @ np.array(prior_ns) / mixing.sum(axis=0)
        units = units / np.median(shares @ units)
    else:
        units = 1 / np.maximum(shares.max(axis=0), 1e-300)
    shares = shares * units
    weight = np.ones(len(shares)) if weights is None else weights / weights.mean()
    robust = np.ones(len(shares))
    prices = np.ones(shares.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weight * robust)
        rows, wanted = shares * root[:, None], root
        if prior_ns is not None:
            rows = np.vstack([rows, np.sqrt(trust) * np.eye(len(prices))])
            wanted = np.concatenate([wanted, np.full(len(prices), np.sqrt(trust))])
        prices = nnls(rows, wanted)[0]
        robust = 1 / np.maximum(np.abs(shares @ prices - 1), LEAST_RESIDUAL)
        if prior_ns is not None:
            robust = robust / robust.mean()  # or the prior would weigh less, the better the fit
    return tuple(float(price) for price in mixing @ (prices * units))


def _tied(dtype: str) -> Array:
    """Columns that add up the kinds of work with one price (6, prices)."""
    columns = []
    groups = TIED[dtype]
    followers = set(groups.values())
    for kind in Work._fields:
        if kind in followers:
            continue
        column = np.zeros(KINDS)
        column[Work._fields.index(kind)] = 1.0
        if kind in groups:
            column[Work._fields.index(groups[kind])] = 1.0
        columns.append(column)
    return np.array(columns).T


def _output_pixels(op: OpSignature) -> int:
    if op.op in ("pool", "flatten", "dense"):
        return 1
    if op.op == "pad":
        return (op.height + op.kernel - 1) * (op.width + op.kernel - 1)
    stride = max(op.stride, 1)
    if op.op in ("maxpool", "avgpool"):
        height, width = ((size - op.kernel) // stride + 1 for size in (op.height, op.width))
        return height * width
    return -(-op.height // stride) * -(-op.width // stride)


def _up(size: int, step: int) -> int:
    return -(-size // step) * step
