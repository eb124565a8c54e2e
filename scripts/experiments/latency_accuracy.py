"""How accurate the latency predictor is on a device: builds tables there and checks them.

For fp32 and int8 it builds a space's table with `ghostnas latency build`, then measures random
networks that were not used for it with `ghostnas latency check`, and prints the output of both.

    python latency_accuracy.py --out runs/latency
    python latency_accuracy.py --out runs/board --device ssh:pi@board --ops 2000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def run(action: str, *options: str) -> None:
    command = ["latency", action, *options]
    print("ghostnas", *command, flush=True)
    subprocess.run([sys.executable, "-m", "ghostnas", *command], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder for the tables")
    parser.add_argument("--device", default="local")
    parser.add_argument("--space", default="ghostnet")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--ops", default="12000")
    parser.add_argument("--networks", default="50", help="fresh ones, to check with")
    args = parser.parse_args()
    where = ["--device", args.device, "--space", args.space]
    for dtype in args.dtypes:
        table = str(args.out / f"{dtype}.csv")
        run("build", *where, "--dtype", dtype, "--ops", args.ops, "--out", table)
        run("check", *where, "--target", table, "--networks", args.networks)


if __name__ == "__main__":
    main()
