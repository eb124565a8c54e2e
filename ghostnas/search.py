"""The main job: from a space, a target and budgets to the best network, scored and exported.

A run folder holds everything: settings (search.toml), the study, what was trained, and what
`outcome` writes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from ghostnas import data, outcome, proxy, recipe, report, space, splits, study
from ghostnas.arch import Arch
from ghostnas.distributed import on_cuda
from ghostnas.errors import BudgetError, InputError, TrainingError
from ghostnas.files import locked, write_whole
from ghostnas.judge import Judge, Judged
from ghostnas.outcome import Outcome
from ghostnas.proxy import SCORERS, TRAIN, ProxyPool, Score
from ghostnas.recipe import Recipe
from ghostnas.settings import CHANGEABLE, Settings, read, to_text
from ghostnas.space import Space
from ghostnas.study import ScoredArch
from ghostnas.zoo import ghostnet

BASELINE_WIDTHS = [width / 20 for width in range(40, 1, -1)]
Say = Callable[[str], None]


def start(settings: Settings, folder: Path, say: Say) -> dict[str, Any]:
    """Search anew in `folder`; returns what ``result.json`` holds.

    Raises:
        InputError: the folder holds a search already, or something the settings name is wrong.
        BudgetError: nothing in the space meets the budgets.
    """
    if (folder / "search.toml").exists():
        raise InputError(f"{folder}: holds a search already; go on with it by --resume")
    prepared = _Prepared(settings)  # every name and file is looked at before a folder is made
    folder.mkdir(parents=True, exist_ok=True)
    return _search(prepared, folder, say)


def resume(folder: Path, changes: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """Go on with the search in `folder`, with `changes` to its settings.

    Raises:
        InputError: there is none, or a change is not to one of CHANGEABLE.
    """
    settings = read(folder / "search.toml")
    for key, value in changes.items():
        if key not in CHANGEABLE and value != getattr(settings, key):
            raise InputError(
                f"{folder}: was started with {key} = {getattr(settings, key)!r}, not {value!r}; "
                "leave it out, or start anew in another --out"
            )
    settings = dataclasses.replace(settings, **changes)
    return _search(_Prepared(settings), folder, say)


class _Prepared:
    """All that a search reads, read and checked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recipe = recipe.load(settings.recipe)
        if settings.scorer not in SCORERS:
            raise InputError(f"unknown scorer {settings.scorer!r}; known: {', '.join(SCORERS)}")
        on_cuda(settings.device)  # or it is said before a folder is made
        self.judge = Judge(settings.target, settings.budgets, settings.confidence or None)
        self.space = space.load(settings.space)
        self.dataset = data.load(settings.data)
        self.split = splits.split(self.dataset, self.recipe)
        if not len(self.split.validation):
            raise InputError(
                f"recipe {settings.recipe} holds out no pictures to choose by; add "
                "validation_pictures to it"
            )
        self.classes = len(self.split.preprocessing.classes)
        self.space = dataclasses.replace(self.space, classes=self.classes)
        self.space = _at_resolution(self.space, settings.resolution, self.split.resolution)
        self.smallest = study.find_smallest(self.space, self.judge.strain)
        self.judge.cost_of(self.space.decode(self.smallest))  # the target's table knows its ops


def _search(prepared: _Prepared, folder: Path, say: Say) -> dict[str, Any]:
    """The search loop: ask and score, repeat the best from other seeds, export the winner."""
    settings, dataset = prepared.settings, prepared.dataset
    began = time.monotonic()
    for line in report.skipped(dataset.skipped):
        say(line)
    with locked(folder):
        storage = settings.storage or f"sqlite:///{folder.resolve()}/study.db"
        optuna_study = study.open_study(
            storage,
            {
                "space": prepared.space.hash,
                "budgets": list(settings.budgets),
                "target": settings.target,
                "confidence": settings.confidence,
                "data": settings.data,
                "recipe": settings.recipe,
                **_remembered(prepared.recipe),
                "scorer": settings.scorer,
            },
            settings.sampler,
            settings.seed,
            prepared.space,
            prepared.judge.strain,
            prepared.smallest,
        )
        write_whole(folder / "search.toml", to_text(settings).encode())
        done = study.finished(optuna_study)
        say(
            f"{len(done)} of {settings.trials} trials done; {dataset.name}: "
            f"{len(prepared.split.train)} pictures of {prepared.classes} classes, "
            f"{prepared.split.resolution} px; "
            f"budgets {', '.join(settings.budgets)}; target {settings.target}"
        )
        pool = ProxyPool(
            settings.data, prepared.recipe, settings.workers, settings.scorer, settings.device
        )
        try:
            progress = _Progress(prepared, done, say)
            study.run(
                optuna_study,
                prepared.space,
                lambda arch: pool.submit(arch, settings.seed),
                trials=settings.trials,
                at_once=settings.workers,
                until=began + settings.timeout_s if settings.timeout_s else float("inf"),
                report=progress,
            )
            done = study.finished(optuna_study)
            if not done:
                raise BudgetError("no trial finished in the time given; raise --timeout")
            rows = outcome.trial_rows(done, prepared.judge)
            outcome.write_trials(folder, rows)
            say(
                f"training the best {settings.finalists} and GhostNet from {settings.seeds} other "
                "seeds each"
            )
            judged, skipped = _judge_finalists(prepared, folder, done, pool, say)
            for line in report.skipped(skipped):
                say(line)
        except BrokenProcessPool as error:
            raise TrainingError(
                "a training process died, for want of memory perhaps; what is done is kept, go on "
                f"with: ghostnas search --resume --out {folder} --workers 1"
            ) from error
        finally:
            pool.close()
        found = Outcome(
            judged=tuple(judged),
            trials=tuple(rows),
            infeasible=sum(prepared.judge.strain(each.arch) > 1 for each in done),
            skipped=len(dataset.skipped) + len(skipped),
            seconds=time.monotonic() - began,
        )
        return outcome.conclude(settings, prepared.split, folder, found)


class _Progress:
    """Says after each trial how it went, what is best so far and how long the rest will take."""

    def __init__(self, prepared: _Prepared, done: Sequence[ScoredArch], say: Say) -> None:
        self._prepared = prepared
        self._done = list(done)
        self._before = len(done)
        self._began = time.monotonic()
        self._say = say

    def __call__(self, scored: ScoredArch) -> None:
        self._done.append(scored)
        best = max(self._done, key=lambda each: each.score)
        trials = self._prepared.settings.trials
        pace = (time.monotonic() - self._began) / (len(self._done) - self._before)
        counted, predicted = self._prepared.judge.cost_of(scored.arch)
        left = _minutes(pace * (trials - len(self._done)))
        self._say(
            f"trial {len(self._done)}/{trials}: {self._text(scored)}, {counted.macs / 1e6:.0f} "
            f"MFLOPs, {predicted.latency_ms:.1f} ms; best {self._text(best)} "
            f"(trial {best.trial + 1}); {left} left"
        )

    def _text(self, scored: ScoredArch) -> str:
        trained = self._prepared.settings.scorer == TRAIN
        return f"{scored.score:.1%}" if trained else f"score {scored.score:.5g}"


def _judge_finalists(
    prepared: _Prepared, folder: Path, done: Sequence[ScoredArch], pool: ProxyPool, say: Say
) -> tuple[list[Judged], list[str]]:
    """The best networks and the baseline, each trained from fresh seeds and tested; and the
    pictures that could not be read.

    The seeds took no part in choosing the finalists, whose own scores flatter them. What an earlier
    process trained is read from the run folder.
    """
    settings = prepared.settings
    ranked = sorted(done, key=lambda each: -each.score)[: settings.finalists]
    entrants = {f"trial {each.trial + 1}": each.arch for each in ranked}
    entrants.update(_baseline(prepared))
    fresh_seeds = range(settings.seed + 1, settings.seed + 1 + settings.seeds)
    scores: dict[tuple[str, int], Score] = {}
    running: dict[tuple[str, int], Future[Score]] = {}
    for arch in {arch.id: arch for arch in entrants.values()}.values():
        for seed in fresh_seeds:
            path = outcome.weights_path(folder, arch, seed)
            known = proxy.recorded(path)
            if known is None:
                running[arch.id, seed] = pool.submit_test(arch, seed, path)
            else:
                scores[arch.id, seed] = known
    began = time.monotonic()
    for position, ((arch_id, seed), future) in enumerate(running.items(), 1):
        score = future.result()
        scores[arch_id, seed] = score
        left = _minutes((time.monotonic() - began) / position * (len(running) - position))
        say(
            f"training {position}/{len(running)}, {arch_id} from seed {seed}: "
            f"{score.test_accuracy:.1%} on test pictures; {left} left"
        )
    judged = []
    for name, arch in entrants.items():
        counted, predicted = prepared.judge.cost_of(arch)
        own = [scores[arch.id, seed] for seed in fresh_seeds]
        judged.append(
            Judged(
                name=name,
                arch=arch,
                cost=counted,
                latency=predicted,
                validation=tuple(score.accuracy for score in own),
                test=tuple(score.test_accuracy for score in own),
            )
        )
    skipped = {line: None for score in scores.values() for line in score.skipped}
    return judged, list(skipped)


def _baseline(prepared: _Prepared) -> dict[str, Arch]:
    """GhostNet at the largest width that meets the budgets; nothing if none does."""
    resolution = prepared.space.decode({}).resolution
    for width in BASELINE_WIDTHS:
        arch = ghostnet(width, resolution, prepared.classes)
        if prepared.judge.strain(arch) <= 1:
            return {f"GhostNet {width:g}x": arch}
    return {}


def _remembered(how: Recipe) -> dict[str, Any]:
    """A recipe's numbers as a study keeps them: an edited file of the same name is another."""
    values = json.loads(json.dumps(dataclasses.asdict(how)))
    return {f"recipe.{key}": value for key, value in values.items()}


def _at_resolution(searched: Space, wanted: int, data_resolution: int) -> Space:
    """The space at one resolution: the one asked for, or the published one where the pictures are
    smaller than any that is searched, so that no training could tell the resolutions apart.
    """
    options = searched.choices.get("resolution", ())
    if wanted:
        return searched.pin(resolution=wanted)
    if options and data_resolution < max(options):
        return searched.pin(resolution=options[0])
    return searched


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
