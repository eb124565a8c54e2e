"""The Optuna study: given a space, a strain and a scorer, it asks, scores and tells.

It knows no torch, no devices and no files but Optuna's storage. No trial is ever spent on a network
over budget: `WithinBudget` proposes only such as keep within it, before a trial's training starts.
"""

from __future__ import annotations

import json
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from ghostnas.arch import Arch, from_json, to_json
from ghostnas.errors import BudgetError, InputError, TrainingError
from ghostnas.space import Space, Value

Params: TypeAlias = dict[str, Value]
# How far a network uses up its budgets: 1 is exactly at the tightest of them, more is over.
Strain: TypeAlias = Callable[[Arch], float]
# Starts scoring a network and returns at once; the future holds its score.
Submit: TypeAlias = Callable[[Arch], "Future[float]"]

SAMPLERS = ("tpe", "random")
PROPOSALS, SHRUNK_PROPOSALS = 200, 50
FEWEST_STARTUP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredArch:
    """A finished trial; a higher score is better."""

    trial: int
    arch: Arch
    score: float
    seconds: float


class WithinBudget(BaseSampler):
    """Another sampler's proposals, those over budget or already tried left out.

    Where the other one proposes nothing yet (at the start, or for a number that no trial has asked
    for) options are drawn evenly. After `PROPOSALS` misses one is made to fit: number by number, in
    random order, it takes the options of the smallest network until it keeps within the budget.
    """

    def __init__(
        self, inner: BaseSampler, space: Space, strain: Strain, smallest: Params, seed: int
    ) -> None:
        self._inner = inner
        self._space = space
        self._strain = strain
        self._smallest = smallest
        self._rng = random.Random(seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {
            name: CategoricalDistribution(options) for name, options in self._space.choices.items()
        }

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        tried = {t.user_attrs.get("id") for t in study.get_trials(deepcopy=False, states=states)}
        inner_space = self._inner.infer_relative_search_space(study, trial)
        for _ in range(PROPOSALS):
            params = self._draw()
            params.update(self._inner.sample_relative(study, trial, inner_space))
            arch = self._space.decode(params)
            if self._strain(arch) <= 1 and arch.id not in tried:
                return params
        for _ in range(SHRUNK_PROPOSALS):
            params = self._made_to_fit(self._draw())
            if self._space.decode(params).id not in tried:
                break
        return params

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"{param_name} is no number of space {self._space.name}")

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()

    def _draw(self) -> Params:
        return {name: self._rng.choice(options) for name, options in self._space.choices.items()}

    def _made_to_fit(self, params: Params) -> Params:
        names = list(self._space.choices)
        self._rng.shuffle(names)
        for name in names:
            if self._strain(self._space.decode(params)) <= 1:
                break
            params = {**params, name: self._smallest[name]}
        return params


def find_smallest(space: Space, strain: Strain) -> Params:
    """The parameters of least strain that changing one number after the other leads to.

    Raises:
        BudgetError: even that network is over the budget.
    """
    params: Params = {name: options[0] for name, options in space.choices.items()}
    best, before = strain(space.decode(params)), float("inf")
    while best < before:
        before = best
        for name, options in space.choices.items():
            for option in options:
                candidate = {**params, name: option}
                amount = strain(space.decode(candidate))
                if amount < best:
                    params, best = candidate, amount
    if best > 1:
        raise BudgetError(
            f"no network of space {space.name} meets the budget: the smallest one found needs "
            f"{best:.3g} times as much"
        )
    return params


def open_study(
    storage: str,
    settings: Mapping[str, Any],
    sampler: str,
    seed: int,
    space: Space,
    strain: Strain,
    smallest: Params,
) -> optuna.Study:
    """The study in `storage`, made there if there is none; it remembers `settings`.

    Args:
        smallest: what `find_smallest` found.

    Raises:
        InputError: the sampler is unknown, the study was started with other settings, or it cannot
            be opened.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner: BaseSampler = RandomSampler(seed=seed)
        if sampler == "tpe":
            inner = TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=FEWEST_STARTUP,
                seed=seed,
            )
    within = WithinBudget(inner, space, strain, smallest, seed)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name="search",
            direction="maximize",
            sampler=within,
            load_if_exists=True,
        )
    except Exception as error:  # Optuna's storages raise their database drivers' errors
        reason = str(error).splitlines()[0]
        raise InputError(f"storage {storage}: cannot be opened: {reason}") from error
    remembered = study.user_attrs.setdefault("settings", dict(settings))
    for key in sorted({*settings, *remembered}):
        if settings.get(key) != remembered.get(key):
            raise InputError(
                f"the study was started with {key} = {remembered.get(key)!r}, "
                f"not {settings.get(key)!r}; choose another --out"
            )
    study.set_user_attr("settings", dict(settings))
    begun = (TrialState.COMPLETE, TrialState.WAITING)
    if not study.get_trials(deepcopy=False, states=begun):
        study.enqueue_trial(_start(space, strain, smallest))
    return study


def run(
    study: optuna.Study,
    space: Space,
    submit: Submit,
    *,
    trials: int,
    at_once: int,
    until: float = float("inf"),
    report: Callable[[ScoredArch], None] = lambda scored: None,
) -> None:
    """The search loop: ask and tell until `trials` trials are finished or the clock passes `until`.

    A trial that an earlier process left unfinished is closed as failed; its network may be
    proposed anew.

    Raises:
        TrainingError: more than half of the trainings fail.
    """
    for stale in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(stale.number, state=TrialState.FAIL)
    unfinished: dict[int, optuna.Trial] = {}
    running: dict[Future[float], tuple[optuna.Trial, Arch, float]] = {}
    failures = 0
    try:
        while True:
            done_trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            wanted = trials - len(done_trials) - len(running)
            while wanted > 0 and len(running) < at_once and time.monotonic() < until:
                trial = study.ask()
                unfinished[trial.number] = trial
                arch = space.build(trial.suggest_categorical)
                trial.set_user_attr("arch", json.dumps(to_json(arch)))
                trial.set_user_attr("id", arch.id)
                running[submit(arch)] = (trial, arch, time.monotonic())
                wanted -= 1
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial, arch, started = running.pop(future)
                try:
                    score = future.result()
                except TrainingError:
                    study.tell(unfinished.pop(trial.number), state=TrialState.FAIL)
                    failures += 1
                    if failures > at_once + trials // 2:
                        raise
                    continue
                seconds = time.monotonic() - started
                trial.set_user_attr("seconds", round(seconds, 3))
                study.tell(unfinished.pop(trial.number), score)
                report(ScoredArch(trial=trial.number, arch=arch, score=score, seconds=seconds))
    finally:
        for future in running:
            future.cancel()
        for trial in unfinished.values():
            study.tell(trial, state=TrialState.FAIL)


def finished(study: optuna.Study) -> list[ScoredArch]:
    """Every finished trial, in order; the architecture is read from what the trial stored."""
    return [
        ScoredArch(
            trial=trial.number,
            arch=from_json(json.loads(trial.user_attrs["arch"])),
            score=float(trial.value or 0.0),
            seconds=float(trial.user_attrs["seconds"]),
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]


def _start(space: Space, strain: Strain, smallest: Params) -> Params:
    """The published network as the first proposal, at the largest alpha that the budget allows."""
    published: Params = {name: options[0] for name, options in space.choices.items()}
    for alpha in sorted(space.choices.get("alpha", ()), reverse=True):
        params = {**published, "alpha": alpha}
        if strain(space.decode(params)) <= 1:
            return params
    fits = strain(space.decode(published)) <= 1
    return published if fits else smallest
