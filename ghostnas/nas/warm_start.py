"""What an earlier search learned, for one of another budget, target or data set.

Its trials become scores of the same settings in units of their own spread, as if each had been
evaluated with much noise. How far they still hold is found out: each trial of the new search that
contradicts them makes their noise larger (`discount`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from ghostnas.errors import InputError
from ghostnas.networks.space import Params

NOISE = 3.0  # variance of an earlier search's score relative to one of this search, if they agree


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTrial:
    """A network of an earlier search and its score in standard deviations of all its scores."""

    params: Params
    score: float


def read(folder: Path) -> list[PastTrial]:
    """The evaluated trials of a run folder.

    Raises:
        InputError: it holds no study with at least two.
    """
    from ghostnas.nas import samplers, settings, study

    known = settings.read(folder / "search.toml")
    url = known.storage or f"sqlite:///{folder.resolve()}/study.db"
    try:
        past = optuna.load_study(study_name=study.NAME, storage=url)
        trials = past.get_trials(deepcopy=False, states=study.EVALUATED)
    except Exception as error:  # Optuna's storages raise their database drivers' errors
        raise InputError(f"--warm-start {folder}: its study cannot be read: {error}") from error
    told = samplers.told(trials)
    scores = np.array([score for _, score, _ in told])
    if len(scores) < 2 or not scores.std():
        raise InputError(f"--warm-start {folder}: has too few finished trials to learn from")
    standard = (scores - scores.mean()) / scores.std()
    return [
        PastTrial(params=dict(trial.params), score=float(score))
        for (trial, _, _), score in zip(told, standard, strict=True)
    ]


def discount(ours: Sequence[float], expected: Sequence[float]) -> float:
    """How many times noisier past scores are than `NOISE` says, by how this search's scores and
    those that the past predicts for the same networks correlate: 1 where they agree, many times
    where they do not.

    With few scores it stays near 1: a correlation counts by how many there are.
    """
    if len(ours) < 3 or not np.std(ours) or not np.std(expected):
        return 1.0
    agreement = float(np.corrcoef(ours, expected)[0, 1])
    # Shrunk towards agreement by the weight of four scores.
    agreement = (agreement * len(ours) + 4.0) / (len(ours) + 4.0)
    return float(1.0 / max(agreement, 0.01) ** 2)
