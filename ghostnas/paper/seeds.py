"""The study of the random seed (Picard, 2021): how much the seed alone moves an accuracy, and what
the best of several seeds gains by luck. Works on records of trainings; trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ghostnas.errors import InputError
from ghostnas.paper.trainings import Record
from ghostnas.stats import Summary, summary

FEWEST = 3
BEST_OF = (2, 3, 5, 10, 20, 30, 100, 1000, 10_000)
DENSITY_POINTS = 101


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What the accuracies (0 to 1) of one network from many seeds say.

    Attributes:
        by_epoch: mean, deviation and range after each epoch.
        final: the same after the last.
        shapiro_p: of the test that they are normally distributed (Shapiro and Wilk, 1965).
        luck: for M seeds, by how much the best of M is expected above the mean.
    """

    network: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    by_epoch: tuple[Summary, ...]
    final: Summary
    shapiro_p: float
    luck: dict[int, float]


def study(records: Sequence[Record]) -> Study:
    """The study of trainings of one network that differ in the seed alone.

    Raises:
        InputError: there are fewer than 3, or they differ in more than the seed.
    """
    finished = [record for record in records if record.done]
    if len(finished) < FEWEST:
        raise InputError(f"{len(finished)} seeds: a study needs {FEWEST} or more")
    same = {(each.network, each.recipe, each.data, each.body) for each in finished}
    if len(same) > 1:
        raise InputError("the trainings of a study may differ in their seeds alone")
    final = [record.accuracy for record in finished]
    epochs = zip(*(record.accuracies for record in finished), strict=True)
    return Study(
        network=finished[0].network,
        seeds=tuple(record.seed for record in finished),
        accuracies=tuple(final),
        by_epoch=tuple(summary(each) for each in epochs),
        final=summary(final),
        shapiro_p=float(stats.shapiro(final).pvalue) if np.ptp(final) else 1.0,
        luck={best_of: luck(final, best_of) for best_of in BEST_OF if best_of <= len(final)},
    )


def luck(accuracies: Sequence[float], best_of: int) -> float:
    """How far the best of `best_of` seeds, drawn from these without replacement, is expected above
    the mean of all: exact, from order statistics.

    The k-th lowest of n is the best of M with the probability C(k - 1, M - 1) / C(n, M).

    Raises:
        InputError: there are fewer accuracies than `best_of`.
    """
    ordered = np.sort(np.asarray(accuracies, dtype=np.float64))
    count = len(ordered)
    if not 1 <= best_of <= count:
        raise InputError(f"the best of {best_of} of {count} seeds: needs 1 to {count}")
    chances = np.zeros(count)
    chances[-1] = best_of / count  # the highest is drawn
    for k in range(count - 1, best_of - 1, -1):  # C(k - 1, M - 1) / C(k, M - 1) = (k - M + 1) / k
        chances[k - 1] = chances[k] * (k - best_of + 1) / k
    return float(chances @ ordered - ordered.mean())


def density(accuracies: Sequence[float]) -> tuple[list[float], list[float]]:
    """A kernel estimate of their density (Scott, 1992): places and values; none without spread."""
    values = np.asarray(accuracies, dtype=np.float64)
    if np.ptp(values) == 0:
        return [], []
    kernel = stats.gaussian_kde(values)
    room = 0.15 * np.ptp(values)
    places = np.linspace(values.min() - room, values.max() + room, DENSITY_POINTS)
    return places.tolist(), kernel(places).tolist()


def to_json(found: Study) -> dict[str, Any]:
    """The study as JSON types."""
    return {
        **asdict(found),
        "luck": {str(best_of): gain for best_of, gain in found.luck.items()},
    }


def text(found: Study) -> str:
    """The study in a few lines."""
    final = found.final
    lines = [
        f"{found.network}, {final.count} seeds: {final.mean:.2%}, standard deviation "
        f"{100 * (final.std or 0):.2f} points, {final.min:.2%} to {final.max:.2%}"
    ]
    for best_of, gain in found.luck.items():
        lines.append(f"  the best of {best_of} seeds gains {100 * gain:.2f} points by luck alone")
    lines.append(
        f"  Shapiro-Wilk p = {found.shapiro_p:.2g}"
        f"{': not normally distributed' if found.shapiro_p < 0.05 else ''}"
    )
    return "\n".join(lines)
