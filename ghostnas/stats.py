"""What can be concluded from a few seeds and a few architectures: spreads, differences, rankings.

Plain statistics on numbers; knows nothing of networks or trainings.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ghostnas.arrays import Array
from ghostnas.errors import InputError

RESAMPLES = 2000
CONFIDENCE = 0.95
FEWEST_RANKED = 3
# Rounding can make equal accuracies differ by this much; a smaller spread counts as none.
NO_SPREAD = 1e-12
CHUNK_ELEMENTS = 1 << 22  # of an array of pairs, which keeps it within 32 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One number over several seeds; `std` is the sample's (n - 1), None for a single value."""

    mean: float
    std: float | None
    min: float
    max: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tau:
    """Kendall's tau-b, -1 to 1, and the ends of its 95 % interval."""

    tau: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    """Mean, spread and range of `values`.

    Raises:
        InputError: there are none, or one is not finite.
    """
    found = _finite("values", values)
    if found.ndim != 1 or not len(found):
        raise InputError("values: a summary needs a list of one or more numbers")
    return Summary(
        mean=float(found.mean()),
        std=float(found.std(ddof=1)) if len(found) > 1 else None,
        min=float(found.min()),
        max=float(found.max()),
        count=len(found),
    )


def mean_interval(of: Summary, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The ends of the interval of the mean by Student's t; None for a single value."""
    if of.std is None:
        return None
    reach = of.std / math.sqrt(of.count) * float(stats.t.ppf((1 + confidence) / 2, of.count - 1))
    return of.mean - reach, of.mean + reach


def percent(accuracies: Summary) -> str:
    """Accuracies from 0 to 1 as text: ``91.2 % +- 0.3 (4 seeds, 90.8 to 91.6)``.

    The number after +- is the standard deviation of a single seed, not the error of the mean.
    """
    mean = f"{100 * accuracies.mean:.1f} %"
    if accuracies.std is None:
        return f"{mean} (1 seed)"
    ends = f"{100 * accuracies.min:.1f} to {100 * accuracies.max:.1f}"
    return f"{mean} +- {100 * accuracies.std:.1f} ({accuracies.count} seeds, {ends})"


def welch_p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's t-test (1947): how often seeds alone would make two equal
    networks differ as much as `a` and `b` do.

    None where the spread is unknown: a side has only one value, or each side's values are all
    equal though the sides differ, as can happen by chance with two seeds each.

    Raises:
        InputError: a side is empty, or one of its numbers is not finite.
    """
    first, second = summary(a), summary(b)
    if first.std is None or second.std is None:
        return None
    if max(first.std, second.std) < NO_SPREAD:
        return 1.0 if abs(first.mean - second.mean) < NO_SPREAD else None
    found = stats.ttest_ind_from_stats(  # ttest_ind gives the same in 13 times the time
        *(first.mean, first.std, first.count),
        *(second.mean, second.std, second.count),
        equal_var=False,
    )
    return float(found.pvalue)


def difference_interval(
    a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """The ends of the interval of Welch's t-test for the mean of `a` minus that of `b`.

    None where `welch_p_value` is None, or where neither side has any spread.
    """
    p = welch_p_value(a, b)
    if p is None or max(summary(a).std or 0.0, summary(b).std or 0.0) < NO_SPREAD:
        return None
    interval = _welch(a, b).confidence_interval(confidence)
    return float(interval.low), float(interval.high)


def _welch(a: Sequence[float], b: Sequence[float]) -> Any:
    with warnings.catch_warnings():  # one side may have next to no spread
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        return stats.ttest_ind(a, b, equal_var=False)


def proportions_p_value(a: float, b: float, count: int) -> float:
    """p-value of the two-sided z-test of two proportions, each of `count` images.

    For accuracies of one training each: it accounts for the sampling of the images but not for the
    seeds, so it finds two networks different more often than it should.
    """
    pooled = (a + b) / 2
    error = math.sqrt(2 * pooled * (1 - pooled) / count)
    if error == 0:
        return 1.0
    return float(2 * stats.norm.sf(abs(a - b) / error))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for several comparisons at once (Holm, 1979), so that one in twenty such
    families, not one in twenty comparisons, has a false one below 0.05. None stays None.
    """
    adjusted: list[float | None] = [None] * len(p_values)
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[at] = highest
    return adjusted


def kendall(scores: ArrayLike, truth: ArrayLike, seed: int = 0) -> Tau:
    """How far two rankings of architectures agree: Kendall's tau-b (1945), and a 95 % interval from
    resampling the architectures RESAMPLES times.

    Where `truth` has repeats, tau is computed from their means, and each resample also resamples
    every architecture's repeats, so that the interval covers the seeds too. It is biased low, since
    the means it resamples around are noisy already.

    Args:
        scores: (architectures,).
        truth: (architectures,) or (architectures, repeats).

    Raises:
        InputError: there are fewer than 3 architectures, the shapes do not match, a number is not
            finite, or all scores or all truths are equal.
    """
    x, repeats = _finite("scores", scores), _finite("truth", truth)
    if x.ndim != 1 or repeats.ndim not in (1, 2) or len(x) != len(repeats) or not repeats.size:
        raise InputError(
            f"a ranking needs scores (n,) and truth (n,) or (n, repeats), not {x.shape} and "
            f"{repeats.shape}"
        )
    count = len(x)
    if count < FEWEST_RANKED:
        raise InputError(f"a ranking needs {FEWEST_RANKED} or more architectures, not {count}")
    repeats = repeats.reshape(count, -1)
    means = repeats.mean(1)
    for name, values in (("scores", x), ("truths", means)):
        if np.ptp(values) == 0:
            raise InputError(f"all {name} are {values[0]:g}: they rank nothing")
    tau = float(_tau_b(x[None], means[None])[0])
    rng = np.random.default_rng(seed)
    taus: list[Array] = []
    chunk = max(1, CHUNK_ELEMENTS // count**2)
    for begin in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - begin)
        drawn = rng.integers(0, count, (size, count))
        picked = rng.integers(0, repeats.shape[1], (size, *repeats.shape))
        # Copies of one architecture share its repeats, so they are tied with each other in both.
        redrawn = np.take_along_axis(repeats[None], picked, 2).mean(2)
        taus.append(_tau_b(x[drawn], np.take_along_axis(redrawn, drawn, 1)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(np.concatenate(taus), [tail, 1 - tail])
    return Tau(tau=tau, low=float(low), high=float(high))


def _tau_b(x: Array, y: Array) -> Array:
    """Kendall's tau-b of each row of two (rows, n) arrays; nan where a row is all ties."""
    first, second = np.triu_indices(x.shape[1], 1)
    x_signs, y_signs = (
        np.sign(values[:, first] - values[:, second]).astype(np.int8) for values in (x, y)
    )
    concordance = np.einsum("rp,rp->r", x_signs, y_signs, dtype=np.int64)
    untied = [np.count_nonzero(signs, axis=1) for signs in (x_signs, y_signs)]
    with np.errstate(invalid="ignore"):
        taus: Array = concordance / np.sqrt(np.multiply(*untied, dtype=np.float64))
    return taus


def _finite(name: str, values: ArrayLike) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise InputError(f"{name}: all must be finite numbers")
    return found
