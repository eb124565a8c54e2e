"""How well emulated counts rank published latencies of MBConv blocks, with one scale per phone.

A file is JSON: ``conv_{height}_{in}_{out}_{expansion}_{stride}_{activation}_{kernel}_{se|nose}`` to
milliseconds, as published at github.com/microsoft/nn-Meter (dev/hybrid-transformer, MIT). Counts
are cached in the emulator's folder.

    scripts/emulated_arm/setup
    python mbconv_blocks.py pixel4_mbconv_blocks_ms.json pixel1_mbconv_blocks_ms.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from ghostnas.backends import tflite_writer
from ghostnas.devices import op_models, table_check
from ghostnas.devices.emulated import DEVICES, LINE_BYTES, features
from ghostnas.devices.emulator import Emulator
from ghostnas.errors import GhostnasError
from ghostnas.ir.graph import Builder, Graph
from ghostnas.latency.op_signature import OpSignature, signatures, weight_count
from ghostnas.networks.blocks import MBConv, make_divisible

ROOT = Path(__file__).resolve().parents[2]
COSTS_NS = DEVICES["pixel4-cpu1"].costs["fp32"].costs_ns
BATCH = 100


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
    parser.add_argument("--emulator", type=Path, default=ROOT / ".emulation")
    args = parser.parse_args()
    try:
        tables = [json.loads(file.read_text()) for file in args.files]
        keys = sorted(key for key in tables[0] if key.startswith("conv_"))
        ops = {key: signatures(block(key)) for key in keys}
        times = latencies(sorted(set().union(*ops.values())), Emulator("cortex-a76", args.emulator))
    except (GhostnasError, OSError, ValueError) as error:
        print(f"mbconv_blocks: {error}", file=sys.stderr)
        return 2
    predicted = np.array([sum(times[op] for op in ops[key]) for key in keys])
    for file, table in zip(args.files, tables, strict=True):
        measured = np.array([table[key] for key in keys])
        scale = np.median(measured / predicted)
        found = table_check.agreement(scale * predicted, measured)
        print(
            f"{file.name}: {len(keys)} blocks, scale {scale:.3f}: mean error "
            f"{100 * found['mape']:.1f} %, within 10 %: {100 * found['within_10']:.0f} %, "
            f"Spearman {found['spearman']:.4f}"
        )
    return 0


def latencies(ops: list[OpSignature], emulator: Emulator) -> dict[OpSignature, float]:
    """Milliseconds of each op on a Pixel 4's big core."""
    found = {}
    for at in range(0, len(ops), BATCH):
        chosen = ops[at : at + BATCH]
        models = [op_models.op_model(op) for op in chosen]
        for op, model, counts in zip(chosen, models, emulator.count(models), strict=True):
            inside = tflite_writer.inspect(model)
            lines = (weight_count(op) * 4 / LINE_BYTES, inside.map_bytes / LINE_BYTES)
            values = features("fp32", "", counts, *lines)
            found[op] = 1e-6 * sum(c * v for c, v in zip(COSTS_NS, values, strict=True))
        print(f"{at + len(chosen)} of {len(ops)} ops", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
