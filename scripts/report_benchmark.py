"""How long a browser takes to draw the report of a search of many trials, and how large it is.

    python scripts/report_benchmark.py --trials 500 --out runs/report-500

The search is made up, as those of the tests are: nothing is trained. Needs selenium, Chromium and
its driver.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from ghostnas.nas import report_page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from browser import Browser, chromium
from runs import write_search

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/report-benchmark"))
    asked = parser.parse_args()
    if not asked.out.exists():
        budgets = ("60MFLOPs", "8ms")
        write_search(asked.out, trials=asked.trials, space="ghostnet", budgets=budgets)
    began = time.perf_counter()
    path = report_page.write(asked.out)
    print(f"written in {time.perf_counter() - began:.2f} s: {path.stat().st_size / 1e6:.2f} MB")
    for width in (1280, 390):
        times = []
        for _ in range(REPEATS):
            with Browser(chromium(), width=width) as browser:
                browser.open(path)
                times.append(browser.drawn_ms())
        print(
            f"{width} px: {asked.trials} trials drawn in {statistics.median(times):.0f} ms "
            f"(median of {REPEATS}, {min(times):.0f} to {max(times):.0f})"
        )


if __name__ == "__main__":
    main()
