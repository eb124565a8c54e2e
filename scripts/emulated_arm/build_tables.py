"""Builds the shipped tables: emulated cores, and the phones that costs were fitted to.

    scripts/emulated_arm/setup
    python scripts/emulated_arm/build_tables.py --networks networks_e2e_us.csv

Counts are cached, so that all the tables of one core take little longer than one. With the file of
published latencies (see ``scripts/experiments/predictor_benchmark.py``), a phone's interval is
calibrated on the networks left out of a fit, family by family.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).resolve().parents[1] / "experiments"))
import predictor_benchmark as benchmark

from ghostnas.devices import table_build
from ghostnas.devices.bench import Setting
from ghostnas.devices.emulated import EmulatedBench
from ghostnas.errors import GhostnasError
from ghostnas.latency import calibration, table
from ghostnas.latency.table import Correction
from ghostnas.networks import space

ROOT = Path(__file__).resolve().parents[2]
# Table to its device, dtype and, for a phone, the published latencies that it was fitted to.
TABLES = {
    "cortex-a76": ("cortex-a76", "fp32", ""),
    "cortex-a76-int8": ("cortex-a76", "int8", ""),
    "pixel4-cpu1-fp32": ("pixel4-cpu1", "fp32", "pixel4|1large|float|mean"),
    "pixel4-cpu1-int8": ("pixel4-cpu1", "int8", "pixel4|1large|quant|mean"),
    "pixel4-little-fp32": ("pixel4-little", "fp32", "pixel4|1small|float|mean"),
    "s10-cpu1-fp32": ("s10-cpu1", "fp32", "s10|1large|float|mean"),
    "s10-cpu1-int8": ("s10-cpu1", "int8", "s10|1large|quant|mean"),
    "s10-little-fp32": ("s10-little", "fp32", "s10|1small|float|mean"),
}
NOT_FITTED = ("regnet",)  # its grouped convolutions did not run on XNNPACK


def calibrated(published: pd.DataFrame, column: str, dtype: str) -> Correction:
    """No correction of the sum, and the scores of the networks left out of each fit."""
    found = benchmark.Column.read(published, column, dtype, NOT_FITTED)
    predicted = found.left_out("counts")
    errors = np.abs(np.log(found.measured_ms / predicted)) / calibration.BASE_ERROR
    scores = tuple(round(float(score), 6) for score in sorted(errors))
    return Correction(
        scale=1.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=len(scores), scores=scores
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", default=list(TABLES), help="(all)")
    parser.add_argument("--networks", type=Path, help="published latencies")
    parser.add_argument("--emulator", type=Path, default=ROOT / ".emulation")
    parser.add_argument("--space", default="ghostnet")
    parser.add_argument("--ops", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=ROOT / "latency_tables")
    args = parser.parse_args()
    try:
        searched = space.load(args.space)
        published = pd.read_csv(args.networks).set_index("model") if args.networks else None
        for name in args.tables:
            device, dtype, column = TABLES[name]
            bench = EmulatedBench(device, Setting(dtype=dtype), args.emulator)
            out = args.out / f"{name}.csv"
            out.unlink(missing_ok=True)
            built = table_build.build(bench, searched, out, ops=args.ops, networks=0)
            table_build.networks_file(out).unlink()
            if column and published is not None:
                fitted = calibrated(published, column, dtype)
                table.save(dataclasses.replace(built.table, correction=fitted), out)
            print(f"{out}: {len(built.table.rows)} ops")
    except (GhostnasError, OSError) as error:
        print(f"build_tables: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
