"""The Optuna study: it asks a sampler for networks, has them scored, and tells the study.

It knows nothing of torch, devices or files other than Optuna's storage. No trial is ever spent on a
network over budget: the samplers (`ghostnas.nas.samplers`) propose none. Several processes may
share a study in one storage: their trials count together, no two are on the same network, one of
them concludes it (`ghostnas.nas.concluding`), and a trial whose process died is tried again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import optuna
from optuna.exceptions import (
    DuplicatedStudyError,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.errors import InputError, TrainingError
from ghostnas.nas.concluding import CREATOR, Member
from ghostnas.nas.rungs import Report, StoppedEarly
from ghostnas.nas.samplers import SCREENED, SpaceUsedUp, reached
from ghostnas.nas.storage import HEARTBEAT_S, Heartbeat, open_storage, reason, shown
from ghostnas.networks.arch import Arch, from_json, to_json
from ghostnas.networks.space import Params, Space, Value
from ghostnas.progress import Say, silent

# Starts scoring a network and returns at once; the future holds its score. The report hears of the
# rungs and says whether to go on; if not, the future raises StoppedEarly.
Submit: TypeAlias = Callable[[Arch, Report], "Future[float]"]
# A network's training-free scores by its settings, where they are known.
Screened: TypeAlias = Callable[[Mapping[str, Value]], Mapping[str, float]]

NAME = "search"
EVALUATED = (TrialState.COMPLETE, TrialState.PRUNED)
NAMING_S, NAMING_POLL_S = 10.0, 0.05  # wait for another process to name its trial's network
POLL_S = 1.0  # between checks of other processes' trials
RETRY_OF = "retry of"  # a trial's attribute: the one that its process left behind
RETRIES = 2  # of one network whose processes die


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredArch:
    """A finished trial, by its number in the study; a higher score is better. If it was stopped,
    the score is that of the last rung it reached.
    """

    trial: int
    arch: Arch
    score: float
    seconds: float
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How `run` ended: `used_up` if the space has no other network within the budget; `failed`
    counts this process's trials that ended without a score.
    """

    used_up: bool
    failed: int


def open_study(
    url: str,
    settings: Mapping[str, Any],
    sampler: BaseSampler,
    start: Params,
    *,
    halving: int = 0,
    rungs: Sequence[int] = (),
    private: bool = True,
    new: bool = True,
    me: Member | None = None,
    say: Say = silent,
) -> optuna.Study:
    """The study in the storage at a URL, created if there is none; it remembers `settings`.

    Args:
        start: the first network to try.
        halving, rungs: of `ghostnas.nas.rungs`; without rungs, no trial is stopped early.
        private: whether no other process uses the storage: running trials were then left behind by
            a process that ended, and are tried again. Otherwise a trial is, once its process has
            sent no heartbeat for `ghostnas.nas.storage.GRACE_S` seconds.
        new: whether the study may not exist yet.
        me: this process, which the study remembers as its creator if it is.

    Raises:
        InputError: the study was started with other settings, no longer exists, or cannot be
            opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(url, say)
    pruner = (
        SuccessiveHalvingPruner(min_resource=rungs[0], reduction_factor=halving)
        if rungs
        else NopPruner()
    )
    created = False
    try:
        if new:
            with suppress(DuplicatedStudyError):
                optuna.create_study(storage=storage, study_name=NAME, direction="maximize")
                created = True
        study = optuna.load_study(storage=storage, study_name=NAME, sampler=sampler, pruner=pruner)
    except KeyError as error:
        raise InputError(
            f"storage {shown(url)}: no longer holds the study that the search began with; "
            "restore it, or start again in another --out"
        ) from error
    except Exception as error:  # Optuna's storages raise their database drivers' errors
        raise InputError(f"storage {shown(url)}: cannot be opened: {reason(error)}") from error
    if created and me is not None:
        study.set_user_attr(CREATOR, dataclasses.asdict(me))
    remembered = dict(settings) if created else _remembered(study, settings)
    for key in sorted({*settings, *remembered}):
        if settings.get(key) != remembered.get(key):
            raise InputError(
                f"the study was started with {key} = {remembered.get(key)!r}, "
                f"not {settings.get(key)!r}; choose another --out or --storage"
            )
    if private:
        for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(left.number, state=TrialState.FAIL)
            _try_again(study, left)
    begun = (*EVALUATED, TrialState.WAITING, TrialState.RUNNING)
    if not study.get_trials(deepcopy=False, states=begun):
        study.enqueue_trial(start)
    study.set_user_attr("settings", dict(settings))  # last: the other processes wait for it
    storage.patient = True  # type: ignore[attr-defined]
    return study


def _remembered(study: optuna.Study, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that a study was started with, which its creator may be about to write; if it
    died before that, they are this process's.
    """
    until = time.monotonic() + NAMING_S
    while time.monotonic() < until:
        if "settings" in (told := study.user_attrs):
            found: Mapping[str, Any] = told["settings"]
            return found
        time.sleep(NAMING_POLL_S)
    return settings


def _try_again(study: optuna.Study, left: FrozenTrial) -> None:
    """Queue the network of a trial that its process left behind, up to `RETRIES` times."""
    before, origin = 0, left
    while (earlier := origin.user_attrs.get(RETRY_OF)) is not None:
        before, origin = before + 1, study.get_trials(deepcopy=False)[earlier]
    if "id" in left.user_attrs and before < RETRIES:  # it has a network
        study.enqueue_trial(left.params, user_attrs={RETRY_OF: left.number})


def run(
    study: optuna.Study,
    space: Space,
    submit: Submit,
    *,
    screened: Screened = lambda params: {},
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
    mine = _Mine(study, screened)
    failures, used_up = 0, False
    try:
        while True:
            mine.close_stale()
            states = (*EVALUATED, TrialState.RUNNING)
            wanted = trials - len(study.get_trials(deepcopy=False, states=states))
            while not used_up and wanted > 0 and len(mine.running) < at_once:
                if time.monotonic() >= until:
                    break
                try:
                    if mine.begin(space, submit, trials):
                        wanted -= 1
                except SpaceUsedUp:
                    used_up = True
                except _Enough:
                    wanted = 0
            if not mine.running:
                complete = len(study.get_trials(deepcopy=False, states=EVALUATED))
                if complete >= trials or used_up or time.monotonic() >= until or wanted > 0:
                    return Ended(used_up=used_up, failed=failures)
                time.sleep(POLL_S)  # other processes are running the last trials
                continue
            done, _ = wait(mine.running, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
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


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """Other processes have begun the last trials at the same time."""


class _Mine:
    """The trials that this process is running."""

    def __init__(self, study: optuna.Study, screened: Screened) -> None:
        self._study, self._screened = study, screened
        self._heartbeat = Heartbeat(study)
        self._unfinished: dict[int, optuna.Trial] = {}
        self._unnamed: set[int] = set()  # others' trials that were waited for in vain
        self.running: dict[Future[float], tuple[optuna.Trial, Arch, float]] = {}

    def begin(self, space: Space, submit: Submit, trials: int) -> bool:
        """Ask for a network and start scoring it; False if another process already had it.

        Raises:
            SpaceUsedUp: none is left.
            _Enough: other processes began the last of the `trials` before.
        """
        trial = self._ask()
        states = (*EVALUATED, TrialState.RUNNING)
        others = self._study.get_trials(deepcopy=False, states=states)
        if sum(other.number < trial.number for other in others) >= trials:
            self._tell(trial, TrialState.FAIL)
            raise _Enough
        try:
            arch = space.build(trial.suggest_categorical)
        except SpaceUsedUp:
            self._tell(trial, TrialState.FAIL)
            raise
        trial.set_user_attr("arch", json.dumps(to_json(arch)))
        trial.set_user_attr("id", arch.id)
        if scores := self._screened(trial.params):
            trial.set_user_attr(SCREENED, dict(scores))
        if (other := self._earlier(trial, arch)) is not None:
            trial.set_user_attr("repeats", other)
            self._tell(trial, TrialState.FAIL)
            return False
        future = submit(arch, lambda epoch, accuracy: _report(trial, epoch, accuracy))
        self.running[future] = (trial, arch, time.monotonic())
        return True

    def finish(self, future: Future[float]) -> ScoredArch | None:
        """Tell the study a network's score; None if another process has closed the trial, having
        received no heartbeat from this one for too long.

        Raises:
            TrainingError: it could not be scored; the trial has failed.
        """
        trial, arch, started = self.running.pop(future)
        stopped, score = False, None
        try:
            score = future.result()
        except StoppedEarly:
            stopped = True
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
        self._tell(trial, TrialState.PRUNED if stopped else TrialState.COMPLETE, score)
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        return ScoredArch(
            trial=trial.number,
            arch=arch,
            score=float(reached(frozen) or 0.0),
            seconds=seconds,
            stopped=stopped,
        )

    def close_stale(self) -> None:
        """Close the trials of processes that are no longer heard of as failed, and queue them."""
        for left in self._heartbeat.silent():
            with suppress(ValueError, UpdateFinishedTrialError):  # another process was faster
                self._study.tell(left.number, state=TrialState.FAIL)
                _try_again(self._study, left)

    def close(self) -> None:
        for future in self.running:
            future.cancel()
        try:
            for trial in list(self._unfinished.values()):
                self._tell(trial, TrialState.FAIL)
        except (StorageInternalError, SQLAlchemyError):
            pass  # the database is gone: the trials are closed when their heartbeats run out
        self._heartbeat.end()

    def _earlier(self, trial: optuna.Trial, arch: Arch) -> int | None:
        """The number of an earlier trial on the same network, if there is one.

        A trial that another process began before this one may have no network yet. This waits for
        it, so that of two trials on one network the earlier always continues and the later never
        does.
        """
        until = time.monotonic() + NAMING_S
        states = (*EVALUATED, TrialState.RUNNING)
        while True:
            earlier = {
                other.number: other.user_attrs.get("id")
                for other in self._study.get_trials(deepcopy=False, states=states)
                if other.number < trial.number
            }
            for number, arch_id in earlier.items():
                if arch_id == arch.id:
                    return number
            unnamed = {number for number, arch_id in earlier.items() if arch_id is None}
            if time.monotonic() > until:
                self._unnamed |= unnamed  # its process died
            if unnamed <= self._unnamed:
                return None
            time.sleep(NAMING_POLL_S)

    def _ask(self) -> optuna.Trial:
        trial = self._study.ask()
        self._unfinished[trial.number] = trial
        self._heartbeat.add(trial)
        return trial

    def _tell(self, trial: optuna.Trial, state: TrialState, score: float | None = None) -> None:
        """Like `optuna.Study.tell`, but a trial that another process closed stays closed, and so
        does one that the database closed before it could say so.
        """
        with suppress(UpdateFinishedTrialError):
            self._study.tell(trial, score, state=state, skip_if_finished=True)
        self._forget(trial)

    def _forget(self, trial: optuna.Trial) -> None:
        del self._unfinished[trial.number]
        self._heartbeat.remove(trial)


def _report(trial: optuna.Trial, epoch: int, accuracy: float) -> bool:
    """Tell the study of a rung; whether the training should go on."""
    try:
        trial.report(accuracy, epoch)
        return not trial.should_prune()
    except UpdateFinishedTrialError:  # another process has closed the trial
        return False


def finished(study: optuna.Study) -> list[ScoredArch]:
    """Every evaluated trial, in order; the architecture is read from the trial's attributes."""
    return [
        ScoredArch(
            trial=trial.number,
            arch=from_json(json.loads(trial.user_attrs["arch"])),
            score=float(reached(trial) or 0.0),
            seconds=float(trial.user_attrs["seconds"]),
            stopped=trial.state == TrialState.PRUNED,
        )
        for trial in study.get_trials(deepcopy=False, states=EVALUATED)
    ]
