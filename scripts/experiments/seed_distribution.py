"""How much the seed alone changes an accuracy, and which differences between networks it can hide.

    python seed_distribution.py --data cifar10:DIR --out runs/seeds --seeds 20

Trains GhostNet at a few widths from many seeds with one recipe and prints, for each width, the
accuracies on test images, and for each pair the p-value of Welch's t-test, with all seeds and with
the first few, as a search has them. Finished trainings are kept in --out; the same command resumes.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

from ghostnas.nas import evaluators
from ghostnas.nas.evaluators import EvaluatorPool
from ghostnas.networks.zoo import ghostnet
from ghostnas.processes import usable_cpus
from ghostnas.stats import percent, summary, welch_p_value
from ghostnas.training import recipe

FEW = (2, 3, 5)
BIN = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--resolution", type=int, help="of the images in training (the recipe's)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--widths", type=float, nargs="+", default=[1.0, 0.5])
    parser.add_argument("--workers", type=int, default=usable_cpus())
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = train(args)
    for width, accuracies in found.items():
        print(f"GhostNet {width:g}x: {percent(summary(accuracies))}")
        print(histogram(accuracies))
    for first, second in combinations(found, 2):
        for count in (*(few for few in FEW if few < args.seeds), args.seeds):
            p = welch_p_value(found[first][:count], found[second][:count])
            print(f"{first:g}x against {second:g}x by {count} seeds: p = {p:.2g}")


def train(args: argparse.Namespace) -> dict[float, list[float]]:
    """Accuracies on test images by width, in the order of the seeds."""
    how = recipe.change(recipe.load(args.recipe), resolution=args.resolution)
    pool = EvaluatorPool(args.data, how, args.workers)
    paths = {
        (width, seed): args.out
        / f"ghostnet-{width:g}-{Path(args.recipe).stem}-{how.resolution}-{seed}.safetensors"
        for width in args.widths
        for seed in range(args.seeds)
    }
    running = {
        key: pool.submit_test(ghostnet(key[0]), key[1], path)
        for key, path in paths.items()
        if evaluators.recorded(path) is None
    }
    for position, (key, future) in enumerate(running.items(), 1):
        accuracy = future.result().test_accuracy
        print(f"{position}/{len(running)}: {key[0]:g}x, seed {key[1]}: {accuracy:.2%}", flush=True)
    pool.close()
    scores = {key: evaluators.recorded(path) for key, path in paths.items()}
    return {
        width: [score.test_accuracy for key, score in scores.items() if score and key[0] == width]
        for width in args.widths
    }


def histogram(accuracies: list[float]) -> str:
    bins = [int(accuracy / BIN) for accuracy in accuracies]
    return "\n".join(
        f"  {100 * BIN * each:3.0f} % {'#' * bins.count(each)}"
        for each in range(min(bins), max(bins) + 1)
    )


if __name__ == "__main__":
    main()
