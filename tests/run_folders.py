"""Run folders of searches that never ran, for what reads them: the scores are made of FLOPs and of
noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from small import write_space

from ghostnas import stats
from ghostnas.nas import baseline, study
from ghostnas.nas.constraints import Accuracies, Candidate, Constraints
from ghostnas.nas.settings import Settings, to_text
from ghostnas.networks import space as spaces
from ghostnas.networks.arch import Arch, to_json
from ghostnas.networks.space import Params, Space, Value

SEEDS = 3
CLASSES = 10


def settings(**changed: Any) -> Settings:
    asked: dict[str, Any] = {
        "target": "arm",
        "budgets": ("1.5MFLOPs", "1ms"),
        "deploy": "data",
        "data": "synthetic",
        "trials": 12,
        "finalists": 2,
        "seeds": SEEDS,
        "sampler": "random",
        "fingerprint": "2:0123456789abcdef",
    }
    return Settings(**asked | changed)


def write_search(folder: Path, *, trials: int = 12, finished: bool = True, **changed: Any) -> Path:
    """A run folder with so many scored trials, of which one was stopped early and one, the last, is
    over budget, and one that failed. The search has ended if it is `finished`.
    """
    folder.mkdir(parents=True)
    asked = settings(**{"trials": trials, "space": str(write_space(folder))} | changed)
    (folder / "search.toml").write_text(to_text(asked))
    (folder / "elapsed.json").write_text(json.dumps({"seconds": 754.0}))
    constraints = Constraints(asked.target, asked.budgets)
    scored = _write_study(folder, asked, constraints, trials)
    if finished:
        _write_result(folder, asked, constraints, scored)
    return folder


def _write_study(
    folder: Path, asked: Settings, constraints: Constraints, trials: int
) -> list[tuple[int, Arch, float]]:
    """The study; returns number, network and score of each trial that ended with one."""
    rng = np.random.default_rng(0)
    searched = replace(
        spaces.load(asked.space).pin(resolution=32), classes=CLASSES, drop_strides=True
    )
    states = [TrialState.COMPLETE] * (trials - 2)
    states += [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    began = datetime(2026, 1, 1)
    found, kept = [], []
    for number, state in enumerate(states):
        params, arch = _draw(searched, rng)
        if number == len(states) - 1:
            arch = baseline.plain(0.5, 32, CLASSES, drop_strides=True)  # whatever it chose
        counted, _ = constraints.cost_of(arch)
        score = float(np.clip(0.2 + 0.02 * np.log(counted.macs) + rng.normal(0, 0.02), 0, 1))
        told: dict[str, Any] = {"arch": json.dumps(to_json(arch)), "id": arch.id}
        if state is TrialState.FAIL:
            told["error"] = "its loss <is> not a number"
        else:
            told["seconds"] = 12.5
            kept.append((number, arch, score))
        trial = create_trial(
            state=state,
            value=score if state is TrialState.COMPLETE else None,
            params=params,
            distributions={
                name: CategoricalDistribution(searched.choices[name]) for name in params
            },
            user_attrs=told,
            intermediate_values={1: score} if state is TrialState.PRUNED else {},
        )
        trial.datetime_start = began + timedelta(seconds=13 * number)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=13)
        found.append(trial)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{folder}/study.db"
    made = optuna.create_study(storage=url, study_name=study.NAME, direction="maximize")
    made.add_trials(found)
    return kept


def _draw(searched: Space, rng: np.random.Generator) -> tuple[Params, Arch]:
    params: Params = {}

    def pick(name: str, options: Sequence[Value]) -> Value:
        params[name] = options[int(rng.integers(len(options)))]
        return params[name]

    return params, searched.build(pick)


def _write_result(
    folder: Path,
    asked: Settings,
    constraints: Constraints,
    scored: list[tuple[int, Arch, float]],
) -> None:
    rng = np.random.default_rng(1)
    within = [each for each in scored if constraints.utilization(each[1]) <= 1]
    ranked = sorted(within, key=lambda each: -each[2])[: asked.finalists]
    largest = baseline.largest(constraints, 32, CLASSES, drop_strides=True)
    assert largest is not None
    entrants = [(f"trial {number}", number, arch) for number, arch, _ in ranked]
    entrants.append((largest[0], None, largest[1]))
    (folder / "weights").mkdir()
    candidates = []
    for at, (name, number, arch) in enumerate(entrants):
        reports = at == 0 or number is None
        runs = [
            _training(folder, asked, arch, seed, rng)
            for seed in range(asked.seed + 1, asked.seed + 1 + asked.seeds * (1 + reports))
        ]
        counted, predicted = constraints.cost_of(arch)
        candidates.append(
            Candidate(
                name=name,
                trial=number,
                arch=arch,
                cost=counted,
                latency=predicted,
                choosing=_accuracies(runs[: asked.seeds]),
                reporting=_accuracies(runs[asked.seeds :]) if reports else None,
            )
        )
    best, plain = candidates[0], candidates[-1]
    assert best.reporting is not None
    assert plain.reporting is not None
    ours, theirs = best.reporting.test, plain.reporting.test
    ends = stats.difference_interval(ours, theirs)
    p = stats.welch_p_value(ours, theirs)
    about = {"id": best.arch.id, "resolution": 32, "dropped_strides": 2, "classes": CLASSES}
    result = {
        "run": str(folder),
        "best": best.to_json(),
        "baseline": plain.to_json(),
        "others": [each.to_json() for each in candidates[1:-1]],
        "comparison": {
            "networks": [best.name, plain.name],
            "difference": stats.summary(ours).mean - stats.summary(theirs).mean,
            "interval": ends,
            "p_value": p,
            "distinguished": p is not None and p < 0.05,
            "latency_difference_ms": best.latency.latency_ms - plain.latency.latency_ms,
        },
        "deployment": {**about, "macs": best.cost.macs},
        "proxy": {**about, "macs": best.cost.macs},
        "trials": len(scored),
        "target": asked.target,
        "budgets": list(asked.budgets),
        "data": asked.data,
        "seconds": 754.0,
        "exported": [],
    }
    (folder / "best.json").write_text(json.dumps(to_json(best.arch)))
    (folder / "result.json").write_text(json.dumps(result))


def _training(
    folder: Path, asked: Settings, arch: Arch, seed: int, rng: np.random.Generator
) -> tuple[float, float]:
    validation, test = (round(float(value), 4) for value in rng.normal(0.31, 0.015, 2))
    record = {"accuracy": validation, "test_accuracy": test, "seconds": 12.5, "skipped": []}
    (folder / "weights" / f"{arch.id}-{seed}.json").write_text(json.dumps(record))
    return validation, test


def _accuracies(runs: list[tuple[float, float]]) -> Accuracies:
    return Accuracies(
        validation=tuple(validation for validation, _ in runs), test=tuple(t for _, t in runs)
    )
