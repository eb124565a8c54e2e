"""Whole searches with real evaluations in NAS-Bench-Macro's space, judged by its table.

Each seed is a search by `ghostnas.search` under a budget, on CIFAR-10; the network that it chooses
is looked up in the file of accuracies that others trained in full from three seeds. Printed is its
mean accuracy, and the share of the networks within the budget that are better; beside it the core
minutes that the search took, which are those of a clock times the CPUs it could use: taskset gives
it one. Finished searches stay in --out; the
same command resumes after a kill.

    python search_in_table.py nas-bench-macro_cifar10.json --data cifar10:DIR --out runs/table
    python search_in_table.py ... --supernet
    python search_in_table.py ... --sampler random --recipe quick --screened 0 --trials 60

With --supernet, each search begins with a supernet of 20,000 images, whose score joins those of the
screening.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import nas_bench_macro
import numpy as np
import pandas as pd

import ghostnas
from ghostnas.errors import GhostnasError
from ghostnas.files import write_whole
from ghostnas.nas import budget, screening
from ghostnas.networks import arch as archs
from ghostnas.processes import usable_cpus
from ghostnas.training import recipe

SPACE = Path(__file__).with_name("nas_bench_macro.toml")


def search(args: argparse.Namespace, seed: int) -> dict:
    """The network that the search chose, and its core minutes."""
    folder = args.out / f"seed{seed}"
    done = folder / "judged.json"
    if done.exists():
        return json.loads(done.read_text())
    settings = {
        name: value
        for name in ("recipe", "final_recipe", "sampler", "screened", "trials", "halving")
        if (value := getattr(args, name)) is not None
    }
    if args.supernet:
        settings["screened_by"] = f"{screening.DEFAULT},supernet:{train_supernet(args, seed)}"
    if (folder / "search.toml").exists():
        ghostnas.search(out=folder, resume=True, progress=say)
    else:
        ghostnas.search(
            target="arm",
            budget=args.budget,
            space=str(SPACE),
            data=args.data,
            deploy="data",
            finalists=args.finalists,
            seeds=args.seeds_each,
            workers=args.workers,
            seed=seed,
            out=folder,
            progress=say,
            **settings,
        )
    # Plain GhostNet is not in the table: where it wins, the first of the trials counts.
    result = json.loads((folder / "result.json").read_text())
    seconds = result["seconds"]
    if args.supernet:
        seconds += json.loads((args.out / f"supernet{seed}" / "result.json").read_text())["seconds"]
    own = [each for each in (result["best"], *result["others"]) if each["trial"] is not None]
    trials = pd.read_csv(folder / "trials.csv")
    document = json.loads(trials[trials["trial"] == own[0]["trial"]]["arch"].iloc[0])
    found = {
        "key": nas_bench_macro.key_of(archs.from_json(document)),
        "minutes": seconds * usable_cpus() / 60,
    }
    write_whole(done, json.dumps(found).encode())
    return found


def train_supernet(args: argparse.Namespace, seed: int) -> Path:
    """The folder of a supernet of this seed, trained if it is not there."""
    folder = args.out / f"supernet{seed}"
    if (folder / "result.json").exists():
        return folder
    how = args.out / "supernet.toml"
    short = dataclasses.replace(recipe.load("supernet"), epochs=4, train_pictures=5000)
    write_whole(how, recipe.to_text(short).encode())
    resume = (folder / "supernet.toml").exists()
    given = {} if resume else {"data": args.data, "recipe": str(how), "seed": seed, "threads": 1}
    space = None if resume else str(SPACE)
    ghostnas.supernet(space, out=folder, resume=resume, device="cpu", progress=say, **given)
    return folder


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="55MFLOPs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--recipe")
    parser.add_argument("--final-recipe")
    parser.add_argument("--sampler")
    parser.add_argument("--screened", type=int)
    parser.add_argument("--supernet", action="store_true")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--halving", type=int)
    parser.add_argument("--finalists", type=int, default=2)
    parser.add_argument("--seeds-each", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    rows = nas_bench_macro.load_rows(args.table)
    limit = budget.parse(args.budget).limit
    within = {key: row for key, row in rows.items() if row.macs <= limit}
    truth = np.array([np.mean(row.accuracies) for row in within.values()])
    print(
        f"{len(within)} networks, the best {truth.max():.2f} %, the median {np.median(truth):.2f}"
    )
    print("\n| seed | network | accuracy | better networks | core minutes |")
    print("|---:|---|---:|---:|---:|")
    try:
        for seed in args.seeds:
            found = search(args, seed)
            accuracy = float(np.mean(within[found["key"]].accuracies))
            print(
                f"| {seed} | {found['key']} | {accuracy:.2f} | {(truth > accuracy).mean():.1%} | "
                f"{found['minutes']:.0f} |",
                flush=True,
            )
    except GhostnasError as error:
        print(f"search_in_table: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
