"""How long the things take that must be quick, in milliseconds and against a yardstick.

The yardstick is the same million additions in Python, timed between the measurements, so that the
ratio can be compared between machines and hours.

    python scripts/benchmark.py
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable

from ghostnas import cost, op_models, space
from ghostnas.arch import lower
from ghostnas.latency import load
from ghostnas.predict import Predictor

ROUNDS = 5


def seconds(work: Callable[[], object]) -> float:
    """The quickest of a few rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def yardstick() -> None:
    total = 0
    for number in range(1_000_000):
        total += number


def main() -> None:
    rng = random.Random(0)
    searched = space.load("ghostnet")
    archs = [searched.decode(searched.sample(rng)) for _ in range(100)]
    predictor = Predictor(load("arm"))
    ops = random.Random(0).sample(op_models.ops_of(searched, 4000), 100)
    help_command = [sys.executable, "-m", "ghostnas", "--help"]
    rows = {
        "lower and cost, an architecture": (
            lambda: [cost.count(lower(arch)) for arch in archs],
            len(archs),
        ),
        "lower and predict, an architecture": (
            lambda: [predictor.predict(lower(arch)) for arch in archs],
            len(archs),
        ),
        "a one-op .tflite": (lambda: [op_models.op_model(op) for op in ops], len(ops)),
        "ghostnas --help": (
            lambda: subprocess.run(help_command, check=True, capture_output=True),
            1,
        ),
    }
    for name, (work, count) in rows.items():
        unit = seconds(yardstick)
        each = seconds(work) / count
        print(f"{name:36} {1e3 * each:8.2f} ms  {each / unit:7.4f} of the yardstick")


if __name__ == "__main__":
    main()
