"""Where a trial's training may be stopped: after how many epochs it is compared with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

RUNGS = 2  # at most, besides the whole training
# Hears the accuracy on validation images after an epoch; says whether the training goes on.
Report: TypeAlias = Callable[[int, float], bool]


class StoppedEarly(Exception):  # noqa: N818 - a result, nothing went wrong
    """A training was stopped at a rung, as its report asked."""


def go_on(epoch: int, accuracy: float) -> bool:
    """The report of a training that is never stopped."""
    return True


def epochs_of(epochs: int, halving: int) -> tuple[int, ...]:
    """The rungs of a training: epochs that are `halving` times as many from one to the next, as
    successive halving has them (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
    2020); none if `halving` is 0.
    """
    if not halving:
        return ()
    first = max(1, epochs // halving**RUNGS)
    found = []
    while first < epochs:
        found.append(first)
        first *= halving
    return tuple(found)
