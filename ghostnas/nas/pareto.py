"""Fronts of accuracy against what a network costs: which networks are on it, and what it is worth.

A cost needs no training, so a search for a front learns the accuracy alone. It then proposes the
network that would add most to the front if a draw from the posterior were true (`gains`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError, did_you_mean

ACCURACY = "accuracy"
COSTS = {"latency": "latency_ms", "macs": "macs", "params": "params"}  # to a trial's column
GRID = {1: 64, 2: 16}  # points of each cost at which a gain is looked at


def parse(text: str) -> tuple[str, ...]:
    """The costs of ``accuracy,latency`` or the like, in lower case; the accuracy is always one.

    Raises:
        InputError: a name is unknown or repeated, or there are not one or two costs.
    """
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name != ACCURACY and name not in COSTS:
            known = (ACCURACY, *COSTS)
            raise InputError(
                f"--pareto {text!r}: {name!r} is none of {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
    costs = tuple(name for name in names if name != ACCURACY)
    if ACCURACY not in names or not 1 <= len(costs) <= 2 or len(set(names)) < len(names):
        raise InputError(
            f"--pareto {text!r}: write accuracy and one or two of {', '.join(COSTS)}, "
            "like accuracy,latency"
        )
    return costs


def front(rows: Sequence[Mapping[str, Any]], costs: Sequence[str]) -> list[Mapping[str, Any]]:
    """The trials that no other is at least as good as in score and all costs, and better in one,
    by their first cost; of equal ones, the first.

    Args:
        rows: of `ghostnas.nas.results.trial_rows`.
        costs: keys of COSTS.
    """
    columns = [COSTS[name] for name in costs]
    kept: list[Mapping[str, Any]] = []
    # Sorted so, only an earlier row can dominate a later one.
    for row in sorted(rows, key=lambda r: (*(r[c] for c in columns), -r["score"], r["trial"])):
        if not any(
            other["score"] >= row["score"] and all(other[c] <= row[c] for c in columns)
            for other in kept
        ):
            kept.append(row)
    return kept


def hypervolume(
    rows: Sequence[Mapping[str, Any]], costs: Sequence[str], limits: Mapping[str, float]
) -> float:
    """What the front is worth (Zitzler and Thiele, 1998): the score above 0, summed over all parts
    of each cost from 0 to its limit within which a network reaches it; 1 for a score of 1 at no
    cost.
    """
    shares = [[row[COSTS[name]] / limits[name] for name in costs] for row in rows]
    points = np.column_stack([np.array(shares, float), [row["score"] for row in rows]])
    points = points[(points[:, :-1] < 1).all(1) & (points[:, -1] > 0)]
    return _volume(points)


def _volume(points: Array) -> float:
    """Of points (networks, shares of costs and last the score)."""
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(points[:, 0].max())
    order = points[np.argsort(points[:, 0])]
    edges = np.append(order[:, 0], 1.0)
    total = 0.0
    for at in range(len(order)):  # between two costs, what all cheaper ones reach
        if edges[at + 1] > edges[at]:
            total += (edges[at + 1] - edges[at]) * _volume(order[: at + 1, 1:])
    return total


def gains(scores: Array, costs: Array, done_scores: Array, done_costs: Array) -> Array:
    """How much each candidate would raise the best score within each cost, summed over a grid of
    the logarithms of the costs.

    Args:
        scores: (candidates,); `done_scores` those reached already.
        costs: logarithms (candidates, costs); `done_costs` likewise.
    """
    size = GRID[costs.shape[1]]
    every = np.concatenate([costs, done_costs])
    ends = zip(every.min(0), every.max(0), strict=True)
    axes = [np.linspace(low, high, size) for low, high in ends]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], 1)
    lowest = min(scores.min(), done_scores.min(initial=np.inf))
    reached = np.full(len(grid), lowest)
    for score, cost in zip(done_scores, done_costs, strict=True):
        inside = (grid >= cost).all(1)
        reached[inside] = np.maximum(reached[inside], score)
    found = np.empty(len(scores))
    for at, (score, cost) in enumerate(zip(scores, costs, strict=True)):
        inside = (grid >= cost).all(1)
        found[at] = np.maximum(score - reached[inside], 0.0).sum()
    return found
