"""What a running search looks like from outside: for a live view. Prints nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSeen:
    """A finished trial; its score is an accuracy from 0 to 1 unless the search trains nothing.

    Attributes:
        stopped: whether it was stopped at a rung, whose score this is.
    """

    number: int
    score: float
    macs: int
    latency_ms: float
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is busy with, and for how long."""

    what: str
    network: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A search at one moment.

    Attributes:
        phase: what it is doing, in a word or two.
        fitting, size: networks of the space that meet the budgets, and all of them.
        screened, to_screen: networks scored without training, done and in all.
        trials: finished ones in their order, those of other processes too; `wanted` in all.
        expected: mean and standard deviation of the best trial's accuracy, by the surrogate.
        finals, to_finish: trainings of the finalists, done and in all.
        front: numbers of the trials that no other beats in both score and milliseconds.
        workers: one for each worker process; None is idle.
        spent_s, left_s: seconds; None if nothing is known yet of what is left of the trials.
    """

    phase: str
    folder: str
    target: str
    budgets: tuple[str, ...]
    accuracies: bool
    fitting: float
    size: float
    screened: int
    to_screen: int
    trials: tuple[TrialSeen, ...]
    wanted: int
    best: TrialSeen | None
    expected: tuple[float, float] | None
    finals: int
    to_finish: int
    front: frozenset[int]
    workers: tuple[Job | None, ...]
    spent_s: float
    left_s: float | None


# Is given, once a search runs, the function that tells how it stands; may be called by any thread.
Watch: TypeAlias = Callable[[Callable[[], Snapshot]], None]


def unwatched(snapshot: Callable[[], Snapshot]) -> None:
    """Nobody looks."""


def front(trials: tuple[TrialSeen, ...]) -> frozenset[int]:
    """Numbers of the trials that no other beats in both score and milliseconds."""
    found, best = [], float("-inf")
    for trial in sorted(trials, key=lambda each: (each.latency_ms, -each.score)):
        if not trial.stopped and trial.score > best:
            found.append(trial.number)
            best = trial.score
    return frozenset(found)
