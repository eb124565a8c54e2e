"""A search's run folder, read back for a report: finished, still running or stopped, of this or an
earlier version. Trains nothing, and needs neither the images nor the weights.
"""

from __future__ import annotations

import csv
import json
import re
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from ghostnas.errors import InputError
from ghostnas.files import read_text
from ghostnas.ir.cost import Cost
from ghostnas.latency.predictor import Prediction
from ghostnas.nas import settings as search_settings
from ghostnas.nas import study
from ghostnas.nas.constraints import Constraints
from ghostnas.nas.samplers import reached
from ghostnas.nas.settings import Settings
from ghostnas.networks import blocks
from ghostnas.networks.arch import Arch, from_json
from ghostnas.networks.space import Value

DONE, STOPPED, FAILED, REPEATED, RUNNING = "done", "stopped", "failed", "repeated", "running"
# Fewer finished trials say nothing of which choice matters.
FEWEST_FOR_IMPORTANCE = 8
_RECORD = re.compile(r"(?P<id>[0-9a-f]{12})-(?P<seed>\d+)\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial with its deployment's costs.

    Attributes:
        state: DONE, STOPPED (early, at a rung), FAILED, REPEATED (another process had that network)
            or RUNNING.
        score: None where there is none.
        share: of the budgets, the largest that it uses; over 1 is over budget.
        params: what the sampler chose; empty where only trials.csv is left.
    """

    number: int
    id: str
    state: str
    score: float | None
    arch: Arch
    cost: Cost
    latency: Prediction
    share: float
    seconds: float | None
    params: Mapping[str, Value]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A finalist's training: accuracies from 0 to 1, and whether they chose or only report."""

    id: str
    seed: int
    validation: float
    test: float
    reports: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A run folder's content.

    Attributes:
        result: of ``result.json``; None while there is none.
        trials: in the order in which they ended.
        importances: of the choices, a share each; empty where too few trials say.
        known_by: where the trials were read: ``study`` or ``trials.csv``.
    """

    folder: Path
    settings: Settings
    versions: Mapping[str, str]
    constraints: Constraints
    result: Mapping[str, Any] | None
    trials: tuple[Trial, ...]
    trainings: tuple[Training, ...]
    importances: Mapping[str, float]
    known_by: str
    seconds: float

    @property
    def scored(self) -> list[Trial]:
        """The trials that ended with a score, stopped early or not."""
        return [each for each in self.trials if each.score is not None]

    @property
    def best(self) -> Trial | None:
        """The trial with the best score within the budgets, of those that were not stopped if there
        are any.
        """
        within = [each for each in self.scored if each.share <= 1]
        done = [each for each in within if each.state == DONE] or within
        return max(done, key=lambda each: each.score or 0.0, default=None)


def read(folder: Path) -> History:
    """The search in a folder.

    Raises:
        InputError: it holds none, or what it needs is damaged or missing.
    """
    settings = search_settings.read(folder / search_settings.FILE)
    for file in settings.blocks:
        blocks.load_file(Path(file))
    constraints = Constraints(settings.target, settings.budgets, settings.confidence or None)
    found = _study(folder, settings)
    trials = _of_study(found, constraints) if found else _of_csv(folder, constraints)
    return History(
        folder=folder,
        settings=settings,
        versions=_versions(folder),
        constraints=constraints,
        result=_result(folder),
        trials=tuple(trials),
        trainings=tuple(_trainings(folder, settings)),
        importances=importances(found) if found else {},
        known_by="study" if found else "trials.csv",
        seconds=_seconds(folder),
    )


def importances(found: optuna.Study) -> dict[str, float]:
    """How much of the scores' spread each choice explains (PED-ANOVA, Watanabe et al., 2023), the
    largest first; of choices that every trial made.
    """
    done = found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST_FOR_IMPORTANCE or len({each.value for each in done}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    try:
        with warnings.catch_warnings():  # of few trials: the report says so itself
            warnings.simplefilter("ignore", UserWarning)
            explained = optuna.importance.get_param_importances(found, evaluator=evaluator)
    except (ValueError, RuntimeError):  # the trials have no choice in common
        return {}
    return {name: float(share) for name, share in explained.items() if np.isfinite(share)}


def _study(folder: Path, settings: Settings) -> optuna.Study | None:
    """The study; None if its database is gone."""
    file = folder / "study.db"
    if not settings.storage and not file.exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = settings.storage or f"sqlite:///{file.resolve()}"
    try:
        return optuna.load_study(study_name=study.NAME, storage=url)
    except Exception:  # Optuna's storages raise their database drivers' errors
        return None


def _of_study(found: optuna.Study, constraints: Constraints) -> list[Trial]:
    trials = [each for each in found.get_trials(deepcopy=False) if "arch" in each.user_attrs]
    trials.sort(key=lambda each: (each.datetime_complete is None, each.datetime_complete or 0))
    return [_trial(each, constraints) for each in trials]


def _trial(found: FrozenTrial, constraints: Constraints) -> Trial:
    told = found.user_attrs
    state = {
        TrialState.COMPLETE: DONE,
        TrialState.PRUNED: STOPPED,
        TrialState.FAIL: REPEATED if "repeats" in told else FAILED,
    }.get(found.state, RUNNING)
    score = reached(found) if state in (DONE, STOPPED) else None
    seconds = told.get("seconds")
    return _costed(
        constraints,
        from_json(json.loads(told["arch"])),
        number=found.number,
        id=str(told["id"]),
        state=state,
        score=None if score is None else float(score),
        seconds=None if seconds is None else float(seconds),
        params=found.params,
        error=str(told.get("error", "")),
    )


def _costed(constraints: Constraints, arch: Arch, **known: Any) -> Trial:
    counted, latency = constraints.cost_of(arch)
    share = constraints.utilization(arch)
    return Trial(arch=arch, cost=counted, latency=latency, share=share, **known)


def _of_csv(folder: Path, constraints: Constraints) -> list[Trial]:
    """The trials of trials.csv; none if there is no such file yet."""
    path = folder / "trials.csv"
    if not path.exists():
        return []
    try:
        return [
            _costed(
                constraints,
                from_json(json.loads(row["arch"])),
                number=int(row["trial"]),
                id=row["id"],
                state=STOPPED if row.get("stopped") == "True" else DONE,
                score=float(row["score"]),
                seconds=float(row["seconds"]),
                params={},
            )
            for row in csv.DictReader(read_text(path).splitlines())
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is damaged: {error}; resume the search to mend it") from error


def _result(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        found: Mapping[str, Any] = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: is damaged; resume the search to mend it") from error
    return found


def _trainings(folder: Path, settings: Settings) -> list[Training]:
    """Those recorded beside the weights."""
    found = []
    for path in sorted((folder / "weights").glob("*.json")):
        match = _RECORD.fullmatch(path.name)
        if match is None:
            continue
        try:
            record = json.loads(read_text(path))
            training = Training(
                id=match["id"],
                seed=int(match["seed"]),
                validation=float(record["accuracy"]),
                test=float(record["test_accuracy"]),
                reports=int(match["seed"]) > settings.seed + settings.seeds,
            )
        except (InputError, ValueError, KeyError, TypeError):
            continue  # it is trained again when the search resumes
        found.append(training)
    return sorted(found, key=lambda each: (each.id, each.seed))


def _versions(folder: Path) -> dict[str, str]:
    told = tomllib.loads(read_text(folder / search_settings.FILE)).get("versions", {})
    return {str(name): str(version) for name, version in told.items()}


def _seconds(folder: Path) -> float:
    try:
        return float(json.loads(read_text(folder / "elapsed.json"))["seconds"])
    except (InputError, ValueError, KeyError, TypeError):
        return 0.0


def expected_best(scores: Sequence[float]) -> list[float]:
    """The expected best of k scores drawn from these without replacement, for k from 1 on.

    Of n scores in ascending order, the i-th (from 1) is the best of k in C(i - 1, k - 1) of the
    C(n, k) draws.
    """
    ordered = np.sort(np.asarray(scores, dtype=float))
    n = len(ordered)
    found = []
    chances = np.full(n, 1.0 / n) if n else np.empty(0)  # of the i-th being the best of k = 1
    for k in range(1, n + 1):
        found.append(float(chances @ ordered))
        # C(i-1, k) / C(n, k+1) from C(i-1, k-1) / C(n, k)
        if k < n:
            chances = chances * (np.arange(n) - k + 1) / k * (k + 1) / (n - k)
    return found
