"""``ghostnas train``."""

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
    seconds,
    seed,
    training_resolution,
    width,
)

OPTIONS = (
    *("out", "data", "recipe", "resume", "width", "init", "teacher", "seed", "epochs"),
    *("batch_size", "resolution", "device", "threads", "workers", "checkpoint_every", "strict"),
)


def run(args: Namespace) -> Result:
    options = {name: getattr(args, name) for name in OPTIONS}
    return api.train(args.arch, **options, progress=args.say), to_text


def to_text(result: Mapping[str, Any]) -> str:
    held_out = result["accuracy"]
    chosen = "" if held_out is None else f", {held_out:.1%} of those held out from training"
    return (
        f"{result['run']}/model.safetensors: {result['test_accuracy']:.2%} of "
        f"{result['test_pictures']} test images{chosen}; {result['epochs']} epochs of "
        f"{result['train_pictures']} images at {result['resolution']} px in "
        f"{result['seconds'] / 60:.1f} minutes on {result['hardware']}, seed {result['seed']}"
    )


def how_to_resume(args: Namespace) -> str:
    return f"; resume with: ghostnas train --resume --out {args.out}"


def add(subcommands: Any) -> None:
    parser = command(
        subcommands,
        "train",
        run,
        "train a network in full",
        how_to_resume,
        example="ghostnas train runs/cifar --data cifar10:data --recipe cifar --out runs/full",
        then=lambda result: (
            f"ghostnas export {result['run']} --dtype fp32,int8 --data DATA --out DIR"
        ),
    )
    parser.add_argument(
        "arch",
        metavar="ARCH",
        nargs="?",
        help="ghostnet, mobilenetv3-large, a .json file or a run folder; none with --resume",
    )
    parser.add_argument("--width", type=width, metavar="A", help="of a named network (1.0)")
    add_blocks(parser)
    parser.add_argument("--data", help="what to train on; see: ghostnas data list")
    parser.add_argument("--recipe", help="a name or a .toml file (cifar)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="resume the training in --out")
    parser.add_argument("--init", type=Path, metavar="FILE", help="weights to start from")
    parser.add_argument("--teacher", type=Path, metavar="MODEL", help="a model to distill from")
    parser.add_argument("--seed", type=seed, metavar="N", help="for all random numbers (0)")
    parser.add_argument("--epochs", type=positive, metavar="N", help="(the recipe's)")
    parser.add_argument(
        "--batch-size", type=positive, metavar="N", help="the learning rate scales with it"
    )
    parser.add_argument(
        "--resolution", type=training_resolution, metavar="R", help="of images, in pixels"
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
