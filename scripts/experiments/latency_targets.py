"""Fits the shipped targets to published latencies, and says how well they predict families unseen.

The file has one row per network (its name in `model`, as in pytorchcv) and one column per device
setting, ``phone|cores|float or quant|mean``, in microseconds, as in
github.com/qed-usc/mobile-ml-benchmark (TFLite 2.10). For each column, the prices of
`ghostnas.latency.cost_model` are fitted to all families of networks but one, and predict that one;
so is a scale of FLOPs. All families weigh alike. The interval of a family is calibrated on the
errors of the others. RegNets, whose grouped convolutions are slices, take part in the fits and are
told apart in the errors.

    python latency_targets.py networks.csv --results docs/results/latency_targets.csv
    python latency_targets.py networks.csv --write latency_tables/targets.csv
    python latency_targets.py networks.csv --columns pixel4 --networks
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ghostnas.arrays import Array
from ghostnas.devices.table_check import agreement
from ghostnas.errors import GhostnasError
from ghostnas.files import write_whole
from ghostnas.ir import cost
from ghostnas.latency import calibration, cost_model, targets
from ghostnas.latency.cost_model import CostModel, Work
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.latency.table import SCORE_UNIT, Correction
from ghostnas.latency.targets import Target
from ghostnas.networks import classics

CONFIDENCE = 0.9
APART = ("regnet",)
SAME_FAMILY = {
    "resnet": r"(se)?(pre)?resnet",
    "mobilenet": r"mobilenetb?_",
    "mobilenetv2": r"mobilenetv2",
    "squeezenet": r"squeeze(res)?net",
    "regnet": r"regnet",
}
# Device and SoC, and of each kind of core: name, core, MHz, and column by the number of threads.
PHONES = {
    "pixel4": (
        "Pixel 4",
        "Snapdragon 855",
        {
            "cpu": ("kryo-485-gold", 2842, "1large 1large1med"),
            "medium": ("kryo-485-gold", 2419, "1med 2med 3med"),
            "little": ("kryo-485-silver", 1785, "1small 2small 3small 4small"),
        },
    ),
    "s10": (
        "Galaxy S10",
        "Exynos 9820",
        {
            "cpu": ("exynos-m4", 2730, "1large 2large 1large2med"),
            "medium": ("cortex-a75", 2314, "1med 2med"),
            "little": ("cortex-a55", 1950, "1small 2small 3small 4small"),
        },
    ),
    "mi8se": (
        "Mi 8 SE",
        "Snapdragon 710",
        {
            "cpu": ("kryo-360-gold", 2208, "1large 2large"),
            "little": ("kryo-360-silver", 1709, "1small 2small 3small 4small 5small 6small"),
        },
    ),
    "a03s": (
        "Galaxy A03s",
        "Helio P35",
        {
            "cpu": ("cortex-a53", 2301, "1large 2large 3large 4large"),
            "little": ("cortex-a53", 1800, "1small 2small 3small 4small"),
        },
    ),
}
WORDS = {"cpu": "one big core", "medium": "one medium core", "little": "one little core"}
SEVERAL = {"cpu": "its biggest cores", "medium": "its medium cores", "little": "its little cores"}
# Boards: device, SoC, core, MHz, the cores whose prices are taken, at the board's clock, and pairs
# of measured cores that are as much alike: what one says of the other is the board's error. A
# Raspberry Pi 5 has the Pixel 4's core; a Cortex-A72 is to Mi 8 SE's A75 what an A53 is to an A55.
BOARDS = {
    "rpi5": (
        *("Raspberry Pi 5", "BCM2712", "cortex-a76", 2400, "pixel4-medium"),
        (("s10-medium", "mi8se-cpu"), ("s10-little", "pixel4-little")),
    ),
    "rpi4": (
        *("Raspberry Pi 4", "BCM2711", "cortex-a72", 1800, "mi8se-cpu"),
        (("a03s-cpu", "mi8se-little"), ("a03s-little", "mi8se-little")),
    ),
}
SHARED_OUT = "a03s-cpu"  # four equal cores: what each kind of work gains by more of them


def family(name: str) -> str:
    """Networks of one design, whatever their size, with or without SE or pre-activation."""
    for known, pattern in SAME_FAMILY.items():
        if re.match(pattern, name):
            return known
    return re.match(r"[a-z]+?(v\d|(?![a-z]))", name)[0]


@cache
def ops_of(name: str) -> tuple[OpSignature, ...]:
    return tuple(signatures(classics.graph(name)))


@cache
def macs(name: str) -> int:
    return cost.count(classics.graph(name)).macs


def alike(families: Sequence[str]) -> Array:
    """Weights by which all families count alike."""
    counts = pd.Series(families).map(pd.Series(families).value_counts())
    return 1 / counts.to_numpy(dtype=float)


@dataclass(frozen=True, kw_only=True)
class Column:
    """The networks of a column, and what fits to all other families say of each."""

    cores: str
    threads: int
    dtype: str
    names: tuple[str, ...]
    measured_ms: Array
    works: Array
    predicted_ms: Array
    by_flops_ms: Array

    @property
    def families(self) -> Array:
        return np.array([family(name) for name in self.names])

    @property
    def told(self) -> Array:
        return ~np.isin(self.families, APART)

    @property
    def log_errors(self) -> Array:
        return np.abs(np.log(self.measured_ms / self.predicted_ms))

    def widths(self) -> Array:
        """For each network, the interval's factor, from the errors of other families."""
        families, factors = self.families, np.zeros(len(self.names))
        for each in sorted(set(families)):
            others = (families != each) & self.told
            known = correction(thousandths(self.log_errors[others]))
            width = calibration.quantile(known, CONFIDENCE) * SCORE_UNIT
            factors[families == each] = np.exp(width)
        return factors

    def prices(self) -> tuple[float, ...]:
        return cost_model.fit(self.works, self.measured_ms, self.dtype, alike(list(self.families)))

    def summary(self) -> dict[str, object]:
        """As in the table of results; shares, not per cent."""
        told, widths = self.told, self.widths()
        found = agreement(self.predicted_ms[told], self.measured_ms[told])
        flops = agreement(self.by_flops_ms[told], self.measured_ms[told])
        apart = agreement(self.predicted_ms[~told], self.measured_ms[~told])
        inside = np.exp(self.log_errors) <= widths
        half = (widths - 1 / widths) / 2
        by_family = pd.Series(np.abs(self.predicted_ms / self.measured_ms - 1)[told])
        return {
            "cores": self.cores,
            "threads": self.threads,
            "dtype": self.dtype,
            "networks": int(told.sum()),
            "families": len(set(self.families[told])),
            "mape": found["mape"],
            "mape_families_alike": by_family.groupby(self.families[told]).mean().mean(),
            "within_10": found["within_10"],
            "spearman": found["spearman"],
            "coverage": float(inside[told].mean()),
            "half_width": float(half[told].mean()),
            "regnet_mape": apart["mape"],
            "regnet_spearman": apart["spearman"],
            "flops_mape": flops["mape"],
            "flops_spearman": flops["spearman"],
        }


def thousandths(log_errors: Array) -> tuple[int, ...]:
    """Ascending."""
    return tuple(sorted(round(1e3 * float(each)) for each in log_errors))


def correction(errors: Sequence[int]) -> Correction:
    scores = tuple(error / 1e3 / SCORE_UNIT for error in errors)
    return Correction(
        scale=1.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=len(scores), scores=scores
    )


def read(published: pd.DataFrame, cores: str, threads: int, dtype: str, column: str) -> Column:
    names = tuple(
        name
        for name in classics.names()
        if name in published.index and np.isfinite(published.loc[name, column])
    )
    measured = published.loc[list(names), column].to_numpy() / 1e3
    works = np.array([cost_model.total(ops_of(name), dtype) for name in names])
    flops = np.array([macs(name) for name in names], dtype=float)
    families = np.array([family(name) for name in names])
    predicted, by_flops = np.zeros(len(names)), np.zeros(len(names))
    for each in sorted(set(families)):
        out = families == each
        weights = alike(list(families[~out]))
        prices = cost_model.fit(works[~out], measured[~out], dtype, weights)
        predicted[out] = 1e-6 * works[out] @ np.array(prices)
        by_flops[out] = flops[out] * np.median(measured[~out] / flops[~out])
    return Column(
        cores=cores,
        threads=threads,
        dtype=dtype,
        names=names,
        measured_ms=measured,
        works=works,
        predicted_ms=predicted,
        by_flops_ms=by_flops,
    )


def target(column: Column) -> Target:
    phone, kind = column.cores.split("-")
    device, soc, clusters = PHONES[phone]
    core, clock_mhz, _ = clusters[kind]
    found = column.summary()
    told = column.told
    several = f"{column.threads} of {SEVERAL[kind]}" if column.threads > 1 else WORDS[kind]
    number = column.threads if column.threads > 1 or kind == "cpu" else ""
    return Target(
        name=f"{column.cores}{number}-{column.dtype}",
        cores=column.cores,
        device=f"{device}, {several}",
        soc=soc,
        core=core,
        clock_mhz=clock_mhz,
        threads=column.threads,
        dtype=column.dtype,
        source="fitted",
        basis=f"to {len(column.names)} published networks",
        networks=len(column.names),
        mape=found["mape"],
        within_10=found["within_10"],
        spearman=found["spearman"],
        model=CostModel(costs_ns=column.prices(), networks=len(column.names)),
        errors=thousandths(column.log_errors[told]),
    )


def computed(columns: Sequence[Column], fitted: Sequence[Target]) -> list[Target]:
    """Boards: the prices of like cores at the board's clock, shared out as on four equal cores."""
    by = {(each.cores, each.threads, each.dtype): each for each in fitted}
    measured = {(each.cores, each.threads, each.dtype): each for each in columns}
    found = []
    for board, (device, soc, core, clock_mhz, like, pairs) in BOARDS.items():
        dtypes = ("fp32", "int8")
        error = max(carried(by, measured, *pair, dtype) for pair in pairs for dtype in dtypes)
        for dtype in dtypes:
            one = by[like, 1, dtype]
            for threads in (1, 2, 3, 4):
                alone, shared = (
                    by[SHARED_OUT, count, dtype].model.costs_ns for count in (1, threads)
                )
                prices = [
                    price * one.clock_mhz / clock_mhz * (many / single if single else 1.0)
                    for price, single, many in zip(one.model.costs_ns, alone, shared, strict=True)
                ]
                found.append(
                    replace(
                        one,
                        name=f"{board}-cpu{threads}-{dtype}",
                        cores=f"{board}-cpu",
                        device=device if threads == 1 else f"{device}, {threads} cores",
                        soc=soc,
                        core=core,
                        clock_mhz=clock_mhz,
                        threads=threads,
                        source="computed",
                        basis=f"from {one.name} at this clock"
                        + (f", cores as on {SHARED_OUT}{threads}" if threads > 1 else ""),
                        networks=0,
                        mape=error,
                        within_10=None,
                        spearman=None,
                        model=CostModel(costs_ns=tuple(prices), networks=0),
                        errors=(),
                    )
                )
    return found


def carried(by: dict, measured: dict, source: str, goal: str, dtype: str) -> float:
    """The error where one core's prices, at the other's clock, predict the other's networks."""
    prices, column = by[source, 1, dtype], measured[goal, 1, dtype]
    clock = prices.clock_mhz / by[goal, 1, dtype].clock_mhz
    predicted = 1e-6 * clock * column.works @ np.array(prices.model.costs_ns)
    told = column.told
    return agreement(predicted[told], column.measured_ms[told])["mape"]


def settings(chosen: Sequence[str]) -> list[tuple[str, int, str, str]]:
    """Cores, threads, dtype and column of each setting whose cores start with one of these."""
    return [
        (f"{phone}-{kind}", threads, dtype, f"{phone}|{each}|{word}|mean")
        for phone, (_, _, clusters) in PHONES.items()
        for dtype, word in (("fp32", "float"), ("int8", "quant"))
        for kind, (_, _, columns) in clusters.items()
        for threads, each in enumerate_cores(columns)
        if f"{phone}-{kind}".startswith(tuple(chosen))
    ]


def enumerate_cores(columns: str) -> list[tuple[int, str]]:
    return [(sum(map(int, re.findall(r"\d", each))), each) for each in columns.split()]


def as_csv(rows: Sequence[dict[str, object]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def line(found: dict[str, object]) -> str:
    return (
        f"{found['cores']:14} {found['threads']} {found['dtype']}  "
        f"{100 * found['mape']:5.1f} %  {100 * found['within_10']:3.0f} %  "
        f"{found['spearman']:.3f}  {100 * found['coverage']:3.0f} %  "
        f"{100 * found['half_width']:5.1f} %  {100 * found['regnet_mape']:3.0f} %, "
        f"{found['regnet_spearman']:.2f}  {100 * found['flops_mape']:5.1f} %, "
        f"{found['flops_spearman']:.3f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--columns", nargs="*", default=[""], help="cores that start with these")
    parser.add_argument("--results", type=Path, help="write the figures to this .csv")
    parser.add_argument("--write", type=Path, help="write the targets to this .csv")
    parser.add_argument("--networks", action="store_true", help="print each network's error")
    args = parser.parse_args()
    try:
        published = pd.read_csv(args.file, index_col="model")
        columns = [read(published, *setting) for setting in settings(args.columns)]
        rows = []
        print("cores, threads, dtype: error, within 10 %, Spearman; coverage and half-width of the")
        print("90 % interval; RegNet's error and Spearman; a scale of FLOPs: error and Spearman")
        for column in columns:
            rows.append(column.summary())
            print(line(rows[-1]), flush=True)
            for at, name in enumerate(column.names if args.networks else ()):
                error = column.predicted_ms[at] / column.measured_ms[at] - 1
                print(f"    {name:28} {100 * error:+6.1f} %")
        if args.results:
            digits = [
                {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
                for row in rows
            ]
            write_whole(args.results, as_csv(digits))
        if args.write:
            fitted = [target(column) for column in columns]
            every = [*fitted, *computed(columns, fitted)]
            write_whole(args.write, as_csv([targets.to_row(each) for each in every]))
            print(f"{args.write}: {len(every)} targets of {len(Work._fields)} prices")
    except (GhostnasError, OSError, ValueError) as error:
        print(f"latency_targets: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
