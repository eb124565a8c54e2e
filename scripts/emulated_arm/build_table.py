"""The latency table of an emulated ARM core: every op through `emulate.py`, cycles to milliseconds.

    scripts/emulated_arm/setup
    python scripts/emulated_arm/build_table.py --ops 4000 --out latency_tables/cortex-a76.csv

An op takes its cycles at the core's clock, and MISS_NS for each line that it must fetch from
memory: its weights, which are cold when their turn comes, and its maps only where they are too
large for the last cache. It is deterministic and was fitted to nothing. Against it speak: caches
and prefetching of a real chip, its clock under load, and everything that is not a core.

Ops that the file has already are kept, so that a table grows by what it lacks.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from pathlib import Path

import emulate

from ghostnas import latency, op_models, space
from ghostnas.errors import GhostnasError
from ghostnas.latency import Timing
from ghostnas.signature import OpSignature

CLOCK_MHZ = 2400  # Raspberry Pi 5
MISS_NS = 12.0  # what MobileNetV2 at two widths on a Pixel 4 leaves over for each miss
LAST_CACHE_BYTES = 2 << 20
LINE_BYTES = 64


def milliseconds(signature: OpSignature, cost: dict[str, float]) -> float:
    s, stride = signature, max(signature.stride, 1)
    outputs = -(-s.height // stride) * -(-s.width // stride) * s.out_channels
    map_bytes = 4 * (s.height * s.width * s.in_channels + outputs)
    warm_lines = map_bytes / LINE_BYTES if map_bytes <= LAST_CACHE_BYTES else 0.0
    misses = max(0.0, cost["l3_misses"] - warm_lines)
    return cost["cycles"] / (1e3 * CLOCK_MHZ) + 1e-6 * MISS_NS * misses


def time_ops(wanted: list[OpSignature], parts: Path) -> dict[OpSignature, Timing]:
    if not wanted:
        return {}
    with tempfile.TemporaryDirectory(prefix="ghostnas-ops-") as folder:
        models = [Path(folder) / f"{index:06}.tflite" for index in range(len(wanted))]
        for path, signature in zip(models, wanted, strict=True):
            path.write_bytes(op_models.op_model(signature))
        costs = emulate.emulate(parts, models)
    rows = {}
    for path, signature in zip(models, wanted, strict=True):
        ms = milliseconds(signature, costs[str(path)])
        rows[signature] = Timing(ms, ms, ms, 1)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--parts", type=Path, default=root / ".emulation")
    parser.add_argument("--space", default="ghostnet")
    parser.add_argument("--ops", type=int, default=4000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        wanted = op_models.ops_of(space.load(arguments.space), arguments.ops)
        rows = dict(latency.load(str(arguments.out)).rows) if arguments.out.exists() else {}
        rows |= time_ops([op for op in wanted if op not in rows], arguments.parts)
    except (GhostnasError, emulate.EmulationError) as error:
        print(f"build_table: {error}", file=sys.stderr)
        return 2
    origin = latency.Origin(
        device="emulated, Raspberry Pi 5 class",
        soc="none",
        core=emulate.CPU,
        clock_mhz=CLOCK_MHZ,
        governor="none",
        load=0.0,
        threads=1,
        runtime="LiteRT 1.4.0",
        delegate="XNNPACK",
        dtype="fp32",
        method="emulated, not measured",
        op_error=0.1,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        notes=f"QEMU block counts, llvm-mca {emulate.PIPELINE}, {MISS_NS:g} ns a cache miss; "
        "coarse: fitted to no device and checked against none yet",
    )
    latency.save(latency.Table(name=arguments.out.stem, origin=origin, rows=rows), arguments.out)
    print(f"{arguments.out}: {len(rows)} ops")
    return 0


if __name__ == "__main__":
    sys.exit(main())
