"""Times the operations that must be fast, in milliseconds and relative to a yardstick.

The yardstick is a million additions in Python, timed between the measurements, so that the ratio
can be compared between machines and times of day.

    python scripts/benchmark.py
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable

from ghostnas.devices import op_models
from ghostnas.ir import cost
from ghostnas.latency.batch_predictor import Sweep
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import Table, load
from ghostnas.networks import space
from ghostnas.networks.arch import lower
from ghostnas.networks.space import Space

ROUNDS = 5
FRESH = 2000


def seconds(work: Callable[[], object]) -> float:
    """The fastest of a few rounds."""
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


def predict_fresh(table: Table, searched: Space) -> None:
    """Predict architectures one by one, with a predictor that has cached none of their parts."""
    rng, predictor = random.Random(1), Predictor(table)
    for _ in range(FRESH):
        predictor.predict(searched.decode(searched.sample(rng)))


def main() -> None:
    rng = random.Random(0)
    searched = space.load("ghostnet")
    archs = [searched.decode(searched.sample(rng)) for _ in range(100)]
    table = load("arm")
    sweep = Sweep(searched, Predictor(table))
    start = time.perf_counter()
    indices = sweep.sample(100_000, seed=0)
    sweep.predict(indices)
    print(f"the first 100,000 of a space, with its parts: {time.perf_counter() - start:.1f} s")
    ops = random.Random(0).sample(op_models.ops_of(searched, 4000), 100)
    help_command = [sys.executable, "-m", "ghostnas", "--help"]
    rows = {
        "lower and cost, per architecture": (
            lambda: [cost.count(lower(arch)) for arch in archs],
            len(archs),
        ),
        "predict, an unseen architecture": (
            lambda: predict_fresh(table, searched),
            FRESH,
        ),
        "predict, one of 100,000 at once": (lambda: sweep.predict(indices), len(indices)),
        "a one-op .tflite": (lambda: [op_models.op_model(op) for op in ops], len(ops)),
        "ghostnas --help": (
            lambda: subprocess.run(help_command, check=True, capture_output=True),
            1,
        ),
    }
    for name, (work, count) in rows.items():
        unit = seconds(yardstick)
        each = seconds(work) / count
        print(f"{name:36} {1e3 * each:9.4f} ms  {each / unit:7.4f} of the yardstick")


if __name__ == "__main__":
    main()
