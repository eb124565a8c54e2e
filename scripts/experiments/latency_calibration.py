"""How well a few whole networks, timed on one phone, adapt the targets of the others to it.

The file is that of ``latency_targets.py``. For each pair of phones, kinds of core and dtype (one
core), some random networks of one phone calibrate the other's target as `ghostnas latency
calibrate --from` does, and the rest are predicted; ``nearest`` leaves the choice of target, among
all of other phones, to the timings. Beside it: one scale of FLOPs, and the donor's own measured
times of the same networks at one scale. RegNets take no part.

    python latency_calibration.py networks.csv --results docs/results/latency_calibration.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import latency_targets as published_targets
import numpy as np
import pandas as pd

from ghostnas.arrays import Array
from ghostnas.errors import GhostnasError
from ghostnas.files import write_whole
from ghostnas.latency import cost_model, timings
from ghostnas.latency.targets import Target

COUNTS = (3, 5, 10, 20)
NEAREST_DRAWS = 10  # as each takes seconds


def errors(predicted: Array, measured: Array) -> tuple[float, float]:
    found = published_targets.agreement(predicted, measured)
    return found["mape"], found["spearman"]


def over_draws(
    column: published_targets.Column,
    count: int,
    draws: int,
    predict: Callable[[Array], Array],
) -> tuple[float, float]:
    """Medians of error and Spearman over random choices of networks.

    Args:
        predict: from the indices of the chosen to milliseconds of all.
    """
    rng = np.random.default_rng(count)
    told = np.flatnonzero(column.told)
    found = []
    for _ in range(draws):
        chosen = rng.choice(told, count, replace=False)
        rest = np.setdiff1d(told, chosen)
        found.append(errors(predict(chosen)[rest], column.measured_ms[rest]))
    mape, spearman = np.median(found, axis=0)
    return float(mape), float(spearman)


def scaled(by: Array, measured: Array) -> Callable[[Array], Array]:
    return lambda chosen: by * np.median(measured[chosen] / by[chosen])


def adapted(column: published_targets.Column, donors: Sequence[Target]) -> Callable[[Array], Array]:
    def predict(chosen: Array) -> Array:
        works, measured = column.works[chosen], column.measured_ms[chosen]
        if len(donors) == 1:
            prior = donors[0].model.costs_ns
            prices = cost_model.fit(
                works, measured, column.dtype, prior_ns=prior, trust=timings.TRUST
            )
        else:
            prices = timings.adapt(works, measured, column.dtype, donors).model.costs_ns
        predicted: Array = 1e-6 * column.works @ np.array(prices)
        return predicted

    return predict


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--results", type=Path, help="write the figures to this .csv")
    args = parser.parse_args()
    try:
        published = pd.read_csv(args.file, index_col="model")
        settings = [each for each in published_targets.settings([""]) if each[1] == 1]
        columns = [published_targets.read(published, *each) for each in settings]
        donors = [replace(published_targets.target(each), errors=()) for each in columns]
        rows = []
        for goal in columns:
            phone = goal.cores.split("-")[0]
            others = [
                (column, donor)
                for column, donor in zip(columns, donors, strict=True)
                if donor.dtype == goal.dtype and not donor.cores.startswith(phone)
            ]
            flops = np.array([published_targets.macs(name) for name in goal.names], dtype=float)
            for count in COUNTS:
                predictors = {
                    f"from {donor.name}": (args.draws, adapted(goal, [donor]))
                    for _, donor in others
                }
                for column, donor in others if count == 10 else ():
                    measured = scaled(column.measured_ms, goal.measured_ms)
                    predictors[f"times of {donor.name}"] = (args.draws, measured)
                predictors["FLOPs"] = (args.draws, scaled(flops, goal.measured_ms))
                every = [donor for _, donor in others]
                predictors["nearest"] = (min(args.draws, NEAREST_DRAWS), adapted(goal, every))
                for name, (draws, predict) in predictors.items():
                    mape, spearman = over_draws(goal, count, draws, predict)
                    rows.append(
                        {
                            "to": f"{goal.cores}-{goal.dtype}",
                            "dtype": goal.dtype,
                            "by": name,
                            "timings": count,
                            "mape": f"{mape:.4f}",
                            "spearman": f"{spearman:.4f}",
                        }
                    )
            print(f"{goal.cores} {goal.dtype}", file=sys.stderr, flush=True)
        if args.results:
            write_whole(args.results, published_targets.as_csv(rows))
        report(pd.DataFrame(rows))
    except (GhostnasError, OSError, ValueError) as error:
        print(f"latency_calibration: {error}", file=sys.stderr)
        return 2
    return 0


def report(rows: pd.DataFrame) -> None:
    rows = rows.assign(
        mape=100 * rows["mape"].astype(float),
        spearman=rows["spearman"].astype(float),
        by=rows["by"].str.replace(r" .*", "", regex=True),
    )
    grouped = rows.groupby(["dtype", "timings", "by"])
    print("medians over pairs: mean error in %, Spearman; and the worst pair's error")
    table = grouped[["mape", "spearman"]].median().join(grouped["mape"].max().rename("worst"))
    print(table.round({"mape": 1, "spearman": 3, "worst": 1}).to_string())


if __name__ == "__main__":
    sys.exit(main())
