"""``ghostnas paper``: the tables and figures of the GhostNet paper, and the study of the seed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, command, positive, say, seconds, width

TABLES = {
    "table1": "GhostNet's architecture, row by row",
    "table2": "how well a d x d filter makes one feature map of another",
    "table3": "Ghost-VGG-16 on CIFAR-10 by d",
    "table4": "Ghost-VGG-16 on CIFAR-10 by s",
    "table5": "compressed VGG-16 and ResNet-56 on CIFAR-10",
    "table6": "compressed ResNet-50 on ImageNet",
    "table7": "small networks on ImageNet",
    "table8": "GhostNet as a detection backbone",
}
TRAINING = ("epochs", "batch_size", "images", "workers", "device", "threads", "timeout")


def seeds(args: Namespace) -> Result:
    found = api.paper_seeds(
        out=args.out,
        data=args.data,
        network=args.network,
        width=args.width,
        recipe=args.recipe,
        seeds=args.seeds,
        body=args.body,
        progress=say,
        **_training(args),
    )
    return found, _text


def table(args: Namespace) -> Result:
    found = api.paper_table(
        args.table,
        out=args.out,
        train=args.train,
        data=args.data,
        width=args.width,
        recipe=args.recipe,
        seeds=args.seeds,
        progress=say,
        **_training(args),
    )
    return found, _text


def _training(args: Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in TRAINING}


def _text(result: Mapping[str, Any]) -> str:
    return str(result["text"])


def how_to_resume(args: Namespace) -> str:
    return "; the same command goes on"


def add(subcommands: Any) -> None:
    parser = subcommands.add_parser("paper", help="reproduce the GhostNet paper")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, what in TABLES.items():
        each = command(commands, name, table, what, how_to_resume)
        each.set_defaults(table=name)
        each.add_argument("--out", type=Path, metavar="DIR", help="also for the page")
        if name in ("table3", "table4", "table5"):
            each.add_argument("--train", action="store_true", help="train its rows on CIFAR-10")
            _add_training(each, seeds=3, recipe=None)
        else:
            each.set_defaults(
                train=False,
                data=None,
                width=1.0,
                recipe=None,
                seeds=3,
                workers=1,
                device="auto",
                **dict.fromkeys(("epochs", "batch_size", "images", "threads", "timeout")),
            )
    study = command(commands, "seeds", seeds, "what the random seed alone does", how_to_resume)
    study.add_argument("--out", type=Path, required=True, metavar="DIR")
    study.add_argument("--network", default="resnet9", metavar="NAME", help="(resnet9)")
    study.add_argument("--body", type=Path, metavar="FILE", help="weights of all but the head")
    _add_training(study, seeds=30, recipe="cifar-seeds")


def _add_training(parser: ArgumentParser, seeds: int, recipe: str | None) -> None:
    parser.add_argument("--data", help="what to train on, such as cifar10:DIR")
    parser.add_argument("--width", type=width, default=1.0, metavar="A", help="(1.0)")
    parser.add_argument("--recipe", default=recipe, help="a name or a .toml file")
    parser.add_argument("--seeds", type=positive, default=seeds, metavar="N", help=f"({seeds})")
    parser.add_argument("--epochs", type=positive, metavar="N", help="(the recipe's)")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="the learning rate scales with it"
    )
    parser.add_argument("--images", type=positive, metavar="N", help="to train on (all)")
    parser.add_argument(
        "--workers", type=positive, default=1, metavar="N", help="trainings at once (1)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the CPU, each")
    parser.add_argument("--timeout", type=seconds, metavar="T", help="such as 10m")
