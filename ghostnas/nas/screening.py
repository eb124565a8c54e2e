"""Many networks scored without training, so that trainings are spent on the promising ones.

Half of them are drawn evenly from those within the budgets, the others by changing the best so far
in one number. No training-free score can be trusted alone: which one knows which network is better
is learned from the trials (`ghostnas.nas.surrogate`), and until then `EXPECTED` is all that is
assumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ghostnas.errors import InputError, TrainingError
from ghostnas.files import read_text, write_whole
from ghostnas.nas.feasible import FeasibleSet
from ghostnas.nas.samplers import Key, key_of, mutants
from ghostnas.networks.arch import Arch
from ghostnas.networks.space import Params
from ghostnas.progress import Say

# Training-free scores with their weight in standard deviations of the accuracy, before any training
# says more. On two tables of networks that others trained in full, inside a band of MACs, naswot
# has a Kendall's tau of 0.66 and 0.43, jacob_cov of 0.71 and -0.14.
EXPECTED: Mapping[str, float] = {"naswot": 0.5, "jacob_cov": 0.2}
PARENTS = 10
KEPT_EVERY = 16  # scores between two writes of the file

Submit: TypeAlias = Callable[[Arch], "Future[dict[str, float]]"]


def screen(
    feasible: FeasibleSet,
    submit: Submit,
    count: int,
    seed: int,
    path: Path,
    say: Say,
    count_done: Callable[[int], object] = lambda done: None,
) -> dict[Key, dict[str, float]]:
    """Training-free scores of up to `count` networks, by their settings; the file at `path` keeps
    them, and what it has is not scored again.

    Args:
        count_done: called with the number of scored networks after each.
    """
    found = read(path)
    rng = np.random.default_rng([seed, len(found)])
    everything = feasible.all
    if everything is not None:
        count = min(count, len(everything))

    def score(wave: Sequence[Params]) -> None:
        running = {submit(feasible.space.decode(params)): params for params in wave}
        try:
            for position, future in enumerate(as_completed(running), 1):
                try:
                    scores = future.result()
                except TrainingError:
                    scores = {}
                found[key_of(running[future])] = scores
                count_done(len(found))
                if position % KEPT_EVERY == 0 or position == len(running):
                    _write(path, found)
                    say(f"{len(found)}/{count} networks scored without training")
        finally:
            _write(path, found)

    while len(found) < count:
        before = len(found)
        score(_even(feasible, found, count // 2, rng))
        score(_changed(feasible, found, count, rng))
        if len(found) == before:  # no change of the best leads to a network that is left
            if not (wave := _even(feasible, found, count, rng)):
                break
            score(wave)
    return found


def _even(
    feasible: FeasibleSet, found: Mapping[Key, object], count: int, rng: np.random.Generator
) -> list[Params]:
    missing = count - len(found)
    if missing <= 0:
        return []
    everything = feasible.all
    if everything is None:
        drawn = feasible.draw(rng, missing)
    else:
        drawn = [everything[at] for at in rng.permutation(len(everything))]
    fresh = {key_of(params): params for params in drawn if key_of(params) not in found}
    return list(fresh.values())[:missing]


def _changed(
    feasible: FeasibleSet,
    found: Mapping[Key, Mapping[str, float]],
    count: int,
    rng: np.random.Generator,
) -> list[Params]:
    """One generation of an evolution by the expected weights alone."""
    missing = min(count - len(found), max(PARENTS, count // 8))
    if missing <= 0 or not found:
        return []
    values = np.array(
        [[scores.get(name, np.nan) for name in EXPECTED] for scores in found.values()]
    )
    told = np.ma.masked_invalid(values)
    spread = told.std(0).filled(0.0)
    standard = (values - told.mean(0).filled(0.0)) / np.where(spread > 0, spread, 1.0)
    promise = np.nan_to_num(standard, nan=-3.0) @ np.array(list(EXPECTED.values()))
    keys = list(found)
    parents = [dict(keys[at]) for at in np.argsort(-promise)[:PARENTS]]
    fresh = {
        key_of(params): params
        for params in mutants(feasible, parents, rng, 2 * missing)
        if key_of(params) not in found
    }
    return list(fresh.values())[:missing]


def read(path: Path) -> dict[Key, dict[str, float]]:
    """What a file of `screen` keeps; nothing where there is none or it is damaged."""
    if not path.exists():
        return {}
    try:
        rows: list[dict[str, Any]] = json.loads(read_text(path))
        return {key_of(row["params"]): dict(row["scores"]) for row in rows}
    except (InputError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # damaged: they are scored again


def _write(path: Path, found: Mapping[Key, Mapping[str, float]]) -> None:
    rows = [{"params": dict(sorted(key)), "scores": scores} for key, scores in found.items()]
    write_whole(path, json.dumps(rows).encode())
