"""``ghostnas show``; ``ghostnas latency predict`` prints the same."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from ghostnas import api
from ghostnas.cli.options import Result, add_arch, add_confidence, command


def run(args: Namespace) -> Result:
    found = api.show(
        args.arch,
        target=args.target,
        width=args.width,
        resolution=args.resolution,
        confidence=args.confidence,
    )
    return found, to_text


def to_text(described: Mapping[str, Any]) -> str:
    """A description as text for people."""
    lines = [
        f"{described['id']} at {described['resolution']} px",
        f"{described['macs'] / 1e6:.1f} MFLOPs ({described['macs']:,} multiply-accumulates)",
        f"{described['params']:,} parameters, {described['model_bytes'] / 1e6:.1f} MB as .tflite",
        f"{described['peak_activation_bytes'] / 1e6:.2f} MB of activations at the peak",
    ]
    if "target" in described:
        confidence = described["confidence"]
        lines.append(
            f"{described['latency_ms']:.2f} ms on {described['target']} "
            f"({described['latency_low_ms']:.2f} to {described['latency_high_ms']:.2f}, "
            f"{f'{100 * confidence:g} %' if confidence else 'not calibrated'})"
        )
        if missing := described["missing_ops"]:
            lines.append(f"{len(missing)} ops are not in the table and were interpolated")
    return "\n".join(lines)


def add(subcommands: Any) -> None:
    show = command(subcommands, "show", run, "show a network's costs")
    add_arch(show)
    show.add_argument("--target", help="name of a latency table, to predict latency as well")
    add_confidence(show)
