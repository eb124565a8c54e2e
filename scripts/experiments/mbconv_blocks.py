"""How well a target predicts published latencies of MBConv blocks, with one scale per file.

A file is JSON: ``conv_{height}_{in}_{out}_{expansion}_{stride}_{activation}_{kernel}_{se|nose}`` to
milliseconds, as published at github.com/microsoft/nn-Meter (dev/hybrid-transformer, MIT): blocks
that run over and over, and find their weights in the caches. No fit has seen them.

    python mbconv_blocks.py pixel4_mbconv_blocks_ms.json pixel1_mbconv_blocks_ms.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from ghostnas.devices.table_check import agreement
from ghostnas.errors import GhostnasError
from ghostnas.ir.graph import Builder, Graph
from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks.blocks import MBConv, make_divisible


def block(key: str) -> Graph:
    """The block for a key; SE reduces its hidden channels fourfold."""
    fields = key.replace("hard_swish", "hswish").split("_")
    height, channels, out, expansion, stride = map(int, fields[1:6])
    hidden = channels * expansion
    graph = Builder((channels, height, height))
    MBConv(
        hidden_channels=hidden,
        out_channels=out,
        kernel=int(fields[7]),
        stride=stride,
        se_channels=make_divisible(hidden / 4, 8) if fields[8] == "se" else 0,
        activation="hard_swish",
    ).build(graph, 0, "block")
    return graph.build()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--target", default="pixel4-cpu1-fp32")
    args = parser.parse_args()
    try:
        tables = [json.loads(file.read_text()) for file in args.files]
        keys = sorted(key for key in tables[0] if key.startswith("conv_"))
        predictor = Predictor(table.load(args.target))
        predicted = np.array([predictor.predict(block(key)).latency_ms for key in keys])
    except (GhostnasError, OSError, ValueError) as error:
        print(f"mbconv_blocks: {error}", file=sys.stderr)
        return 2
    for file, published in zip(args.files, tables, strict=True):
        measured = np.array([published[key] for key in keys])
        scale = np.median(measured / predicted)
        found = agreement(scale * predicted, measured)
        print(
            f"{file.name}: {len(keys)} blocks, scale {scale:.3f}: mean error "
            f"{100 * found['mape']:.1f} %, within 10 %: {100 * found['within_10']:.0f} %, "
            f"Spearman {found['spearman']:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
