"""``ghostnas search``."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import (
    Result,
    add_blocks,
    add_confidence,
    add_variant,
    command,
    count,
    positive,
    resolution,
    seconds,
    seed,
)

OPTIONS = (
    *(
        "target",
        "threads",
        "dtype",
        "budget",
        "out",
        "resume",
        "confidence",
        "space",
        "data",
        "effort",
        "recipe",
    ),
    *("final_recipe", "scorer", "screened", "screened_by", "halving", "warm_start"),
    *("pareto", "export_front"),
    *("trials", "timeout", "sampler", "seed", "finalists", "seeds", "workers", "device"),
    *("deploy", "resolution", "storage"),
)


def run(args: Namespace) -> Result:
    if args.out is None and not args.resume:
        args.out = Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    options = {name: getattr(args, name) for name in OPTIONS}
    if args.quiet:
        found = api.search(**options)
    else:
        from ghostnas.cli import live

        with live.view(args.say) as view:
            found = api.search(**options, progress=view.say, watch=view.watch)

    from ghostnas.nas import report

    return found, report.text


def _halving(text: str) -> int:
    if text == "1":
        raise ArgumentTypeError("1 would stop no trial: give 0, or 2 or more")
    return count(text)


def how_to_resume(args: Namespace) -> str:
    return f"; finished work is kept, resume with: ghostnas search --resume --out {args.out}"


def _then(result: Mapping[str, Any]) -> str:
    if "concluded_by" in result:
        return ""
    return (
        f"open {result['run']}/report.html, and train the winner in full: "
        f"ghostnas train {result['run']} --data DATA --out DIR"
    )


def add(subcommands: Any) -> None:
    search = command(
        subcommands,
        "search",
        run,
        "find the best network within budgets",
        how_to_resume,
        example="ghostnas search --target arm --budget 20ms --budget 6MB --effort hour",
        then=_then,
    )
    search.add_argument("--target", help="name of a latency table; see: ghostnas latency list")
    add_variant(search)
    search.add_argument(
        "--budget",
        action="append",
        metavar="AMOUNT",
        help="150MFLOPs, 20ms, 5Mparams, 6MB, 4MBpeak or 20ms@TARGET; may be repeated",
    )
    add_confidence(search)
    search.add_argument("--space", help="a shipped space's name or a .toml file (ghostnet)")
    add_blocks(search)
    search.add_argument("--data", help="what to train on; see: ghostnas data list (synthetic)")
    search.add_argument(
        "--effort",
        choices=("minutes", "hour", "night"),
        help="how long it may take on two cores; sets what is not given below (minutes)",
    )
    search.add_argument("--recipe", help="how a trial is trained: a name or a .toml (quick)")
    search.add_argument(
        "--final-recipe",
        metavar="RECIPE",
        help="how finalists and the baseline are trained (that of the trials)",
    )
    search.add_argument(
        "--scorer",
        help="train, supernet:DIR, or a training-free one like synflow (train)",
    )
    search.add_argument(
        "--screened",
        type=count,
        metavar="N",
        help="networks to score without training before the first trial (40)",
    )
    search.add_argument(
        "--screened-by",
        metavar="SCORES",
        help="by which: naswot, supernet:DIR and others, with commas (naswot,jacob_cov)",
    )
    search.add_argument("--trials", type=positive, metavar="N", help="networks to train (3)")
    search.add_argument(
        "--halving",
        type=_halving,
        metavar="N",
        help="stop trials that are not among the best 1/N at a rung; 0 for never (0)",
    )
    search.add_argument("--timeout", type=seconds, metavar="T", help="90s, 30m, 2h: no new trial")
    search.add_argument(
        "--sampler",
        help="how networks are proposed: surrogate, tpe, gp, nsga2, nsga3, evolution, random, or "
        "module:Class for an Optuna sampler of your own (surrogate)",
    )
    search.add_argument(
        "--pareto",
        metavar="NAMES",
        help="trade accuracy for one or two of latency, macs, params: accuracy,latency",
    )
    search.add_argument(
        "--export-front",
        type=positive,
        metavar="N",
        help="train and export N networks along the front",
    )
    search.add_argument(
        "--warm-start", type=Path, metavar="RUN", help="an earlier search to learn from"
    )
    search.add_argument("--seed", type=seed, metavar="N", help="for all random numbers (0)")
    search.add_argument(
        "--finalists", type=positive, metavar="K", help="networks retrained to choose the best (1)"
    )
    search.add_argument(
        "--seeds",
        type=positive,
        metavar="K",
        help="trainings of each finalist, and as many more of the winner (2)",
    )
    search.add_argument("--workers", type=positive, metavar="N", help="trainings in parallel (2)")
    search.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="to train on; auto is CUDA if available (auto)",
    )
    search.add_argument(
        "--deploy",
        choices=("published", "data"),
        help="what budgets, latency and files refer to: the network at the published 224 px, or at "
        "the data's own size (published)",
    )
    search.add_argument(
        "--resolution", type=resolution, metavar="R", help="of the deployment, instead of 224 px"
    )
    search.add_argument("--storage", metavar="URL", help="of the Optuna study (in the run folder)")
    search.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder (a new one in runs)"
    )
    search.add_argument("--resume", action="store_true", help="resume the search in --out")
