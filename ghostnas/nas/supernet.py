"""Which networks a supernet's training draws, and the best of a supernet for a budget.

A step deals each searched number's options out: none of them comes a second time before the others
came once, so that with as many networks as options every kind of block is trained equally often
("strict fairness", FairNAS, Chu et al., ICCV 2021). Of numbers whose larger options contain the
smaller ones, the first network has the largest and teaches the others what it answers, and the
second has the smallest (the sandwich rule with in-place distillation, Yu and Huang, ICCV 2019).
Within budgets, networks are drawn evenly from those that meet them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.backends.torch_module import weights_of
from ghostnas.data.images import subset
from ghostnas.files import write_whole
from ghostnas.ir import weights
from ghostnas.nas import samplers
from ghostnas.nas.constraints import Constraints
from ghostnas.nas.feasible import FeasibleSet, find_smallest
from ghostnas.networks.arch import to_json
from ghostnas.networks.space import Params, Space, Value
from ghostnas.progress import Say, silent
from ghostnas.training import splits, supernet, supernet_run
from ghostnas.training.recipe import Recipe
from ghostnas.training.run import Machine
from ghostnas.training.shared_weights import NESTED
from ghostnas.training.supernet import Judged, Settings
from ghostnas.training.supernet_run import Draw, Drawn

FEWEST = 4  # networks of a step in a space with nested numbers: two extremes and two others
STREAM = 0x5E7  # separates the draws of networks from others of the same seed
STEPS_A_DRAW = 64  # whose networks are drawn from a feasible set at once
EXTREMES = 256  # networks within the budgets of which the largest counts as the largest
SCORED = 50  # networks that `pick` scores
WAVE, PARENTS = 10, 5
TESTED = 1000  # test images on which the picked network is


def start(
    settings: Settings, how: Recipe, machine: Machine, folder: Path, say: Say
) -> dict[str, Any]:
    """As `ghostnas.training.supernet_run.start`.

    Raises:
        BudgetError: no network meets the budgets.
    """
    return supernet_run.start(
        settings, how, lambda space: _draw(settings, space), machine, folder, say
    )


def resume(machine: Machine, folder: Path, say: Say) -> dict[str, Any]:
    """As `ghostnas.training.supernet_run.resume`."""
    return supernet_run.resume(_draw, machine, folder, say)


def _draw(settings: Settings, space: Space) -> Draw:
    if not settings.budgets:
        return dealt(space, settings.networks, settings.seed)
    constraints = Constraints(settings.target, settings.budgets)
    return within(constraints.feasible(space), settings.networks, settings.seed)


def dealt(space: Space, networks: int, seed: int) -> Draw:
    """Networks of the whole space; 0 `networks` are as many as there are options to choose from."""
    extremes = _extremes(space)
    count = networks or _suggested(space)

    def draw(step: int) -> Drawn:
        rng = np.random.default_rng([STREAM, seed, step])
        options = {name: _deal(several, count, rng) for name, several in space.choices.items()}
        found = [
            _asked(space, {name: options[name][at] for name in options}) for at in range(count)
        ]
        for at, extreme in enumerate(extremes[:count]):
            found[at] = _asked(space, {**found[at], **extreme})
        return Drawn(tuple(found), teaches=bool(extremes))

    return draw


def within(feasible: FeasibleSet, networks: int, seed: int) -> Draw:
    """Networks within budgets; if the space has nested numbers, the largest and the smallest of
    them in each step.
    """
    space = feasible.space
    count = networks or _suggested(space)
    extremes: tuple[Params, ...] = ()
    if _extremes(space):
        some = feasible.draw(np.random.default_rng([STREAM, seed]), EXTREMES)
        extremes = (
            max(some, key=lambda params: feasible.log_costs(params)[0]),
            feasible.asked(find_smallest(space, feasible.utilization)),
        )

    @lru_cache(2)
    def block(number: int) -> list[Params]:
        rng = np.random.default_rng([STREAM, seed, number])
        return feasible.draw(rng, STEPS_A_DRAW * count)

    def draw(step: int) -> Drawn:
        number, place = divmod(step, STEPS_A_DRAW)
        found = [*extremes, *block(number)[place * count : (place + 1) * count]]
        return Drawn(tuple(found[:count]), teaches=bool(extremes))

    return draw


def _extremes(space: Space) -> tuple[Params, ...]:
    """The largest and the smallest options of the nested numbers; nothing without such numbers."""
    nested = {
        name: several
        for name, several in space.choices.items()
        if name.rpartition(".")[2] in NESTED
    }
    if not nested:
        return ()
    return tuple({name: end(several) for name, several in nested.items()} for end in (max, min))


def _suggested(space: Space) -> int:
    if _extremes(space):
        return FEWEST
    return max(map(len, space.choices.values()), default=1)


def _deal(options: Sequence[Value], count: int, rng: np.random.Generator) -> list[Value]:
    """So many options, none a second time before the others came once."""
    found: list[Value] = []
    while len(found) < count:
        found += [options[at] for at in rng.permutation(len(options))]
    return found[:count]


def _asked(space: Space, params: Mapping[str, Value]) -> Params:
    """The numbers that decide the network."""
    found: Params = {}

    def pick(name: str, options: Sequence[Any]) -> Any:
        found[name] = params.get(name, options[0])
        return found[name]

    space.build(pick)
    return found


def pick(
    folder: Path,
    budgets: Sequence[str],
    target: str,
    out: Path | None,
    networks: int = SCORED,
    say: Say = silent,
) -> dict[str, Any]:
    """The network within budgets that scores best with its part of a supernet's weights: half of
    those scored are drawn evenly, the others are the best so far with one number changed.

    Args:
        out: an architecture's .json file to write, with the inherited weights beside it as
            .safetensors.
        networks: how many are scored.

    Raises:
        InputError: the folder holds no finished supernet.
        BudgetError: no network meets the budgets.
    """
    opened = supernet.read(folder)
    constraints = Constraints(target, budgets)
    feasible = constraints.feasible(opened.space)
    judged = _evolved(feasible, opened.judge_of, networks, say)
    key = max(judged, key=lambda each: judged[each].likelihood)
    params = dict(key)
    arch = opened.space.decode(params)
    counted, latency = constraints.cost_of(arch)
    tested = subset(opened.split.test, min(TESTED, len(opened.split.test)), splits.SEED)[0]
    net = opened.network_of(params)
    test = supernet.judge(net, tested, opened.split.preprocessing)
    files: dict[str, str | None] = {"network": None, "weights": None}
    if out is not None:
        write_whole(out, json.dumps(to_json(arch), indent=1).encode())
        beside = out.with_suffix(".safetensors")
        weights.save(weights_of(net), beside, preprocessing=opened.split.preprocessing)
        files = {"network": str(out), "weights": str(beside)}
    return {
        "run": str(folder),
        **files,
        "id": arch.id,
        "trial": None,
        "score": round(judged[key].likelihood, 5),
        "score_std": None,
        "accuracy": round(judged[key].accuracy, 5),
        "test_accuracy": round(test.accuracy, 5),
        "test_pictures": len(tested),
        "of": len(judged),
        "target": target,
        "budgets": list(budgets),
        **dataclasses.asdict(counted),
        "latency_ms": round(latency.latency_ms, 4),
        "latency_low_ms": round(latency.low_ms, 4),
        "latency_high_ms": round(latency.high_ms, 4),
    }


def _evolved(
    feasible: FeasibleSet, judge: Callable[[Params], Judged], networks: int, say: Say
) -> dict[samplers.Key, Judged]:
    """How networks within the budgets do, by their settings."""
    rng = np.random.default_rng(STREAM)
    found: dict[samplers.Key, Judged] = {}

    def likelihood(key: samplers.Key) -> float:
        return found[key].likelihood

    def add(several: Sequence[Params], most: int) -> None:
        for params in several:
            key = samplers.key_of(params)
            if len(found) < most and key not in found:
                found[key] = judge(params)
        best = found[max(found, key=likelihood)]
        say(
            f"{len(found)}/{networks} networks scored with the supernet's weights, the best has "
            f"{best.accuracy:.1%}"
        )

    everything = feasible.all
    if everything is not None and len(everything) <= networks:
        add(everything, networks)
        return found
    while len(found) < networks // 2:
        add(feasible.draw(rng, networks), networks // 2)
    while len(found) < networks:
        before = len(found)
        parents = [dict(key) for key in sorted(found, key=likelihood)[-PARENTS:]]
        add(samplers.mutants(feasible, parents, rng, 2 * WAVE), min(networks, before + WAVE))
        if len(found) == before:  # no change of the best leads to a network that is left
            add(feasible.draw(rng, networks), networks)
    return found
