"""The main job: from a space, a target and budgets to the best network, scored and exported.

A run folder holds everything: settings (search.toml), the study, the trained networks, and what
`results` writes.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.data import datasets, images
from ghostnas.errors import BudgetError, InputError, did_you_mean
from ghostnas.files import locked, read_text, write_whole
from ghostnas.nas import (
    baseline,
    concluding,
    feasible,
    pareto,
    report_page,
    results,
    rungs,
    samplers,
    screening,
    storage,
    study,
    warm_start,
)
from ghostnas.nas.constraints import LOG_COSTS, Candidate, Constraints
from ghostnas.nas.evaluators import SCORERS, TRAIN, EvaluatorPool
from ghostnas.nas.finalists import Finals
from ghostnas.nas.results import Outcome
from ghostnas.nas.settings import CHANGEABLE, Settings, read, to_text
from ghostnas.nas.settings import FILE as SETTINGS_FILE
from ghostnas.nas.snapshot import Snapshot, TrialSeen, Watch, front, unwatched
from ghostnas.nas.study import ScoredArch
from ghostnas.networks import blocks, space
from ghostnas.networks.arch import Arch
from ghostnas.progress import Say, duration
from ghostnas.training import proxy_network, recipe, splits, supernet
from ghostnas.training.distributed import on_cuda
from ghostnas.training.recipe import Recipe

ELAPSED_FILE, SCREENED_FILE = "elapsed.json", "screened.json"
MEMBER_FILE = "member.txt"  # the id of this folder's process in a study that several share


def start(settings: Settings, folder: Path, say: Say, watch: Watch = unwatched) -> dict[str, Any]:
    """Start a search in `folder`; returns the contents of ``result.json``.

    Raises:
        InputError: the folder already holds a search, or a setting is invalid.
        BudgetError: nothing in the space meets the budgets.
    """
    if (folder / SETTINGS_FILE).exists():
        raise InputError(f"{folder}: already holds a search; resume it with --resume")
    prepared = _Prepared(_located(settings))  # checks every name and file before making a folder
    fingerprint = splits.fingerprint(prepared.split)
    prepared.settings = dataclasses.replace(
        prepared.settings, fingerprint=fingerprint, blocks=tuple(blocks.own_files())
    )
    folder.mkdir(parents=True, exist_ok=True)
    return _search(prepared, folder, say, watch)


def resume(
    folder: Path, changes: Mapping[str, Any], say: Say, watch: Watch = unwatched
) -> dict[str, Any]:
    """Resume the search in `folder`, with `changes` to its settings.

    Raises:
        InputError: there is none, a change is not to one of CHANGEABLE, or its data has changed.
    """
    settings = read(folder / SETTINGS_FILE)
    for file in settings.blocks:
        blocks.load_file(Path(file))
    located = dataclasses.asdict(_located(dataclasses.replace(settings, **changes)))
    for key in changes:
        if key not in CHANGEABLE and located[key] != getattr(settings, key):
            raise InputError(
                f"{folder}: was started with {key} = {getattr(settings, key)!r}, not "
                f"{changes[key]!r}; leave it out, or start again in another --out"
            )
    kept = {key: changes[key] for key in changes if key in CHANGEABLE}
    prepared = _Prepared(dataclasses.replace(settings, **kept))
    if settings.fingerprint and not splits.has_fingerprint(prepared.split, settings.fingerprint):
        raise InputError(
            f"data {settings.data!r}: the images have changed since the search in {folder} began; "
            "restore them, or start again in another --out"
        )
    return _search(prepared, folder, say, watch)


class _Prepared:
    """Everything a search reads, loaded and checked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recipe = recipe.load(settings.recipe)
        self.final_recipe = recipe.load(settings.final_recipe or settings.recipe)
        shared = supernet.folder_of(settings.scorer)
        if shared is None and settings.scorer not in SCORERS:
            raise InputError(
                f"unknown scorer {settings.scorer!r}{did_you_mean(settings.scorer, SCORERS)}; "
                f"known: {', '.join(SCORERS)}, {supernet.PREFIX}DIR"
            )
        self.screening_scorers = screening.parse(settings.screened_by)
        samplers.check(settings.sampler)
        self.traded = pareto.parse(settings.pareto) if settings.pareto else ()
        on_cuda(settings.device)  # an unusable device fails before a folder is made
        self.constraints = Constraints(
            settings.target, settings.budgets, settings.confidence or None
        )
        searched = space.load(settings.space)
        self.dataset = datasets.load(settings.data)
        self.split = splits.split(self.dataset, self.recipe)
        self.final_split = splits.split(self.dataset, self.final_recipe)
        for name, part in (
            (settings.recipe, self.split),
            (settings.final_recipe or settings.recipe, self.final_split),
        ):
            if not len(part.validation):
                raise InputError(
                    f"recipe {name} holds out no validation images; add validation_pictures to it"
                )
        if self.split.preprocessing.classes != self.final_split.preprocessing.classes:
            raise InputError(
                f"recipes {settings.recipe} and {settings.final_recipe} use different classes"
            )
        self.space = proxy_network.deployed_space(
            searched, settings.deploy, settings.resolution, self.split
        )
        screening_by = supernet.folder_of(self.screening_scorers.get(screening.SUPERNET, ""))
        for each in (shared, screening_by):
            if each is not None:
                supernet.read(each).check(searched, self.split)
        self.past = warm_start.read(Path(settings.warm_start)) if settings.warm_start else None
        self.smallest = feasible.find_smallest(self.space, self.constraints.utilization)
        # The target's table knows its ops.
        self.constraints.cost_of(self.space.decode(self.smallest))

    def remembered(self) -> dict[str, Any]:
        """What must be unchanged for the study to resume."""
        settings = self.settings
        known_data = {
            "data": settings.data.partition(":")[0],  # its folder may differ on another machine
            "fingerprint": settings.fingerprint,
            "deploy": settings.deploy,
        }
        if not settings.fingerprint:  # a search of an earlier version
            known_data = {"data": settings.data}
        return {
            "space": self.space.hash,
            "budgets": list(settings.budgets),
            "target": settings.target,
            "confidence": settings.confidence,
            **known_data,
            "recipe": settings.recipe,
            **_numbers(self.recipe),
            "scorer": settings.scorer,
            **({"halving": settings.halving} if settings.halving else {}),
            **({"pareto": settings.pareto} if settings.pareto else {}),
        }


def _search(prepared: _Prepared, folder: Path, say: Say, watch: Watch) -> dict[str, Any]:
    """The search: score many networks without training, run the trials, train the best from other
    seeds, choose, train the winner from yet other seeds, and export it.
    """
    settings = prepared.settings
    for line in images.skipped_lines(prepared.dataset.skipped):
        say(line)
    with locked(folder):
        url = settings.storage or f"sqlite:///{folder.resolve()}/study.db"
        if settings.storage:
            storage.open_storage(url, say)  # one that cannot be opened is told before anything else
        pool = EvaluatorPool(
            settings.data,
            prepared.recipe,
            settings.workers,
            settings.scorer,
            settings.device,
            prepared.final_recipe,
        )
        pool.warm_up()
        with closing(pool), closing(_Run(prepared, folder, pool, say)) as run:
            watch(run.snapshot)
            try:
                run.open(url)
                run.describe()
                run.screen()
                run.trials()
                return run.concluded_elsewhere() or run.conclude()
            except (StorageInternalError, SQLAlchemyError) as error:
                raise InputError(
                    f"storage {storage.shown(url)}: {storage.reason(error)}; finished work is "
                    f"kept, resume with: ghostnas search --resume --out {folder}"
                ) from error


class _Run:
    """A running search in its folder."""

    def __init__(self, prepared: _Prepared, folder: Path, pool: EvaluatorPool, say: Say) -> None:
        self._prepared, self._settings = prepared, prepared.settings
        self._folder, self._pool, self._say = folder, pool, say
        self._elapsed = _Elapsed(folder / ELAPSED_FILE)
        self._used_up = False
        self._url = ""
        self._presence: concluding.Presence | None = None  # in a study that others may share
        self._finals = Finals(pool, folder, say, self._elapsed.keep)
        self._phase = "opening the study"
        self._screening_done = 0
        self._progress: _Progress | None = None
        self._study: optuna.Study
        self._screened: Mapping[samplers.Key, Mapping[str, float]] = {}
        say("counting the networks that meet the budgets")
        self._feasible = prepared.constraints.feasible(prepared.space)
        self._sampler: samplers.FeasibleSampler = samplers.RandomFeasible(
            self._feasible, self._settings.seed
        )

    def describe(self) -> None:
        """Say what the search chooses from, and on what."""
        prepared, settings = self._prepared, self._settings
        say = self._say
        say(
            f"budgets {', '.join(settings.budgets)}; target {settings.target}: about "
            f"{self._feasible.count:.2g} of the {prepared.space.size:.2g} networks of space "
            f"{prepared.space.name} meet them"
        )
        baseline = prepared.space.decode({})
        for name, arch in (
            ("the smallest network found", prepared.space.decode(prepared.smallest)),
            ("the published one", baseline),
            ("the largest options", prepared.space.decode(_largest(prepared))),
        ):
            counted, predicted = prepared.constraints.cost_of(arch)
            share = prepared.constraints.utilization(arch)
            say(
                f"{name}: {counted.macs / 1e6:.1f} MFLOPs, {counted.params / 1e6:.2f} M parameters,"
                f" {predicted.latency_ms:.1f} ms; uses {share:.0%} of the budgets"
            )
        trained = proxy_network.proxy_of(baseline, prepared.split)
        say(
            f"the published network as deployment ({settings.deploy}): "
            f"{proxy_network.describe(baseline)}"
        )
        say(
            f"the same as proxy: {proxy_network.describe(trained)}, on {len(prepared.split.train)} "
            f"images of {prepared.dataset.name}"
        )

    def screen(self) -> None:
        """Score networks without training, where the sampler learns from such scores, and give the
        study its sampler.
        """
        prepared, settings = self._prepared, self._settings
        weights = screening.prior(prepared.screening_scorers)
        if settings.screened and settings.sampler == "surrogate" and settings.scorer == TRAIN:
            self._phase = "screening"
            scorers = self._prepared.screening_scorers
            self._screened = screening.screen(
                self._feasible,
                lambda arch: self._pool.submit_screening(arch, scorers, settings.seed),
                settings.screened,
                settings.seed,
                self._folder / SCREENED_FILE,
                self._say,
                self._count_screened,
                weights,
                self._exchange(),
            )
        if settings.sampler == "surrogate":
            self._sampler = samplers.SurrogateSampler(
                self._feasible,
                settings.seed,
                screened=self._screened or None,
                screened_prior=weights if self._screened else None,
                past=prepared.past,
                traded=[LOG_COSTS.index(name) for name in prepared.traded],
            )
        else:
            self._sampler = samplers.create(settings.sampler, self._feasible, settings.seed)
        self._study.sampler = self._sampler

    def _exchange(self) -> screening.Exchange | None:
        """With the other processes, if the study may have any."""
        if not self._settings.storage:
            return None
        me = _member(self._folder).id
        return screening.Exchange(self._study, me, self._feasible.choices)

    def _count_screened(self, done: int) -> None:
        self._screening_done = done

    def open(self, url: str) -> None:
        """Open the study, create it if it is new, and keep the settings in the run folder."""
        prepared, settings = self._prepared, self._settings
        self._url = url
        searched, utilization = prepared.space, prepared.constraints.utilization
        me = _member(self._folder) if settings.storage else None
        self._study = study.open_study(
            url,
            prepared.remembered(),
            self._sampler,  # until the screening is done
            feasible.published(searched, utilization) or prepared.smallest,
            halving=settings.halving,
            rungs=self._rungs,
            private=not settings.storage,
            new=not (self._folder / SETTINGS_FILE).exists(),
            me=me,
            say=self._say,
        )
        if me is not None:
            self._presence = concluding.Presence(self._study, me)
        write_whole(self._folder / SETTINGS_FILE, to_text(settings).encode())

    @property
    def _rungs(self) -> tuple[int, ...]:
        if self._settings.scorer != TRAIN:
            return ()
        return rungs.epochs_of(self._prepared.recipe.epochs, self._settings.halving)

    def trials(self) -> None:
        """Score networks until there are as many trials as asked for."""
        prepared, settings = self._prepared, self._settings
        done = study.finished(self._study)
        self._say(f"{len(done)} of {settings.trials} trials done")
        until = time.monotonic() + settings.timeout_s if settings.timeout_s else float("inf")
        self._progress = _Progress(prepared, done, self._elapsed, self._say, self._expected)
        self._phase = "trials"
        ended = study.run(
            self._study,
            prepared.space,
            lambda arch, report: self._pool.submit(arch, settings.seed, self._rungs, report),
            screened=lambda params: self._screened.get(samplers.key_of(params), {}),
            trials=settings.trials,
            at_once=settings.workers,
            until=until,
            report=self._progress,
        )
        self._used_up = ended.used_up
        if ended.used_up:
            self._say("the space is exhausted: it has no other network within the budgets")

    def concluded_elsewhere(self) -> dict[str, Any] | None:
        """The result if another process concludes the study: which; None if this one should."""
        if self._presence is None:
            return None
        by = self._presence.await_turn(self._settings.trials, self._say)
        if by is None:
            return None
        return {
            "run": str(self._folder),
            "concluded_by": by.place,
            "trials": len(study.finished(self._study)),
        }

    def close(self) -> None:
        if self._presence is not None:
            self._presence.end()

    def snapshot(self) -> Snapshot:
        """How the search stands, for a view in another thread."""
        settings, progress = self._settings, self._progress
        trials = tuple(progress.seen) if progress else ()
        left = progress.left_s if progress and self._phase == "trials" else self._finals.left_s
        screens = settings.screened if self._phase == "screening" or self._screened else 0
        return Snapshot(
            phase=self._phase,
            folder=str(self._folder),
            target=settings.target,
            budgets=settings.budgets,
            accuracies=settings.scorer == TRAIN,
            fitting=self._feasible.count,
            size=self._prepared.space.size,
            screened=self._screening_done,
            to_screen=screens,
            trials=trials,
            wanted=settings.trials,
            best=progress.best if progress else None,
            expected=progress.expected if progress else None,
            finals=self._finals.done,
            to_finish=self._finals.wanted,
            front=front(trials),
            workers=self._pool.jobs(),
            spent_s=self._elapsed.seconds,
            left_s=left,
        )

    def conclude(self) -> dict[str, Any]:
        """Train the best trials and plain GhostNet, choose one, and export it."""
        settings, prepared = self._settings, self._prepared
        done = study.finished(self._study)
        if not done:
            raise BudgetError("no trial finished in the time given; raise --timeout")
        rows = results.trial_rows(done, prepared.constraints)
        traded = pareto.parse(settings.pareto) if settings.pareto else ("latency",)
        results.write_trials(self._folder, rows, traded)
        finals, first = self._finals, settings.seed + 1
        predicted = self._predicted()
        self._phase = "choosing among the finalists"
        winner, candidates = finals.choose(
            self._candidates(done, predicted),
            range(first, first + settings.seeds),
            lambda several: results.choose(several, lambda each: predicted.get(each.arch.id)),
        )
        self._say(f"chosen: {winner.name} ({winner.arch.id})")
        fresh = range(first + settings.seeds, first + 2 * settings.seeds)
        self._phase = "comparing the winner with plain GhostNet"
        winner, candidates = finals.report(winner, candidates, fresh)
        along = self._along_front(finals, done, pareto.front(rows, traded), fresh[:1])
        for line in images.skipped_lines(finals.skipped):
            self._say(line)
        failed = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.FAIL,))
        found = Outcome(
            winner=winner,
            candidates=tuple(candidates),
            trials=tuple(rows),
            infeasible=sum(prepared.constraints.utilization(each.arch) > 1 for each in done),
            failed=sum("error" in each.user_attrs for each in failed),
            repeated=sum("repeats" in each.user_attrs for each in failed),
            stopped=sum(each.stopped for each in done),
            used_up=self._used_up,
            front=tuple(along),
            skipped=len(prepared.dataset.skipped) + len(finals.skipped),
            seconds=self._elapsed.keep(),
        )
        self._phase = "exporting"
        result = results.conclude(
            settings, prepared.final_split, prepared.constraints.dtype, self._folder, found
        )
        report_page.write(self._folder)
        if self._presence is not None:
            self._presence.concluded(settings.trials)
        return result

    def _along_front(
        self,
        finals: Finals,
        done: Sequence[ScoredArch],
        front: Sequence[Mapping[str, Any]],
        seeds: range,
    ) -> list[dict[str, Any]]:
        """Networks spread along the front, trained and exported, as many as asked for."""
        count = min(self._settings.export_front, len(front))
        if not count:
            return []
        places = {round(at * (len(front) - 1) / max(1, count - 1)) for at in range(count)}
        by_number = {each.trial: each for each in done}
        chosen = [by_number[front[at]["trial"]] for at in sorted(places)]
        candidates = [self._candidate(f"trial {e.trial}", e.trial, e.arch) for e in chosen]
        prepared = self._prepared
        return [
            results.export_along_front(
                self._settings,
                prepared.final_split,
                prepared.constraints.dtype,
                self._folder,
                each,
                len(done),
            )
            for each in finals.train(candidates, seeds)
        ]

    def _candidate(self, name: str, trial: int | None, arch: Arch) -> Candidate:
        counted, latency = self._prepared.constraints.cost_of(arch)
        return Candidate(name=name, trial=trial, arch=arch, cost=counted, latency=latency)

    def _predicted(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of the score of each trial's network, by its id; empty for a
        sampler that does not predict or a score that is no accuracy.
        """
        if self._settings.scorer != TRAIN or not isinstance(
            self._sampler, samplers.SurrogateSampler
        ):
            return {}
        by_key = self._sampler.predict(self._study)
        trials = self._study.get_trials(deepcopy=False, states=study.EVALUATED)
        return {each.user_attrs["id"]: by_key[samplers.key_of(each.params)] for each in trials}

    def _expected(self, scored: ScoredArch) -> tuple[float, float] | None:
        return self._predicted().get(scored.arch.id)

    def _candidates(
        self, done: Sequence[ScoredArch], predicted: Mapping[str, tuple[float, float]]
    ) -> list[Candidate]:
        """The best trials by what is expected of them, all different networks, and plain GhostNet;
        a trial of plain GhostNet counts only as the latter.
        """
        baseline = _baseline(self._prepared)
        plain = {arch.id for _, _, arch in baseline}

        def worth(each: ScoredArch) -> tuple[float, int]:
            return -predicted.get(each.arch.id, (each.score, 0.0))[0], each.trial

        whole = [each for each in done if not each.stopped] if not predicted else done
        networks = {each.arch.id: each for each in sorted(whole, key=worth, reverse=True)}
        best = [each for each in sorted(networks.values(), key=worth) if each.arch.id not in plain]
        entrants = [(f"trial {each.trial}", each.trial, each.arch) for each in best]
        several = [*entrants[: self._settings.finalists], *baseline]
        return [self._candidate(*each) for each in several]


class _Elapsed:
    """Seconds that a search has taken so far, over all the processes that ran it in turn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self._before = 0.0  # for a new search, or one from an earlier version
        with suppress(InputError, ValueError, KeyError, TypeError):
            self._before = float(json.loads(read_text(path))["seconds"])

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def keep(self) -> float:
        seconds = self.seconds
        write_whole(self._path, json.dumps({"seconds": round(seconds, 1)}).encode())
        return seconds


class _Progress:
    """Reports after each trial its result, the best so far and how long the rest will take.

    Args:
        expected: mean and standard deviation of a trial's score as the sampler sees it, if it does.
    """

    def __init__(
        self,
        prepared: _Prepared,
        done: Sequence[ScoredArch],
        elapsed: _Elapsed,
        say: Say,
        expected: Callable[[ScoredArch], tuple[float, float] | None],
    ) -> None:
        self._prepared = prepared
        self._before = len(done)
        self._began = time.monotonic()
        self._elapsed = elapsed
        self._say = say
        self._expected_of = expected
        self.seen = [self._see(each) for each in done]
        self.best: TrialSeen | None = max(
            (each for each in self.seen if not each.stopped), key=_score, default=None
        )
        self.expected: tuple[float, float] | None = None
        self.left_s: float | None = None

    def __call__(self, scored: ScoredArch) -> None:
        trial = self._see(scored)
        self.seen.append(trial)
        self._elapsed.keep()
        if not trial.stopped and (self.best is None or trial.score > self.best.score):
            self.best, self.expected = trial, self._expected_of(scored)
        best = self.best or max(self.seen, key=_score)
        trials = self._prepared.settings.trials
        pace = (time.monotonic() - self._began) / (len(self.seen) - self._before)
        self.left_s = pace * max(0, trials - len(self.seen))
        stopped = " when it was stopped early" if scored.stopped else ""
        self._say(
            f"{len(self.seen)}/{trials} trials: trial {scored.trial} has {self._text(trial)}"
            f"{stopped}, "
            f"{trial.macs / 1e6:.1f} MFLOPs, {trial.latency_ms:.1f} ms; best is trial "
            f"{best.number}, {self._text(best)}; {duration(self.left_s)} left"
        )

    def _see(self, scored: ScoredArch) -> TrialSeen:
        counted, predicted = self._prepared.constraints.cost_of(scored.arch)
        return TrialSeen(
            number=scored.trial,
            score=scored.score,
            macs=counted.macs,
            latency_ms=predicted.latency_ms,
            stopped=scored.stopped,
        )

    def _text(self, trial: TrialSeen) -> str:
        trained = self._prepared.settings.scorer == TRAIN
        return f"{trial.score:.1%}" if trained else f"score {trial.score:.5g}"


def _score(trial: TrialSeen) -> float:
    return trial.score


def _member(folder: Path) -> concluding.Member:
    """This folder's process in a study that several share; the same when it resumes."""
    path = folder / MEMBER_FILE
    if not path.exists():
        write_whole(path, uuid.uuid4().hex.encode())
    return concluding.Member(
        id=read_text(path).strip(), place=f"{platform.node()}:{folder.resolve()}"
    )


def _baseline(prepared: _Prepared) -> list[tuple[str, int | None, Arch]]:
    """GhostNet at the largest width whose deployment meets the budgets; empty if none does."""
    searched = prepared.space
    found = baseline.largest(
        prepared.constraints,
        searched.decode({}).resolution,
        searched.classes,
        drop_strides=searched.drop_strides,
    )
    return [] if found is None else [(found[0], None, found[1])]


def _largest(prepared: _Prepared) -> dict[str, Any]:
    """The largest option of every number."""
    choices = prepared.space.choices
    return {
        name: max(options, key=lambda option: _amount(prepared, name, option))
        for name, options in choices.items()
    }


def _amount(prepared: _Prepared, name: str, option: Any) -> float:
    """Multiply-accumulates of the published network with one other option."""
    return prepared.constraints.cost_of(prepared.space.decode({name: option}))[0].macs


def _located(settings: Settings) -> Settings:
    """The settings with absolute file names, so that they are found from any folder."""

    def absolute(name: str) -> str:
        return str(Path(name).resolve()) if Path(name).suffix in (".toml", ".csv") else name

    return dataclasses.replace(
        settings,
        data=datasets.absolute(settings.data),
        space=absolute(settings.space),
        recipe=absolute(settings.recipe),
        final_recipe=absolute(settings.final_recipe),
        warm_start=str(Path(settings.warm_start).resolve()) if settings.warm_start else "",
        target=absolute(settings.target),
        scorer=supernet.absolute(settings.scorer),
        screened_by=",".join(map(supernet.absolute, settings.screened_by.split(","))),
    )


def _numbers(how: Recipe) -> dict[str, Any]:
    """A recipe's numbers as a study keeps them, so that an edited file counts as another recipe."""
    values = json.loads(json.dumps(dataclasses.asdict(how)))
    return {f"recipe.{key}": value for key, value in values.items()}
