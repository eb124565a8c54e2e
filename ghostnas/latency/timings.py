"""A table for a device of which only whole networks were timed: the nearest target, adapted.

The prices of a shipped target are a prior: a few networks say how fast the device is, and more of
them how its prices differ. Which target is nearest is chosen by how well each, adapted to all
networks but one, predicts that one.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.files import read_text
from ghostnas.latency import cost_model
from ghostnas.latency.calibration import FEWEST_NETWORKS
from ghostnas.latency.cost_model import CostModel
from ghostnas.latency.table import SCORE_UNIT, Correction, Origin, Table
from ghostnas.latency.targets import Target

FEWEST_TIMINGS = 3
TRUST = 0.03  # of 0.01 to 1, the best mean error on ten networks, fp32 and int8
MOST_FOLDS = 10  # of networks left out together, to choose a target
NEAREST = 6  # targets, by one scale each, that are adapted to choose among
# Mean errors on networks that took no part, by the number of timings: medians over phones of
# medians over draws, printed by scripts/experiments/latency_calibration.py.
EXPECTED = {
    "fp32": {3: 0.060, 5: 0.050, 10: 0.044, 20: 0.038},
    "int8": {3: 0.058, 5: 0.047, 10: 0.044, 20: 0.043},
}
COLUMNS = ("network", "resolution", "ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTiming:
    """Milliseconds of a network; `resolution` is None where the network has its own."""

    network: str
    resolution: int | None
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """The prices of a device, and how they were found.

    Attributes:
        nearest: the target that they started from.
        errors: for each network, the log of its latency over what the others predict, with the
            nearest target chosen without it too.
    """

    model: CostModel
    nearest: Target
    errors: tuple[float, ...]

    @property
    def mape(self) -> float:
        """Mean absolute percentage error, a share, of networks left out one at a time."""
        return float(np.mean(np.abs(np.exp(-np.array(self.errors)) - 1)))


def read(path: Path) -> list[NetworkTiming]:
    """The timings of a CSV with columns network, ms and, if it likes, resolution.

    Raises:
        InputError: naming the line that is damaged.
    """
    lines = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff")), skipinitialspace=True)
    rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(row)]
    if not rows:
        raise InputError(f"{path}: is empty; it needs the columns {', '.join(COLUMNS)}")
    at, header = rows[0]
    unknown = [name for name in header if name not in COLUMNS]
    lacking = [name for name in ("network", "ms") if name not in header]
    if unknown or lacking or len(set(header)) < len(header):
        raise InputError(
            f"{path}:{at}: the columns must be network, ms and, where networks are not timed at "
            f"their own, resolution; they are {', '.join(header)}"
        )
    return [
        _timing(dict(zip(header, row, strict=False)), len(row) == len(header), f"{path}:{at}")
        for at, row in rows[1:]
    ]


def adapt(works: Array, measured_ms: Array, dtype: str, candidates: Sequence[Target]) -> Adapted:
    """Prices that fit whole networks, near to those of the nearest candidate.

    Args:
        works: sums of `ghostnas.latency.cost_model.Work` (networks, 6).

    Raises:
        InputError: there are too few networks, or no candidates of that dtype.
    """
    if len(works) < FEWEST_TIMINGS:
        raise InputError(f"{len(works)} timings are too few: it takes at least {FEWEST_TIMINGS}")
    same = [target for target in candidates if target.dtype == dtype]
    if not same:
        raise InputError(f"no target for {dtype} to start from")
    nearest = _nearest(works, measured_ms, dtype, same)
    errors = []
    for out, rest in _folds(len(works), len(works)):
        start = nearest
        if len(rest) >= FEWEST_TIMINGS:
            start = _nearest(works[rest], measured_ms[rest], dtype, same)
        prices = _adapted(works[rest], measured_ms[rest], dtype, start)
        predicted_ms = 1e-6 * works[out] @ np.array(prices)
        errors.append(float(np.log(measured_ms[out] / predicted_ms)[0]))
    prices = _adapted(works, measured_ms, dtype, nearest)
    return Adapted(
        model=CostModel(costs_ns=prices, networks=len(works)),
        nearest=nearest,
        errors=tuple(errors),
    )


def expected(timings: int, dtype: str) -> float:
    """The mean error to expect with that many timings: that of the most that are no more."""
    return EXPECTED[dtype][max(count for count in EXPECTED[dtype] if count <= timings)]


def to_table(adapted: Adapted, name: str, date: str) -> Table:
    """The table of an adapted target. Ten networks or more calibrate its interval; with fewer, its
    ends are twice the error of networks left out away.
    """
    nearest, count = adapted.nearest, len(adapted.errors)
    correction = None
    if count >= FEWEST_NETWORKS:
        scores = sorted(round(abs(error) / SCORE_UNIT, 6) for error in adapted.errors)
        correction = Correction(
            scale=1.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=count, scores=tuple(scores)
        )
    origin = Origin(
        device=name,
        soc="unknown",
        core="unknown",
        clock_mhz=0,
        governor="unknown",
        load=0.0,
        threads=nearest.threads,
        runtime="unknown",
        delegate="unknown",
        dtype=nearest.dtype,
        method=f"fitted to {count} networks, from {nearest.name}",
        op_error=round(min(1.0, 2 * adapted.mape), 6),
        date=date,
        architecture="arm",
    )
    return Table(name=name, origin=origin, rows={}, correction=correction, model=adapted.model)


def _nearest(works: Array, measured_ms: Array, dtype: str, candidates: Sequence[Target]) -> Target:
    """The candidate that, adapted, predicts best what it was not adapted to."""

    def scaled_error(target: Target) -> float:
        ratios = works @ np.array(target.model.costs_ns) / measured_ms
        return float(np.mean(np.abs(ratios / np.median(ratios) - 1)))

    def left_out_error(target: Target) -> float:
        errors = []
        for out, rest in folds:
            prices = np.array(_adapted(works[rest], measured_ms[rest], dtype, target))
            errors += list(np.abs(1e-6 * works[out] @ prices / measured_ms[out] - 1))
        return float(np.mean(errors))

    folds = _folds(len(works), MOST_FOLDS)
    return min(sorted(candidates, key=scaled_error)[:NEAREST], key=left_out_error)


def _adapted(works: Array, measured_ms: Array, dtype: str, start: Target) -> tuple[float, ...]:
    prior = start.model.costs_ns
    return cost_model.fit(works, measured_ms, dtype, prior_ns=prior, trust=TRUST)


def _folds(count: int, most: int) -> list[tuple[Array, Array]]:
    """Some indices that are left out, and all others, until each was left out once."""
    every, folds = np.arange(count), min(count, most)
    return [(every[every % folds == at], every[every % folds != at]) for at in range(folds)]


def _timing(cells: Mapping[str, str], complete: bool, where: str) -> NetworkTiming:
    if not complete:
        raise InputError(f"{where}: has not as many columns as the first line")
    try:
        ms = float(cells["ms"])
        size = cells.get("resolution") or None
        resolution = None if size is None else int(size)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if not 0 < ms < math.inf or (resolution is not None and resolution < 1) or not cells["network"]:
        raise InputError(f"{where}: needs a network, and milliseconds and pixels above 0")
    return NetworkTiming(network=cells["network"], resolution=resolution, ms=ms)
