"""``ghostnas pick``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, command


def run(args: Namespace) -> Result:
    found = api.pick(args.run, budget=args.budget, target=args.target, out=args.out)
    return found, text


def text(found: Mapping[str, Any]) -> str:
    trained = (
        "not trained yet" if found["trial"] is None else f"trial {found['trial']} of the search"
    )
    return (
        f"{found['id']}: expected score {found['score']:.4g} +- {found['score_std']:.2g}, "
        f"{found['macs'] / 1e6:.1f} MFLOPs, {found['params'] / 1e6:.2f} M parameters, "
        f"{found['latency_ms']:.1f} ms ({found['latency_low_ms']:.1f} to "
        f"{found['latency_high_ms']:.1f}) on {found['target']}; {trained}\n"
        f"the best of {found['of']} networks that the search knows within "
        f"{', '.join(found['budgets'])}"
    )


def _then(found: Mapping[str, Any]) -> str:
    network = found["network"]
    return f"ghostnas train {network} --data DATA --out DIR" if network else ""


def add(subcommands: Any) -> None:
    pick = command(
        subcommands,
        "pick",
        run,
        "another budget or target for a finished search, without training",
        example="ghostnas pick runs/cifar --target pixel4-cpu1-fp32 --budget 15ms --out best.json",
        then=_then,
    )
    pick.add_argument("run", type=Path, help="folder of the search")
    pick.add_argument(
        "--budget",
        action="append",
        required=True,
        metavar="AMOUNT",
        help="150MFLOPs, 20ms, 5Mparams, 6MB, 4MBpeak or 20ms@TARGET; may be repeated",
    )
    pick.add_argument("--target", help="name of a latency table (the search's)")
    pick.add_argument("--out", type=Path, metavar="FILE.json", help="write the architecture")
