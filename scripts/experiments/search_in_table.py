"""Whole searches with real evaluations in NAS-Bench-Macro's space, judged by its table.

Each seed is a search by `ghostnas.search` under a budget, on CIFAR-10; the network that it chooses
is looked up in the file of accuracies that others trained in full from three seeds. Printed is its
mean accuracy, and the share of the networks within the budget that are better; beside it the
processor minutes that the search took, all processes together. Finished searches stay in --out; the
same command resumes after a kill.

    python search_in_table.py nas-bench-macro_cifar10.json --data cifar10:DIR --out runs/table
    python search_in_table.py ... --sampler random --recipe quick --screened 0 --trials 60
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import nas_bench_macro
import numpy as np
import pandas as pd

import ghostnas
from ghostnas.errors import GhostnasError
from ghostnas.files import write_whole
from ghostnas.nas import budget
from ghostnas.networks import arch as archs

SPACE = Path(__file__).with_name("nas_bench_macro.toml")


def search(args: argparse.Namespace, seed: int) -> dict:
    """The search's result, with the processor minutes of all its processes."""
    folder = args.out / f"seed{seed}"
    done = folder / "judged.json"
    if done.exists():
        return json.loads(done.read_text())
    before = minutes()
    settings = {
        name: value
        for name in ("recipe", "final_recipe", "sampler", "screened", "trials", "halving")
        if (value := getattr(args, name)) is not None
    }
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
    own = [each for each in (result["best"], *result["others"]) if each["trial"] is not None]
    trials = pd.read_csv(folder / "trials.csv")
    document = json.loads(trials[trials["trial"] == own[0]["trial"]]["arch"].iloc[0])
    found = {
        "key": nas_bench_macro.key_of(archs.from_json(document)),
        "minutes": minutes() - before,
    }
    write_whole(done, json.dumps(found).encode())
    return found


def minutes() -> float:
    """Processor minutes of this process and of those it has waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used) / 60


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
    print("\n| seed | network | accuracy | better networks | processor minutes |")
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
