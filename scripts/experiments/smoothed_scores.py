"""How well scores without a training rank NAS-Bench-Macro's networks, one by one and smoothed.

Networks within the budget are drawn as a search of seed 0 draws them, and scored on CIFAR-10. The
table has Kendall's tau of each score with the accuracies that others trained in full: of the scored
networks by their own scores, and of all networks within the budget by the regression through the
scored ones that a search uses (`ghostnas.nas.surrogate.smoothed`), which has seen most of them not
at all. It is taken for several numbers of scored networks, each the mean over --repeats draws of
them; "band" is the networks of more than 50 MFLOPs, "first ten" the median share of networks that
are better than one of these. OUT keeps the scores; the same command goes on.

    python smoothed_scores.py nas-bench-macro_cifar10.json --data cifar10:DIR --out OUT \\
        --scores naswot,jacob_cov,supernet:DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from concurrent.futures import as_completed
from contextlib import closing
from pathlib import Path

import nas_bench_macro
import numpy as np
from scipy.stats import kendalltau

from ghostnas.arrays import Array
from ghostnas.errors import GhostnasError
from ghostnas.nas import screening
from ghostnas.nas.constraints import Constraints
from ghostnas.nas.evaluators import EvaluatorPool
from ghostnas.nas.samplers import Promise, key_of
from ghostnas.training import recipe

BAND = 50e6  # MACs, from which on networks are of the band
FIRST = 10


class Table:
    """NAS-Bench-Macro's networks within a budget, as a search draws them, with their truth."""

    def __init__(self, path: Path, limit: str) -> None:
        rows = nas_bench_macro.load_rows(path)
        self.feasible = Constraints("arm", [limit]).feasible(nas_bench_macro.load_space())
        listed = self.feasible.all
        assert listed is not None
        self.params = listed
        self.keys = [nas_bench_macro.key_of_params(params) for params in listed]
        self.truth = np.array([np.mean(rows[key].accuracies) for key in self.keys])
        self.band = np.array([rows[key].macs > BAND for key in self.keys])
        costs = {key_of(params): self.feasible.log_costs(params) for params in listed}
        self.feasible.log_costs = lambda params: costs[key_of(params)]  # type: ignore[method-assign]


def scored(
    keys: list[str], scorers: Mapping[str, str], args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """The scores of these networks; a journal in the folder keeps them."""
    args.out.mkdir(parents=True, exist_ok=True)
    journal = args.out / "scores.jsonl"
    found: dict[str, dict[str, float]] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["key"]] = row["scores"]
    missing = [key for key in keys if not set(scorers) <= set(found.get(key, {}))]
    how = dataclasses.replace(recipe.load("short"), first_resolution=args.resolution)
    pool = EvaluatorPool(args.data, how, args.workers)
    with closing(pool), journal.open("a", encoding="utf-8") as file:
        futures = {
            pool.submit_screening(nas_bench_macro.arch_of(key), scorers, 0): key for key in missing
        }
        for future in as_completed(futures):
            key = futures[future]
            found[key] = future.result()
            file.write(json.dumps({"key": key, "scores": found[key]}) + "\n")
            file.flush()
    return found


def tau(values: Array, truth: Array) -> float:
    return float(kendalltau(values, truth).statistic)


def rows(
    table: Table, found: Mapping[str, Mapping[str, float]], weights: Mapping[str, float], args
) -> list[str]:
    """Of the table, for one set of scores: a row a number of scored networks."""
    lines = []
    at = {key: place for place, key in enumerate(table.keys)}
    truth, band = table.truth, table.band
    for count in args.counts:
        told = []
        for repeat in range(args.repeats):
            drawn = np.random.default_rng([count, repeat]).permutation(len(found))[:count]
            own = [key for place, key in enumerate(found) if place in set(drawn)]
            scores = np.array([[found[key].get(name, np.nan) for name in weights] for key in own])
            standard = (scores - np.nanmean(scores, 0)) / np.nanstd(scores, 0)
            raw = np.nan_to_num(standard, nan=-3.0) @ np.array(list(weights.values()))
            places = np.array([at[key] for key in own])
            in_band = band[places]
            screened = {
                key_of(table.params[at[key]]): {
                    n: found[key][n] for n in weights if n in found[key]
                }
                for key in own
            }
            smooth = Promise(table.feasible, weights, larger=0.0).of(table.params, screened)
            first = np.argsort(-smooth)[:FIRST]
            better = [(truth > truth[place]).mean() for place in first]
            told.append(
                (
                    tau(raw, truth[places]),
                    tau(raw[in_band], truth[places][in_band]),
                    tau(smooth, truth),
                    tau(smooth[band], truth[band]),
                    float(np.median(better)),
                )
            )
        shown = np.mean(told, 0)
        cells = " | ".join([*(f"{value:.2f}" for value in shown[:4]), f"{shown[4]:.1%}"])
        lines.append(f"| {' + '.join(weights)} | {count} | {cells} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="nas-bench-macro_cifar10.json")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scores", default=screening.DEFAULT)
    parser.add_argument("--resolution", type=int, default=16, help="of the images, up to 32 px")
    parser.add_argument("--budget", default="55MFLOPs")
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    try:
        scorers = screening.parse(args.scores)
        table = Table(args.table, args.budget)
        drawn = np.random.default_rng([0, 0]).permutation(len(table.keys))[: max(args.counts)]
        found = scored([table.keys[place] for place in drawn], scorers, args)
    except GhostnasError as error:
        print(f"smoothed_scores: {error}", file=sys.stderr)
        return 2
    found = {table.keys[place]: found[table.keys[place]] for place in drawn}
    print("| scores | networks | one by one, all | band | smoothed, all | band | first ten |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    sets = [[name] for name in scorers]
    sets += [list(scorers)[:end] for end in range(2, len(scorers) + 1)]
    for names in sets:
        for line in rows(table, found, screening.prior(names), args):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
