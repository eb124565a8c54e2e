"""Many networks scored without a training each, so that these are spent on the promising ones.

Half of them are drawn evenly from those within the budgets, the others by changing the best so far
in a number or two. No such score can be trusted alone: which one knows which network is better is
learned from the trials (`ghostnas.nas.surrogate`), and until then `EXPECTED` is all that is
assumed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import optuna

from ghostnas.errors import InputError, TrainingError, did_you_mean
from ghostnas.files import read_text, write_whole
from ghostnas.nas import zero_cost
from ghostnas.nas.feasible import FeasibleSet
from ghostnas.nas.samplers import SWAPPED, Key, Promise, key_of, mutants
from ghostnas.networks.arch import Arch
from ghostnas.networks.space import Params, Value
from ghostnas.progress import Say
from ghostnas.training import supernet

# Scores with their weight in standard deviations of the accuracy, before any training says more; of
# others, nothing is expected. On two tables of networks that others trained in full, inside a band
# of MACs, naswot has a Kendall's tau of 0.66 and 0.43, jacob_cov of 0.71 and -0.14, and a supernet
# of 5 minutes' training 0.51 on the first.
EXPECTED: Mapping[str, float] = {"naswot": 0.5, "jacob_cov": 0.3, "supernet": 0.5}
DEFAULT = "naswot,jacob_cov"
SUPERNET = "supernet"  # the name of the score by `supernet:DIR`
PARENTS = 10
DRAFTS = 4  # mutants for each that is scored
KEPT_EVERY = 16  # scores between two writes of the file
EXCHANGED_EVERY = 32  # of them between two looks at what other processes have
ATTRIBUTE = "screened by "  # of a study, before the process and the part

Submit: TypeAlias = Callable[[Arch], "Future[dict[str, float]]"]


def screen(
    feasible: FeasibleSet,
    submit: Submit,
    count: int,
    seed: int,
    path: Path,
    say: Say,
    count_done: Callable[[int], object] = lambda done: None,
    weights: Mapping[str, float] | None = None,
    exchange: Exchange | None = None,
) -> dict[Key, dict[str, float]]:
    """Scores of up to `count` networks, by their settings; the file at `path` keeps them, and what
    it has is not scored again.

    Args:
        weights: of `prior`, by which the best so far are told; those of `DEFAULT` if not given.
        count_done: called with the number of scored networks after each.
        exchange: with other processes, whose scores count as this one's.
    """
    found = read(path)
    promise = Promise(feasible, weights or prior(parse(DEFAULT)))
    stream = [seed, len(found)]
    if exchange is not None:
        found.update(exchange.with_others({}))
        stream.append(exchange.stream)
    rng = np.random.default_rng(stream)
    most = count if exchange is None else EXCHANGED_EVERY
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
            if exchange is not None:
                own = {key: found[key] for key in map(key_of, running.values())}
                found.update(exchange.with_others(own))
        finally:
            _write(path, found)

    while len(found) < count:
        before = len(found)
        score(_even(feasible, found, count // 2, rng)[:most])
        if len(found) >= count // 2:
            score(_changed(feasible, found, promise, count, rng)[:most])
        if len(found) == before:  # no change of the best leads to a network that is left
            if not (wave := _even(feasible, found, count, rng)):
                break
            score(wave[:most])
    return found


class Exchange:
    """Gives the scores of one process to the others that share its study, and takes theirs: they
    are attributes of the study, in parts that fit into any database.

    Args:
        me: the process.
        choices: options of each number, by whose places settings are told.
    """

    def __init__(
        self, study: optuna.Study, me: str, choices: Mapping[str, Sequence[Value]]
    ) -> None:
        self._study, self._mine = study, f"{ATTRIBUTE}{me} "
        self._options = {name: list(options) for name, options in choices.items()}
        self._sent = sum(name.startswith(self._mine) for name in study.user_attrs)

    @property
    def stream(self) -> int:
        """Of random numbers that no other process draws."""
        return zlib.crc32(self._mine.encode())

    def with_others(self, own: Mapping[Key, Mapping[str, float]]) -> dict[Key, dict[str, float]]:
        """Those of all processes, once these are among them."""
        if own:
            rows = [[self._places(key), dict(scores)] for key, scores in own.items()]
            self._study.set_user_attr(f"{self._mine}{self._sent}", rows)
            self._sent += 1
        told = self._study.user_attrs.items()
        parts = (rows for name, rows in told if name.startswith(ATTRIBUTE))
        return {self._key(places): dict(scores) for rows in parts for places, scores in rows}

    def _places(self, key: Key) -> list[int]:
        params = dict(key)
        return [
            options.index(params[name]) if name in params else -1
            for name, options in self._options.items()
        ]

    def _key(self, places: Sequence[int]) -> Key:
        chosen = zip(places, self._options.items(), strict=True)
        return key_of({name: options[at] for at, (name, options) in chosen if at >= 0})


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
    promise: Promise,
    count: int,
    rng: np.random.Generator,
) -> list[Params]:
    """One generation of an evolution by what is expected before any training."""
    missing = min(count - len(found), max(PARENTS, count // 8))
    if missing <= 0 or not found:
        return []
    scored = [dict(key) for key in found]
    parents = [scored[at] for at in np.argsort(-promise.of(scored, found))[:PARENTS]]
    fresh = {
        key_of(params): params
        for params in mutants(feasible, parents, rng, DRAFTS * missing, SWAPPED)
        if key_of(params) not in found
    }
    drafts = list(fresh.values())
    if not drafts:
        return []
    return [drafts[at] for at in np.argsort(-promise.of(drafts, found))[:missing]]


def parse(text: str) -> dict[str, str]:
    """Scorers by the names of their scores, of ``naswot,jacob_cov,supernet:DIR``.

    Raises:
        InputError: there is no such scorer, or one comes twice.
    """
    found: dict[str, str] = {}
    for scorer in text.split(","):
        name = SUPERNET if supernet.folder_of(scorer) is not None else scorer
        if name != SUPERNET and name not in zero_cost.SCORERS:
            known = (*zero_cost.SCORERS, f"{supernet.PREFIX}DIR")
            raise InputError(
                f"unknown score {scorer!r} to screen by{did_you_mean(scorer, known)}; known: "
                f"{', '.join(known)}"
            )
        if name in found:
            raise InputError(f"score {name!r} to screen by is given twice; leave one out")
        found[name] = scorer
    return found


def prior(names: Iterable[str]) -> dict[str, float]:
    """What is expected of scores: their weight in standard deviations of the accuracy."""
    return {name: EXPECTED.get(name, 0.0) for name in names}


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
