"""How many trials each sampler needs, on a table of networks that others trained in full.

A table is JSON: a network's key (a character for each choice, or choices with something between
them) to an object with `test_acc`, its accuracies from several seeds, and what it costs (`flops`,
`params`, ...). A run is told the accuracy from one seed, and is judged by the mean of the others:
by that of the network which has the best told accuracy so far. The level to reach is what random
sampling has after 100 trials (the median over the repeats). Printed for each sampler are the trials
to reach it (median, mean, quartiles; those that do not in --trials count as one more), the share of
networks within the budget that are better than its choice after --trials, and seconds a trial.

    python search_benchmark.py nas-bench-macro_cifar10.json --budget 55MFLOPs
    python search_benchmark.py TABLE.json --samplers surrogate tpe --repeats 10
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from ghostnas.errors import GhostnasError, InputError
from ghostnas.files import read_text
from ghostnas.nas import budget, samplers
from ghostnas.processes import start_worker, usable_cpus, worker_context

LEVEL_TRIALS = 100
NOT_COSTS = ("mean_acc", "std", "test_acc")


class Table:
    """The networks of a table within a budget; a `ghostnas.nas.samplers.Feasible`."""

    def __init__(self, path: Path, limit: str | None) -> None:
        try:
            rows = json.loads(read_text(path))
            keys = sorted(rows)
            choices = [_choices(key) for key in keys]
            accuracies = np.array([rows[key]["test_acc"] for key in keys], float)
            names = [
                name
                for name, value in rows[keys[0]].items()
                if name not in NOT_COSTS and isinstance(value, int | float) and value > 0
            ]
            costs = np.array([[float(rows[key][name]) for name in names] for key in keys])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path}: is not a table of trained networks: {error}") from error
        within = np.ones(len(keys), bool)
        if limit:
            parsed = budget.parse(limit)
            name = {"macs": "flops"}.get(parsed.quantity, parsed.quantity)
            if name not in names:
                raise InputError(f"{path}: has no {name} to hold against {limit}")
            within = costs[:, names.index(name)] <= parsed.limit
        kept = np.flatnonzero(within)
        if len(kept) < LEVEL_TRIALS:
            raise InputError(f"{path}: only {len(kept)} networks are within the budget")
        order = sorted(range(len(names)), key=lambda at: names[at] != "flops")
        self.all_: list[dict[str, Any]] = [
            {f"choice{at}": value for at, value in enumerate(choices[row])} for row in kept
        ]
        self.choices = {
            f"choice{at}": tuple(sorted({row[at] for row in choices}))
            for at in range(len(choices[0]))
        }
        self.accuracies = accuracies[kept]
        self._costs = np.log(np.maximum(costs[kept][:, order], 1e-9))
        self.places = {samplers.key_of(params): at for at, params in enumerate(self.all_)}

    @property
    def all(self) -> list[dict[str, Any]]:
        return self.all_

    def fits(self, params: Mapping[str, Any]) -> bool:
        return samplers.key_of(params) in self.places

    def asked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {name: params.get(name, options[0]) for name, options in self.choices.items()}

    def network(self, params: Mapping[str, Any]) -> str:
        return str(sorted(params.items()))

    def log_costs(self, params: Mapping[str, Any]) -> Sequence[float]:
        return list(self._costs[self.places[samplers.key_of(params)]])

    def draw(self, rng: np.random.Generator, count: int) -> list[dict[str, Any]]:
        return [self.all_[at] for at in rng.integers(len(self.all_), size=count)]

    def near(
        self, rng: np.random.Generator, proposal: Mapping[str, Any], count: int
    ) -> list[dict[str, Any]]:
        changes = np.array(
            [sum(row[name] != value for name, value in proposal.items()) for row in self.all_]
        )
        order = np.lexsort([rng.random(len(changes)), changes])
        return [self.all_[at] for at in order[:count]]


def run(table: Table, sampler: str, seed: int, trials: int) -> tuple[list[float], float]:
    """After each trial the judged accuracy of the best told one, and the seconds of them all."""
    seeds = table.accuracies.shape[1]
    told = table.accuracies[:, seed % seeds]
    others = [each for each in range(seeds) if each != seed % seeds] or [0]
    judged = table.accuracies[:, others].mean(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=samplers.create(sampler, table, seed))
    curve: list[float] = []
    best, began = -np.inf, time.perf_counter()
    for _ in range(trials):
        trial = study.ask()
        params = {n: trial.suggest_categorical(n, options) for n, options in table.choices.items()}
        place = table.places[samplers.key_of(params)]
        study.tell(trial, float(told[place]))
        if told[place] > best:
            best, chosen = told[place], place
        curve.append(float(judged[chosen]))
    return curve, time.perf_counter() - began


_table: Table


def begin(path: Path, limit: str | None, parent: int) -> None:
    global _table  # a worker process keeps its table
    start_worker(parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    _table = Table(path, limit)


def carry_out(sampler: str, seed: int, trials: int) -> tuple[list[float], float]:
    return run(_table, sampler, seed, trials)


def _choices(key: str) -> list[Any]:
    parts = re.split(r"[^0-9A-Za-z_.+-]+", key.strip("|")) if re.search(r"\W", key) else list(key)
    return [int(part) if part.isdigit() else part for part in parts if part]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--budget", help="like 55MFLOPs; all networks otherwise")
    parser.add_argument("--samplers", nargs="+", default=["surrogate", "tpe", "random"])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--workers", type=int, default=usable_cpus())
    args = parser.parse_args()
    try:
        for name in args.samplers:
            samplers.check(name)
        report(args)
    except (GhostnasError, OSError) as error:
        print(f"search_benchmark: {error}", file=sys.stderr)
        return 2
    return 0


def report(args: argparse.Namespace) -> None:
    table = Table(args.table, args.budget)
    judged = np.sort(table.accuracies.mean(1))
    with ProcessPoolExecutor(
        args.workers,
        mp_context=worker_context(),
        initializer=begin,
        initargs=(args.table, args.budget, os.getpid()),
    ) as executor:
        seeds = range(args.repeats)
        random = [
            executor.submit(carry_out, "random", 10_000 + seed, LEVEL_TRIALS) for seed in seeds
        ]
        level = statistics.median(each.result()[0][-1] for each in random)
        print(
            f"{len(table.all)} networks; random has {level:.4g} after {LEVEL_TRIALS} trials, the "
            f"best is {judged[-1]:.4g}\n"
        )
        print("| sampler | trials: median | mean | quartiles | better networks | s a trial |")
        print("|---|---:|---:|---|---:|---:|")
        for name in args.samplers:
            runs = [executor.submit(carry_out, name, seed, args.trials) for seed in seeds]
            found = [each.result() for each in runs]
            needed = [
                next((at for at, each in enumerate(curve, 1) if each >= level), args.trials + 1)
                for curve, _ in found
            ]
            low, high = np.percentile(needed, [25, 75])
            better = statistics.median(float((judged > curve[-1]).mean()) for curve, _ in found)
            seconds = statistics.median(s / args.trials for _, s in found)
            print(
                f"| {name} | {statistics.median(needed):g} | {statistics.mean(needed):.1f} | "
                f"{low:g} to {high:g} | {better:.1%} | {seconds:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
