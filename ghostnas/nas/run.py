"""The main job: from a space, a target and budgets to the best network, scored and exported.

A run folder holds everything: settings (search.toml), the study, the trained networks, and what
`results` writes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.data import datasets, images
from ghostnas.errors import BudgetError, InputError, did_you_mean
from ghostnas.files import locked, read_text, write_whole
from ghostnas.nas import evaluators, results, storage, study
from ghostnas.nas.constraints import Accuracies, Candidate, Constraints
from ghostnas.nas.evaluators import SCORERS, TRAIN, EvaluatorPool, Score
from ghostnas.nas.results import Outcome
from ghostnas.nas.settings import CHANGEABLE, Settings, read, to_text
from ghostnas.nas.study import ScoredArch
from ghostnas.networks import space
from ghostnas.networks.arch import Arch, fit_to
from ghostnas.networks.zoo import ghostnet
from ghostnas.progress import Say, duration
from ghostnas.training import proxy_network, recipe, splits
from ghostnas.training.distributed import on_cuda
from ghostnas.training.recipe import Recipe

BASELINE_WIDTHS = [width / 20 for width in range(40, 1, -1)]
SETTINGS_FILE, ELAPSED_FILE = "search.toml", "elapsed.json"


def start(settings: Settings, folder: Path, say: Say) -> dict[str, Any]:
    """Start a search in `folder`; returns the contents of ``result.json``.

    Raises:
        InputError: the folder already holds a search, or a setting is invalid.
        BudgetError: nothing in the space meets the budgets.
    """
    if (folder / SETTINGS_FILE).exists():
        raise InputError(f"{folder}: already holds a search; resume it with --resume")
    prepared = _Prepared(_located(settings))  # checks every name and file before making a folder
    fingerprint = splits.fingerprint(prepared.split)
    prepared.settings = dataclasses.replace(prepared.settings, fingerprint=fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    return _search(prepared, folder, say)


def resume(folder: Path, changes: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Resume the search in `folder`, with `changes` to its settings.

    Raises:
        InputError: there is none, a change is not to one of CHANGEABLE, or its data has changed.
    """
    settings = read(folder / SETTINGS_FILE)
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
    return _search(prepared, folder, say)


class _Prepared:
    """Everything a search reads, loaded and checked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recipe = recipe.load(settings.recipe)
        if settings.scorer not in SCORERS:
            raise InputError(
                f"unknown scorer {settings.scorer!r}{did_you_mean(settings.scorer, SCORERS)}; "
                f"known: {', '.join(SCORERS)}"
            )
        on_cuda(settings.device)  # an unusable device fails before a folder is made
        self.constraints = Constraints(
            settings.target, settings.budgets, settings.confidence or None
        )
        searched = space.load(settings.space)
        self.dataset = datasets.load(settings.data)
        self.split = splits.split(self.dataset, self.recipe)
        if not len(self.split.validation):
            raise InputError(
                f"recipe {settings.recipe} holds out no validation images; add "
                "validation_pictures to it"
            )
        self.space = proxy_network.deployed_space(
            searched, settings.deploy, settings.resolution, self.split
        )
        self.smallest = study.find_smallest(self.space, self.constraints.utilization)
        self.constraints.cost_of(
            self.space.decode(self.smallest)
        )  # the target's table knows its ops

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
        }


def _search(prepared: _Prepared, folder: Path, say: Say) -> dict[str, Any]:
    """The search: run the trials, train the best from other seeds, choose, train the winner from
    yet other seeds, and export it.
    """
    settings = prepared.settings
    for line in images.skipped_lines(prepared.dataset.skipped):
        say(line)
    with locked(folder):
        url = settings.storage or f"sqlite:///{folder.resolve()}/study.db"
        current = study.open_study(
            url,
            prepared.remembered(),
            settings.sampler,
            settings.seed,
            prepared.space,
            prepared.constraints.utilization,
            prepared.smallest,
            private=not settings.storage,
            new=not (folder / SETTINGS_FILE).exists(),
            say=say,
        )
        write_whole(folder / SETTINGS_FILE, to_text(settings).encode())
        pool = EvaluatorPool(
            settings.data, prepared.recipe, settings.workers, settings.scorer, settings.device
        )
        try:
            run = _Run(prepared, folder, current, pool, say)
            run.trials()
            return run.conclude()
        except (StorageInternalError, SQLAlchemyError) as error:
            raise InputError(
                f"storage {storage.shown(url)}: {storage.reason(error)}; finished work is kept, "
                f"resume with: ghostnas search --resume --out {folder}"
            ) from error
        finally:
            pool.close()


class _Run:
    """A running search in its folder."""

    def __init__(
        self,
        prepared: _Prepared,
        folder: Path,
        current: optuna.Study,
        pool: EvaluatorPool,
        say: Say,
    ) -> None:
        self._prepared, self._settings = prepared, prepared.settings
        self._folder, self._study, self._pool, self._say = folder, current, pool, say
        self._elapsed = _Elapsed(folder / ELAPSED_FILE)
        self._used_up = False

    def trials(self) -> None:
        """Score networks until there are as many trials as asked for."""
        prepared, settings = self._prepared, self._settings
        done = study.finished(self._study)
        baseline = prepared.space.decode({})
        self._say(
            f"{len(done)} of {settings.trials} trials done; budgets "
            f"{', '.join(settings.budgets)}; target {settings.target}"
        )
        trained = proxy_network.proxy_of(baseline, prepared.split)
        self._say(
            f"the space's published network as deployment ({settings.deploy}): "
            f"{proxy_network.describe(baseline)}"
        )
        self._say(
            f"the same as proxy: {proxy_network.describe(trained)}, on {len(prepared.split.train)} "
            f"images of {prepared.dataset.name}"
        )
        until = time.monotonic() + settings.timeout_s if settings.timeout_s else float("inf")
        ended = study.run(
            self._study,
            prepared.space,
            lambda arch: self._pool.submit(arch, settings.seed),
            trials=settings.trials,
            at_once=settings.workers,
            until=until,
            report=_Progress(prepared, done, self._elapsed, self._say),
        )
        self._used_up = ended.used_up
        if ended.used_up:
            self._say("the space is exhausted: it has no other network within the budgets")

    def conclude(self) -> dict[str, Any]:
        """Train the best trials and plain GhostNet, choose one, and export it.

        The seeds that choose took no part in the trials, whose scores flatter the best of them, and
        those that report take no part in the choice, which in turn flatters the winner.
        """
        settings, prepared = self._settings, self._prepared
        done = study.finished(self._study)
        if not done:
            raise BudgetError("no trial finished in the time given; raise --timeout")
        rows = results.trial_rows(done, prepared.constraints)
        results.write_trials(self._folder, rows)
        entrants = self._entrants(done)
        first = settings.seed + 1
        chosen_by = self._train(
            [arch for _, _, arch in entrants], range(first, first + settings.seeds), "to choose"
        )
        candidates = []
        for name, trial, arch in entrants:
            counted, predicted = prepared.constraints.cost_of(arch)
            candidates.append(
                Candidate(
                    name=name,
                    trial=trial,
                    arch=arch,
                    cost=counted,
                    latency=predicted,
                    choosing=_accuracies(chosen_by[arch.id]),
                )
            )
        winner = results.choose(candidates, len(prepared.split.validation))
        self._say(f"chosen: {winner.name} ({winner.arch.id})")
        compared = [each for each in candidates if each is winner or each.trial is None]
        fresh = range(first + settings.seeds, first + 2 * settings.seeds)
        reported = self._train([each.arch for each in compared], fresh, "to report")
        candidates = [
            dataclasses.replace(each, reporting=_accuracies(reported[each.arch.id]))
            if each in compared
            else each
            for each in candidates
        ]
        skipped = {
            line: None
            for scores in (*chosen_by.values(), *reported.values())
            for score in scores
            for line in score.skipped
        }
        for line in images.skipped_lines(skipped):
            self._say(line)
        failed = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.FAIL,))
        found = Outcome(
            winner=next(each for each in candidates if each.arch.id == winner.arch.id),
            candidates=tuple(candidates),
            trials=tuple(rows),
            infeasible=sum(prepared.constraints.utilization(each.arch) > 1 for each in done),
            failed=sum("error" in each.user_attrs for each in failed),
            used_up=self._used_up,
            skipped=len(prepared.dataset.skipped) + len(skipped),
            seconds=self._elapsed.keep(),
        )
        return results.conclude(
            settings, prepared.split, prepared.constraints.dtype, self._folder, found
        )

    def _entrants(self, done: Sequence[ScoredArch]) -> list[tuple[str, int | None, Arch]]:
        """The best trials, all different networks, and plain GhostNet; a trial of plain GhostNet
        counts only as the latter.
        """
        baseline = _baseline(self._prepared)
        plain = {arch.id for _, _, arch in baseline}
        ranked = sorted(done, key=lambda each: (-each.score, each.trial))
        networks = {each.arch.id: each for each in reversed(ranked)}  # the best of equal ones
        best = sorted(networks.values(), key=lambda each: (-each.score, each.trial))
        best = [each for each in best if each.arch.id not in plain][: self._settings.finalists]
        return [*((f"trial {each.trial}", each.trial, each.arch) for each in best), *baseline]

    def _train(
        self, archs: Sequence[Arch], seeds: Sequence[int], purpose: str
    ) -> dict[str, list[Score]]:
        """Each network's trainings from these seeds, by its id; those of an earlier process are
        read from the run folder.
        """
        known: dict[tuple[str, int], Score] = {}
        running: dict[Future[Score], tuple[str, int]] = {}
        for arch in archs:
            for seed in seeds:
                path = results.weights_path(self._folder, arch, seed)
                score = evaluators.recorded(path)
                if score is None:
                    running[self._pool.submit_test(arch, seed, path)] = (arch.id, seed)
                else:
                    known[arch.id, seed] = score
        self._say(
            f"training {purpose}: {len(archs)} networks from {len(seeds)} fresh seeds each"
            + (f", {len(known)} of them already done" if known else "")
        )
        began = time.monotonic()
        for count, future in enumerate(as_completed(running), 1):
            score = known[running[future]] = future.result()
            self._elapsed.keep()
            arch_id, seed = running[future]
            left = duration((time.monotonic() - began) / count * (len(running) - count))
            self._say(
                f"{count}/{len(running)} trainings {purpose}: {arch_id}, seed {seed}: "
                f"{score.accuracy:.1%} on validation images; {left} left"
            )
        return {arch.id: [known[arch.id, seed] for seed in seeds] for arch in archs}


class _Elapsed:
    """Seconds that a search has taken so far, over all the processes that ran it in turn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self._before = 0.0  # for a new search, or one from an earlier version
        with suppress(InputError, ValueError, KeyError, TypeError):
            self._before = float(json.loads(read_text(path))["seconds"])

    def keep(self) -> float:
        seconds = self._before + time.monotonic() - self._began
        write_whole(self._path, json.dumps({"seconds": round(seconds, 1)}).encode())
        return seconds


class _Progress:
    """Reports after each trial its result, the best so far and how long the rest will take."""

    def __init__(
        self, prepared: _Prepared, done: Sequence[ScoredArch], elapsed: _Elapsed, say: Say
    ) -> None:
        self._prepared = prepared
        self._done = list(done)
        self._before = len(done)
        self._began = time.monotonic()
        self._elapsed = elapsed
        self._say = say

    def __call__(self, scored: ScoredArch) -> None:
        self._done.append(scored)
        self._elapsed.keep()
        best = max(self._done, key=lambda each: each.score)
        trials = self._prepared.settings.trials
        pace = (time.monotonic() - self._began) / (len(self._done) - self._before)
        counted, predicted = self._prepared.constraints.cost_of(scored.arch)
        left = duration(pace * max(0, trials - len(self._done)))
        self._say(
            f"{len(self._done)}/{trials} trials: trial {scored.trial} has {self._text(scored)}, "
            f"{counted.macs / 1e6:.1f} MFLOPs, {predicted.latency_ms:.1f} ms; best is trial "
            f"{best.trial}, {self._text(best)}; {left} left"
        )

    def _text(self, scored: ScoredArch) -> str:
        trained = self._prepared.settings.scorer == TRAIN
        return f"{scored.score:.1%}" if trained else f"score {scored.score:.5g}"


def _baseline(prepared: _Prepared) -> list[tuple[str, int | None, Arch]]:
    """GhostNet at the largest width whose deployment meets the budgets; empty if none does."""
    searched = prepared.space
    resolution = searched.decode({}).resolution
    for width in BASELINE_WIDTHS:
        arch = ghostnet(width, resolution, searched.classes)
        if searched.drop_strides:
            arch = fit_to(arch, resolution=resolution, classes=searched.classes)
        if prepared.constraints.utilization(arch) <= 1:
            return [(f"GhostNet {width:g}x", None, arch)]
    return []


def _accuracies(scores: Sequence[Score]) -> Accuracies:
    return Accuracies(
        validation=tuple(score.accuracy for score in scores),
        test=tuple(score.test_accuracy for score in scores),
    )


def _located(settings: Settings) -> Settings:
    """The settings with absolute file names, so that they are found from any folder."""

    def absolute(name: str) -> str:
        return str(Path(name).resolve()) if Path(name).suffix in (".toml", ".csv") else name

    return dataclasses.replace(
        settings,
        data=datasets.absolute(settings.data),
        space=absolute(settings.space),
        recipe=absolute(settings.recipe),
        target=absolute(settings.target),
    )


def _numbers(how: Recipe) -> dict[str, Any]:
    """A recipe's numbers as a study keeps them, so that an edited file counts as another recipe."""
    values = json.loads(json.dumps(dataclasses.asdict(how)))
    return {f"recipe.{key}": value for key, value in values.items()}
