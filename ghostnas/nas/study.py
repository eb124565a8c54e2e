"""The Optuna study: given a space, a budget and a scorer, it asks, scores and tells.

It knows nothing of torch, devices or files other than Optuna's storage. No trial is ever spent on a
network over budget: `WithinBudget` proposes only networks within it, before any training starts.
Several processes may share a study in one storage: their trials count together, and no two are on
the same network.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.errors import BudgetError, InputError, TrainingError
from ghostnas.nas.storage import GRACE_S, Heartbeat, PatientStorage, open_storage, reason, shown
from ghostnas.networks.arch import Arch, from_json, to_json
from ghostnas.networks.space import Space, Value
from ghostnas.progress import Say, silent

Params: TypeAlias = dict[str, Value]
# How much of its budgets a network uses: 1 is exactly at the tightest of them, more is over.
Utilization: TypeAlias = Callable[[Arch], float]
# Starts scoring a network and returns at once; the future holds its score.
Submit: TypeAlias = Callable[[Arch], "Future[float]"]

NAME = "search"
SAMPLERS = ("tpe", "random")
PROPOSALS, SHRUNK_PROPOSALS = 200, 50
SMALL_SPACE = 20_000  # up to this many combinations, all are tried before a space is exhausted
LAST_PROPOSALS = 5_000  # tried in a larger one
FEWEST_STARTUP = 8
NAMING_S, NAMING_POLL_S = 10.0, 0.05  # wait for another process to name its trial's network
POLL_S = 1.0  # between checks of other processes' trials


class SpaceUsedUp(Exception):  # noqa: N818 - the search ends, nothing went wrong
    """Every network of the space within the budget has been tried or is being tried; `trial` is the
    number of the trial that asked for another.
    """

    def __init__(self, trial: int) -> None:
        super().__init__()
        self.trial = trial


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredArch:
    """A finished trial, by its number in the study; a higher score is better."""

    trial: int
    arch: Arch
    score: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How `run` ended: `used_up` if the space has no other network within the budget; `failed`
    counts this process's trials that ended without a score.
    """

    used_up: bool
    failed: int


class WithinBudget(BaseSampler):
    """Another sampler's proposals, without those over budget or already tried.

    Where the other sampler proposes nothing yet (at the start, or for a number that no trial has
    asked for), options are drawn uniformly. After `PROPOSALS` misses a proposal is made to fit:
    number by number, in random order, it takes the smallest network's options until it is within
    the budget. If these fail too, a space of up to `SMALL_SPACE` combinations is enumerated.

    Raises:
        SpaceUsedUp: on a proposal, when no network within the budget is left.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: Space,
        utilization: Utilization,
        smallest: Params,
        seed: int,
    ) -> None:
        self._inner = inner
        self._space = space
        self._utilization = utilization
        self._smallest = smallest
        self._rng = random.Random(seed)
        self._all: dict[str, Params] | None = None

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
            if self._utilization(arch) <= 1 and arch.id not in tried:
                return params
        for _ in range(SHRUNK_PROPOSALS):
            params = self._made_to_fit(self._draw())
            if self._space.decode(params).id not in tried:
                return params
        return self._any_left(tried, trial.number)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"space {self._space.name} has no number {param_name}")

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
            if self._utilization(self._space.decode(params)) <= 1:
                break
            params = {**params, name: self._smallest[name]}
        return params

    def _any_left(self, tried: set[Any], trial: int) -> Params:
        """One of the networks within the budget that are not in `tried`."""
        choices = self._space.choices
        if math.prod(map(len, choices.values())) > SMALL_SPACE:
            for _ in range(LAST_PROPOSALS):
                params = self._made_to_fit(self._draw())
                if self._space.decode(params).id not in tried:
                    return params
            raise SpaceUsedUp(trial)
        if self._all is None:
            self._all = {}
            for options in itertools.product(*choices.values()):
                params = dict(zip(choices, options, strict=True))
                arch = self._space.decode(params)
                if self._utilization(arch) <= 1:
                    self._all.setdefault(arch.id, params)
        left = [params for arch_id, params in self._all.items() if arch_id not in tried]
        if not left:
            raise SpaceUsedUp(trial)
        return self._rng.choice(left)


def find_smallest(space: Space, utilization: Utilization) -> Params:
    """The parameters of least utilization that changing one number at a time leads to.

    Raises:
        BudgetError: even that network is over the budget.
    """
    params: Params = {name: options[0] for name, options in space.choices.items()}
    best, before = utilization(space.decode(params)), float("inf")
    while best < before:
        before = best
        for name, options in space.choices.items():
            for option in options:
                candidate = {**params, name: option}
                amount = utilization(space.decode(candidate))
                if amount < best:
                    params, best = candidate, amount
    if best > 1:
        raise BudgetError(
            f"no network of space {space.name} meets the budget: the smallest one found needs "
            f"{best:.3g} times as much"
        )
    return params


def open_study(
    url: str,
    settings: Mapping[str, Any],
    sampler: str,
    seed: int,
    space: Space,
    utilization: Utilization,
    smallest: Params,
    *,
    private: bool = True,
    new: bool = True,
    say: Say = silent,
) -> optuna.Study:
    """The study in the storage at a URL, created if there is none; it remembers `settings`.

    Args:
        smallest: what `find_smallest` found.
        private: whether no other process uses the storage: running trials were then left behind by
            a process that ended, and are closed as failed. Otherwise a trial is closed when its
            process has sent no heartbeat for `ghostnas.nas.storage.GRACE_S` seconds.
        new: whether the study may not exist yet.

    Raises:
        InputError: the sampler is unknown, or the study was started with other settings, no longer
            exists, or cannot be opened.
    """
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}; known: {', '.join(SAMPLERS)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    within = WithinBudget(_inner(sampler, seed), space, utilization, smallest, seed)
    storage = open_storage(url, say)
    try:
        if not new:
            optuna.load_study(storage=storage, study_name=NAME)
        study = optuna.create_study(
            storage=storage,
            study_name=NAME,
            direction="maximize",
            sampler=within,
            load_if_exists=True,
        )
    except KeyError as error:
        raise InputError(
            f"storage {shown(url)}: no longer holds the study that the search began with; "
            "restore it, or start again in another --out"
        ) from error
    except Exception as error:  # Optuna's storages raise their database drivers' errors
        raise InputError(f"storage {shown(url)}: cannot be opened: {reason(error)}") from error
    remembered = study.user_attrs.setdefault("settings", dict(settings))
    for key in sorted({*settings, *remembered}):
        if settings.get(key) != remembered.get(key):
            raise InputError(
                f"the study was started with {key} = {remembered.get(key)!r}, "
                f"not {settings.get(key)!r}; choose another --out or --storage"
            )
    study.set_user_attr("settings", dict(settings))
    if private:
        for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(left.number, state=TrialState.FAIL)
    begun = (TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING)
    if not study.get_trials(deepcopy=False, states=begun):
        study.enqueue_trial(_start(space, utilization, smallest))
    storage.patient = True
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
) -> Ended:
    """The search loop: ask and tell until the study has `trials` finished trials, including those
    of other processes, the clock passes `until`, or no other network meets the budget.

    Raises:
        TrainingError: more than half of the trainings fail.
    """
    mine = _Mine(study)
    failures, used_up = 0, False
    try:
        while True:
            mine.close_stale()
            states = (TrialState.COMPLETE, TrialState.RUNNING)
            wanted = trials - len(study.get_trials(deepcopy=False, states=states))
            while not used_up and wanted > 0 and len(mine.running) < at_once:
                if time.monotonic() >= until:
                    break
                try:
                    wanted -= mine.begin(space, submit)
                except SpaceUsedUp:
                    used_up = True
            if not mine.running:
                complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
                if complete >= trials or used_up or time.monotonic() >= until or wanted > 0:
                    return Ended(used_up=used_up, failed=failures)
                time.sleep(POLL_S)  # other processes are running the last trials
                continue
            done, _ = wait(mine.running, timeout=GRACE_S, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    scored = mine.finish(future)
                except TrainingError:
                    failures += 1
                    if failures > at_once + trials // 2:
                        raise
                else:
                    if scored is not None:
                        report(scored)
    finally:
        mine.close()


class _Mine:
    """The trials that this process is running."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        storage = study._storage
        backend = storage._backend if isinstance(storage, optuna.storages._CachedStorage) else None
        self._heartbeat = Heartbeat(backend) if isinstance(backend, PatientStorage) else None
        self._unfinished: dict[int, optuna.Trial] = {}
        self.running: dict[Future[float], tuple[optuna.Trial, Arch, float]] = {}

    def begin(self, space: Space, submit: Submit) -> bool:
        """Ask for a network and start scoring it; False if another process already had it.

        Raises:
            SpaceUsedUp: none is left.
        """
        trial = self._ask()
        arch = space.build(trial.suggest_categorical)
        trial.set_user_attr("arch", json.dumps(to_json(arch)))
        trial.set_user_attr("id", arch.id)
        if (other := self._earlier(trial, arch)) is not None:
            trial.set_user_attr("repeats", other)
            self._tell(trial, TrialState.FAIL)
            return False
        self.running[submit(arch)] = (trial, arch, time.monotonic())
        return True

    def finish(self, future: Future[float]) -> ScoredArch | None:
        """Tell the study a network's score; None if another process has closed the trial, having
        received no heartbeat from this one for too long.

        Raises:
            TrainingError: it could not be scored; the trial has failed.
        """
        trial, arch, started = self.running.pop(future)
        try:
            score = future.result()
        except TrainingError as error:
            with suppress(UpdateFinishedTrialError):
                trial.set_user_attr("error", str(error))
            self._tell(trial, TrialState.FAIL)
            raise
        seconds = time.monotonic() - started
        try:
            trial.set_user_attr("seconds", round(seconds, 3))
        except UpdateFinishedTrialError:
            self._forget(trial)
            return None
        self._tell(trial, TrialState.COMPLETE, score)
        return ScoredArch(trial=trial.number, arch=arch, score=score, seconds=seconds)

    def close_stale(self) -> None:
        """Close the trials of processes that no longer send heartbeats as failed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        long_ago = datetime.datetime.now() - datetime.timedelta(seconds=GRACE_S)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            nameless = trial.number not in self._unfinished and "id" not in trial.user_attrs
            if nameless and trial.datetime_start and trial.datetime_start < long_ago:
                # Its process died before its first heartbeat.
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def close(self) -> None:
        for future in self.running:
            future.cancel()
        try:
            for trial in list(self._unfinished.values()):
                self._tell(trial, TrialState.FAIL)
        except (StorageInternalError, SQLAlchemyError):
            pass  # the database is gone: the trials are closed when their heartbeats run out
        if self._heartbeat is not None:
            self._heartbeat.end()

    def _earlier(self, trial: optuna.Trial, arch: Arch) -> int | None:
        """The number of an earlier trial on the same network, if there is one.

        A trial that another process began before this one may have no network yet. This waits for
        it, so that of two trials on one network the earlier always continues and the later never
        does.
        """
        until = time.monotonic() + NAMING_S
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        while True:
            earlier = {
                other.number: other.user_attrs.get("id")
                for other in self._study.get_trials(deepcopy=False, states=states)
                if other.number < trial.number
            }
            for number, arch_id in earlier.items():
                if arch_id == arch.id:
                    return number
            if None not in earlier.values() or time.monotonic() > until:
                return None
            time.sleep(NAMING_POLL_S)

    def _ask(self) -> optuna.Trial:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed", UserWarning)
            try:
                trial = self._study.ask()
            except SpaceUsedUp as error:
                self._study.tell(error.trial, state=TrialState.FAIL)
                raise
        self._unfinished[trial.number] = trial
        if self._heartbeat is not None:
            self._heartbeat.add(trial._trial_id)
        return trial

    def _tell(self, trial: optuna.Trial, state: TrialState, score: float | None = None) -> None:
        """Like `optuna.Study.tell`, but a trial that another process closed stays closed."""
        self._study.tell(trial, score, state=state, skip_if_finished=True)
        self._forget(trial)

    def _forget(self, trial: optuna.Trial) -> None:
        del self._unfinished[trial.number]
        if self._heartbeat is not None:
            self._heartbeat.remove(trial._trial_id)


def finished(study: optuna.Study) -> list[ScoredArch]:
    """Every finished trial, in order; the architecture is read from the trial's attributes."""
    return [
        ScoredArch(
            trial=trial.number,
            arch=from_json(json.loads(trial.user_attrs["arch"])),
            score=float(trial.value or 0.0),
            seconds=float(trial.user_attrs["seconds"]),
        )
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ]


def _inner(sampler: str, seed: int) -> BaseSampler:
    if sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(
            multivariate=True,
            group=True,
            constant_liar=True,
            n_startup_trials=FEWEST_STARTUP,
            seed=seed,
        )


def _start(space: Space, utilization: Utilization, smallest: Params) -> Params:
    """The published network as the first proposal, at the largest alpha that the budget allows."""
    published: Params = {name: options[0] for name, options in space.choices.items()}
    for alpha in sorted(space.choices.get("alpha", ()), reverse=True):
        params = {**published, "alpha": alpha}
        if utilization(space.decode(params)) <= 1:
            return params
    fits = utilization(space.decode(published)) <= 1
    return published if fits else smallest
