"""A network in a few lines: its counts and its predicted latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ghostnas.ir import cost
from ghostnas.ir.graph import Graph
from ghostnas.latency import table
from ghostnas.latency.predictor import CONFIDENCE, Predictor
from ghostnas.networks.arch import Arch, graph_id, lower


def describe(
    network: Arch | Graph, target: str | None, confidence: float | None = None
) -> dict[str, Any]:
    """Counts of a network and, for a target, its latency with the range it may lie in."""
    graph = lower(network) if isinstance(network, Arch) else network
    described: dict[str, Any] = {"id": graph_id(graph), **dataclasses.asdict(cost.count(graph))}
    described["resolution"] = graph.input_shape[1]
    if target is not None:
        confidence = confidence or CONFIDENCE
        predicted = Predictor(table.load(target), confidence).predict(network)
        described |= {
            "target": target,
            "latency_ms": predicted.latency_ms,
            "latency_low_ms": predicted.low_ms,
            "latency_high_ms": predicted.high_ms,
            "confidence": confidence if predicted.calibrated else None,
            "missing_ops": [str(signature) for signature in predicted.interpolated],
        }
    return described


def text(described: Mapping[str, Any]) -> str:
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
