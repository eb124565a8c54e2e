"""``ghostnas supernet``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import (
    Result,
    add_blocks,
    add_strict,
    command,
    count,
    positive,
    resolution,
    seconds,
    seed,
)

OPTIONS = (
    *("out", "data", "recipe", "resume", "networks", "target", "budget", "deploy", "resolution"),
    *("seed", "epochs", "batch_size", "device", "threads", "workers", "checkpoint_every"),
    "strict",
)


def run(args: Namespace) -> Result:
    options = {name: getattr(args, name) for name in OPTIONS}
    return api.supernet(args.space, **options, progress=args.say), to_text


def to_text(result: Mapping[str, Any]) -> str:
    shared, known = f"{result['params'] / 1e6:.1f} M", f"{result['networks']:.2g}"
    return (
        f"{result['run']}: {shared} weights shared by {known} networks of space {result['space']}; "
        f"its first network has {result['accuracy']:.1%} of {result['held_out_pictures']} images "
        f"held out from training; {result['epochs']} epochs of {result['train_pictures']} images, "
        f"{result['networks_per_step']} networks a step, in {result['seconds'] / 60:.1f} minutes "
        f"on {result['hardware']}, seed {result['seed']}"
    )


def how_to_resume(args: Namespace) -> str:
    return f"; resume with: ghostnas supernet --resume --out {args.out}"


def add(subcommands: Any) -> None:
    parser = command(
        subcommands,
        "supernet",
        run,
        "train weights once for all networks of a space",
        how_to_resume,
        example="ghostnas supernet ghostnet --data cifar10:data --out runs/shared",
        then=lambda result: (
            f"ghostnas pick {result['run']} --target TARGET --budget AMOUNT --out FILE.json"
        ),
    )
    parser.add_argument(
        "space",
        metavar="SPACE",
        nargs="?",
        help="a shipped space's name or a .toml file; none with --resume",
    )
    add_blocks(parser)
    parser.add_argument("--data", help="what to train on; see: ghostnas data list")
    parser.add_argument("--recipe", help="a name or a .toml file (supernet)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="resume the training in --out")
    parser.add_argument(
        "--networks",
        type=positive,
        metavar="N",
        help="trained in each step (4, or as many as there are options where none is nested)",
    )
    parser.add_argument("--target", help="name of a latency table, for --budget")
    parser.add_argument(
        "--budget",
        action="append",
        metavar="AMOUNT",
        help="train only networks within 150MFLOPs, 20ms ...; may be repeated",
    )
    parser.add_argument(
        "--deploy",
        choices=("published", "data"),
        help="what budgets refer to: the network at the published 224 px, or at the data's own "
        "size (published)",
    )
    parser.add_argument(
        "--resolution", type=resolution, metavar="R", help="of the deployment, instead of 224 px"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="for all random numbers (0)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="(the recipe's)")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="the learning rate scales with it"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the CPU (PyTorch's)")
    parser.add_argument(
        "--workers", type=count, metavar="N", help="processes that decode images (2)"
    )
    parser.add_argument(
        "--checkpoint-every", type=seconds, default="60s", metavar="T", help="(60s)"
    )
    add_strict(parser)
