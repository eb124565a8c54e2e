"""From a budget to files for a phone: a search, a full training of its best network, int8 files.

The defaults take minutes on drawn images; name your own data and a longer recipe for real use.

    python examples/search_and_export.py --data cifar10:data/cifar10 --recipe cifar-short
"""

import argparse
from pathlib import Path

import ghostnas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="arm")
    parser.add_argument("--budget", default="10MFLOPs")
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--space", default="ghostnet")
    parser.add_argument("--proxy", default="quick", help="recipe of the search's short trainings")
    parser.add_argument("--recipe", default="quick", help="recipe of the full training")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    args = parser.parse_args()
    found = ghostnas.search(
        target=args.target,
        budget=args.budget,
        deploy="data",  # the network at the size of the data's own images
        data=args.data,
        space=args.space,
        recipe=args.proxy,
        trials=args.trials,
        finalists=2,
        seeds=2,
        out=args.out / "search",
        progress=print,
    )
    best = found["best"]
    print(f"best: {best['name']}, {best['macs'] / 1e6:.1f} MFLOPs, {best['latency_ms']:.2f} ms")
    ghostnas.train(
        str(args.out / "search"),
        data=args.data,
        recipe=args.recipe,
        out=args.out / "full",
        progress=print,
    )
    files = ghostnas.export(
        str(args.out / "full"),
        dtype="fp32,int8",
        data=args.data,
        target=args.target,
        out=args.out / "files",
        progress=print,
    )
    for file in files["files"]:
        print(f"{file['file']}: {file['accuracy']['top1']:.1%} of the test images")


if __name__ == "__main__":
    main()
