"""How well emulated counts predict published latencies of whole networks, family by family.

The file has one row per network (its name in `model`, as in pytorchcv) and one column per device
setting, ``phone|cores|float or quant|mean``, in microseconds, as in
github.com/qed-usc/mobile-ml-benchmark. For each column, the three costs of
`ghostnas.devices.emulated` are fitted to all families of networks but one, and predict that one; so
are a scale of FLOPs, and a roofline of FLOPs and bytes. Fits minimise absolute relative errors.

    python predictor_benchmark.py networks.csv --columns pixel4 s10 --without regnet
    python predictor_benchmark.py networks.csv --count     # counts missing ops
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from ghostnas.arrays import Array
from ghostnas.devices import op_counts, op_models, table_check
from ghostnas.devices.emulated import LINE_BYTES, features
from ghostnas.devices.emulator import Counts, Emulator, count_each
from ghostnas.errors import GhostnasError, InputError
from ghostnas.ir.graph import Input
from ghostnas.latency.op_signature import OpSignature, signatures, weight_count
from ghostnas.networks import classics

ROOT = Path(__file__).resolve().parents[2]
COUNTS = ROOT / "latency_tables" / "counts"
CORE = "cortex-a76"
BYTES = {"fp32": 4, "int8": 1}
BATCH = 50
STEPS = 60
SAME_FAMILY = {
    "resnet": r"(se)?(pre)?resnet",
    "mobilenet": r"mobilenetb?_",
    "mobilenetv2": r"mobilenetv2",
    "squeezenet": r"squeeze(res)?net",
    "regnet": r"regnet",
}


def family(name: str) -> str:
    """Networks of one design, whatever their size, with or without SE or pre-activation."""
    for known, pattern in SAME_FAMILY.items():
        if re.match(pattern, name):
            return known
    return re.match(r"[a-z]+?(v\d|(?![a-z]))", name)[0]


@cache
def sizes(op: OpSignature, dtype: str) -> tuple[float, float]:
    """Cache lines of the op's weights, and of its inputs and outputs."""
    nodes = op_models.op_graph(op).nodes
    maps = sum(math.prod(node.shape) for node in nodes[:-1] if isinstance(node.op, Input))
    share = BYTES[dtype] / LINE_BYTES
    return weight_count(op) * share, (maps + math.prod(nodes[-1].shape)) * share


def macs(op: OpSignature) -> float:
    stride = max(op.stride, 1)
    return weight_count(op) * -(-op.height // stride) * -(-op.width // stride)


def counted(op: OpSignature, counts: Counts, dtype: str) -> tuple[float, ...]:
    kind = {"conv": "matrix", "dense": "matrix", "depthwise": "depthwise"}.get(op.op, "other")
    return features(dtype, kind, counts, *sizes(op, dtype))


def fit_absolute(shares: Array) -> Array:
    """Non-negative costs that bring ``shares @ costs`` closest to 1 in absolute error."""
    scale = np.maximum(shares.max(axis=0), 1e-300)
    weights = np.ones(len(shares))
    for _ in range(STEPS):
        costs = nnls(shares / scale * weights[:, None], weights)[0] / scale
        weights = 1 / np.sqrt(np.maximum(np.abs(shares @ costs - 1), 1e-3))
    return costs


def fit_roofline(rows: Array, measured: Array) -> Callable[[Array], Array]:
    """A network's time as the larger of its FLOPs and its bytes, each at its own rate."""
    best = (math.inf, 0.0, 0.0)
    compute = np.median(measured / rows[:, 0])
    for a in compute * np.geomspace(0.3, 1.2, 40):
        for b in np.median(measured / rows[:, 1]) * np.geomspace(0.05, 1.5, 60):
            error = np.abs(np.maximum(a * rows[:, 0], b * rows[:, 1]) / measured - 1).mean()
            best = min(best, (error, a, b))
    return lambda new: np.maximum(best[1] * new[:, 0], best[2] * new[:, 1])


@dataclass(frozen=True, kw_only=True)
class Column:
    """The networks for which a column has latencies, and their predictors."""

    names: list[str]
    measured_ms: Array
    predictors: dict[str, Array]

    @classmethod
    def read(
        cls, published: pd.DataFrame, column: str, dtype: str, without: Sequence[str]
    ) -> Column:
        counts = op_counts.load(COUNTS / f"{CORE}-{dtype}.csv")
        found = networks(published, without)
        names = [
            name
            for name, ops in found.items()
            if np.isfinite(published.loc[name, column]) and all(op in counts for op in ops)
        ]

        def total(feature: Callable[[OpSignature], Sequence[float]]) -> Array:
            return np.array([np.sum([feature(op) for op in found[name]], axis=0) for name in names])

        rows = total(lambda op: counted(op, counts[op], dtype))
        flops = total(lambda op: [macs(op)])
        moved = total(lambda op: [sum(sizes(op, dtype))])
        return cls(
            names=names,
            measured_ms=published.loc[names, column].to_numpy() / 1e3,
            predictors={
                "counts": rows,
                "FLOPs": flops,
                "roofline": np.concatenate([flops, moved], axis=1),
            },
        )

    def left_out(self, kind: str) -> Array:
        """Each family's milliseconds as predicted by a fit to all others."""
        families = np.array([family(name) for name in self.names])
        rows, measured_ms = self.predictors[kind], self.measured_ms
        predicted = np.zeros(len(measured_ms))
        for name in sorted(set(families)):
            out = families == name
            if kind == "roofline":
                predicted[out] = fit_roofline(rows[~out], measured_ms[~out])(rows[out])
            else:
                costs = fit_absolute(rows[~out] / measured_ms[~out, None])
                predicted[out] = rows[out] @ costs
        return predicted


def networks(published: pd.DataFrame, without: Sequence[str]) -> dict[str, list[OpSignature]]:
    """The ops of the networks known both here and in the file."""
    names = [name for name in classics.names() if name in published.index]
    families = sorted(set(map(family, names)))
    if unknown := sorted(set(without) - set(families)):
        raise InputError(f"no family {unknown[0]!r} in the file; there are {', '.join(families)}")
    return {name: signatures(classics.graph(name)) for name in names if family(name) not in without}


def count_missing(ops: set[OpSignature], dtype: str, parts: Path) -> None:
    """Emulate the ops that the file of counts lacks, and report those that cannot be."""
    path = COUNTS / f"{CORE}-{dtype}.csv"
    known = op_counts.load(path) if path.exists() else {}
    missing = sorted(ops - known.keys(), key=macs)
    emulator = Emulator(CORE, parts)
    for at in range(0, len(missing), BATCH):
        chosen = missing[at : at + BATCH]
        models = [op_models.op_model(op, dtype) for op in chosen]
        for op, counts in zip(chosen, count_each(emulator, models), strict=True):
            if isinstance(counts, str):
                print(f"{op}: {counts}", file=sys.stderr)
            else:
                known[op] = counts
        op_counts.save(known, path)
        print(f"{at + len(chosen)} of {len(missing)} ops", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--columns", nargs="*", default=[""], help="those that start with one of these"
    )
    parser.add_argument("--without", nargs="*", default=[], help="families to leave out")
    parser.add_argument("--count", action="store_true", help="emulate ops not counted yet")
    parser.add_argument("--emulator", type=Path, default=ROOT / ".emulation")
    parser.add_argument("--networks", action="store_true", help="print each network's error")
    args = parser.parse_args()
    try:
        published = pd.read_csv(args.file, index_col="model")
        for dtype, word in (("fp32", "float"), ("int8", "quant")):
            columns = [
                each
                for each in published.columns
                if each.endswith(f"|{word}|mean") and each.startswith(tuple(args.columns))
            ]
            if columns and args.count:
                ops = set().union(*networks(published, args.without).values())
                count_missing(ops, dtype, args.emulator)
            for column in columns:
                report(column, Column.read(published, column, dtype, args.without), args.networks)
    except (GhostnasError, OSError, ValueError) as error:
        print(f"predictor_benchmark: {error}", file=sys.stderr)
        return 2
    return 0


def report(title: str, column: Column, each: bool) -> None:
    families = {family(name) for name in column.names}
    print(f"{title}: {len(column.names)} networks of {len(families)} families")
    for kind in column.predictors:
        predicted = column.left_out(kind)
        found = table_check.agreement(predicted, column.measured_ms)
        print(
            f"  {kind:9} mean error {100 * found['mape']:5.1f} %, within 10 %: "
            f"{100 * found['within_10']:3.0f} %, Spearman {found['spearman']:.3f}"
        )
        if each and kind == "counts":
            errors = predicted / column.measured_ms - 1
            for name, error in zip(column.names, errors, strict=True):
                print(f"    {name:28} {100 * error:+6.1f} %")
    costs_ns = 1e6 * fit_absolute(column.predictors["counts"] / column.measured_ms[:, None])
    print(f"  fitted to all, ns: {', '.join(f'{cost:.4g}' for cost in costs_ns)}")


if __name__ == "__main__":
    sys.exit(main())
