"""``ghostnas paper``: the tables and figures of the GhostNet paper, and the study of the seed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, command, positive, seconds, width

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
        progress=args.say,
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
        image=args.image,
        network=args.network,
        weights=args.weights,
        annotations=args.annotations,
        pictures=args.pictures,
        steps=args.steps,
        progress=args.say,
        **_training(args),
    )
    return found, _text


def figures(args: Namespace) -> Result:
    return api.paper_figures(out=args.out, target=args.target, **_pictured(args)), _text


def everything(args: Namespace) -> Result:
    found = api.paper_page(out=args.out, target=args.target, progress=args.say, **_pictured(args))
    return found, _text


def _pictured(args: Namespace) -> dict[str, Any]:
    names = ("image", "network", "width", "weights", "runs")
    return {name: getattr(args, name) for name in names}


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
        each = command(
            commands,
            name,
            table,
            what,
            how_to_resume,
            example=f"ghostnas paper {name} --out paper",
            then=lambda result: "ghostnas paper all --out paper",
        )
        each.set_defaults(table=name)
        each.add_argument("--out", type=Path, metavar="DIR", help="also for the page")
        if name in ("table3", "table4", "table5"):
            each.add_argument("--train", action="store_true", help="train its rows on CIFAR-10")
            _add_training(each, seeds=3, recipe=None)
            each.set_defaults(annotations=None, pictures=None, steps=60)
            each.set_defaults(**dict.fromkeys(("image", "network", "weights")))
            continue
        each.set_defaults(train=False, seeds=3, workers=1, device="auto")
        each.set_defaults(**dict.fromkeys(("data", "recipe", "epochs", "batch_size", "images")))
        each.set_defaults(**dict.fromkeys(("threads", "timeout", "annotations", "pictures")))
        each.set_defaults(steps=60, width=None, image=None, network=None, weights=None)
        if name == "table2":
            _add_pictured(each)
        elif name == "table8":
            _add_detection(each)
    for name, run, what in (
        ("figures", figures, "figures 4 to 7, as SVG, PNG and a page"),
        ("all", everything, "all tables and figures on one page, with what --out holds"),
    ):
        each = command(commands, name, run, what, example=f"ghostnas paper {name} --out paper")
        each.add_argument("--out", type=Path, required=True, metavar="DIR")
        each.add_argument("--target", default="arm", help="whose table predicts latencies (arm)")
        each.add_argument(
            "--run",
            dest="runs",
            action="append",
            default=[],
            type=Path,
            metavar="DIR",
            help="a training on ImageNet whose accuracy is marked in figures 6 and 7",
        )
        _add_pictured(each)
    study = command(
        commands,
        "seeds",
        seeds,
        "what the random seed alone does",
        how_to_resume,
        example="ghostnas paper seeds --data cifar10:data --seeds 30 --out paper",
        then=lambda result: "ghostnas paper all --out paper",
    )
    study.add_argument("--out", type=Path, required=True, metavar="DIR")
    study.add_argument("--network", default="resnet9", metavar="NAME", help="(resnet9)")
    study.add_argument("--body", type=Path, metavar="FILE", help="weights of all but the head")
    _add_training(study, seeds=30, recipe="cifar-seeds")


def _add_detection(parser: ArgumentParser) -> None:
    """Table 8's short training, which needs torchvision."""
    parser.add_argument(
        "--train", action="store_true", help="train RetinaNet and Faster R-CNN a few steps"
    )
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="in COCO's format")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="that --annotations names")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of the backbone")
    parser.add_argument("--width", type=width, metavar="A", help="of the backbone (1.1)")
    parser.add_argument("--steps", type=positive, default=60, metavar="N", help="(60)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _add_pictured(parser: ArgumentParser) -> None:
    """Whose feature maps are looked at."""
    parser.add_argument("--image", type=Path, metavar="FILE", help="(a made picture)")
    parser.add_argument("--network", metavar="NAME", help="such as resnet50 (ghost-vgg16)")
    parser.add_argument("--width", type=width, default=1.0, metavar="A", help="(1.0)")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="of --network: of this project, or torchvision's of ResNet-50",
    )


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
