"""The interpolation's error, in cycles, on a space's ops that a table lacks.

python scripts/emulated_arm/interpolation_error.py --ops 5000 --unseen 500
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np

from ghostnas.devices import op_models
from ghostnas.devices.emulator import Emulator
from ghostnas.latency.interpolation import Interpolator
from ghostnas.latency.op_signature import OpSignature
from ghostnas.networks import space

ROOT = Path(__file__).resolve().parents[2]
BATCH = 200


def cycles_of(ops: list[OpSignature], emulator: Emulator) -> dict[OpSignature, float]:
    found = {}
    for at in range(0, len(ops), BATCH):
        chosen = ops[at : at + BATCH]
        counts = emulator.count([op_models.op_model(op) for op in chosen])
        found |= {op: each.cycles for op, each in zip(chosen, counts, strict=True)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", type=int, default=5000)
    parser.add_argument("--unseen", type=int, default=500)
    parser.add_argument("--emulator", type=Path, default=ROOT / ".emulation")
    args = parser.parse_args()
    every = op_models.ops_of(space.load("ghostnet"), 10**6)
    emulator = Emulator("cortex-a76", args.emulator)
    interpolator = Interpolator(cycles_of(every[: args.ops], emulator))
    unseen = random.Random(0).sample(every[args.ops :], args.unseen)
    true = cycles_of(unseen, emulator)
    guesses = {op: interpolator.predict(op) for op in unseen}
    errors = np.array([guesses[op].latency_ms / true[op] - 1 for op in unseen])
    held = np.mean([abs(e) <= guesses[op].error for op, e in zip(unseen, errors, strict=True)])
    together = sum(guess.latency_ms for guess in guesses.values()) / sum(true.values()) - 1
    print(
        f"{args.unseen} unseen of {len(every)} ops, from {args.ops}: error median "
        f"{100 * np.median(np.abs(errors)):.2f} %, mean {100 * np.abs(errors).mean():.2f} %, "
        f"90th percentile {100 * np.percentile(np.abs(errors), 90):.2f} %; sum of all "
        f"{100 * together:+.2f} %; within the stated error {100 * held:.0f} %"
    )


if __name__ == "__main__":
    main()
