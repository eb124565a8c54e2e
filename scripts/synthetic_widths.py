"""Shows that a short training tells small from large networks: three widths, three seeds.

python scripts/synthetic_widths.py [--data synthetic] [--recipe quick]
"""

from __future__ import annotations

import argparse
import statistics

from ghostnas.proxy import ProxyPool
from ghostnas.zoo import ghostnet

WIDTHS = (0.1, 0.3, 1.0)
SEEDS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--recipe", default="quick")
    arguments = parser.parse_args()
    pool = ProxyPool(arguments.data, arguments.recipe, workers=2)
    try:
        futures = {
            width: [pool.submit(ghostnet(width), seed) for seed in SEEDS] for width in WIDTHS
        }
        for width, own in futures.items():
            accuracies = [100 * future.result() for future in own]
            listed = ", ".join(f"{accuracy:.1f}" for accuracy in accuracies)
            mean, std = statistics.fmean(accuracies), statistics.stdev(accuracies)
            print(f"GhostNet {width:g}x: {mean:.1f} +- {std:.1f} % ({listed})", flush=True)
    finally:
        pool.close()


if __name__ == "__main__":
    main()
