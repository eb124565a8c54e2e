"""Reads what an earlier search learned, for one of another budget, target or data set.

Its trials become scores of the same settings in units of their own spread, as if each had been
evaluated with much noise. How far they still hold is found out: each trial of the new search that
contradicts them makes their noise larger (`ghostnas.nas.surrogate.discount`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna

from ghostnas.errors import InputError
from ghostnas.nas import samplers, settings, study
from ghostnas.nas.samplers import PastTrial


def read(folder: Path) -> list[PastTrial]:
    """The evaluated trials of a run folder.

    Raises:
        InputError: it holds no study with at least two.
    """
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
