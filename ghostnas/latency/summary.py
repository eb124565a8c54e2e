"""A network in a few lines: its counts, its predicted latency and where the time goes."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ghostnas.ir import cost
from ghostnas.ir.graph import Graph
from ghostnas.latency import table
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.latency.predictor import CONFIDENCE, Predictor
from ghostnas.networks.arch import Arch, lower, lower_part, parts


def describe(
    network: Arch | Graph, target: str | None, confidence: float | None = None, name: str = ""
) -> dict[str, Any]:
    """Counts of a network and, for a target, its latency with the range it may lie in.

    Bytes are those of the target's dtype. `name` stands for the id of a graph, which has none.
    """
    known = None if target is None else table.load(target)
    graph = lower(network) if isinstance(network, Arch) else network
    counted = cost.count(graph, known.origin.dtype if known else "fp32")
    described: dict[str, Any] = {
        "id": network.id if isinstance(network, Arch) else name,
        **dataclasses.asdict(counted),
        "resolution": graph.input_shape[1],
    }
    if known is not None:
        confidence = confidence or CONFIDENCE
        predicted = Predictor(known, confidence).predict(network)
        described |= {
            "target": target,
            "dtype": known.origin.dtype,
            "threads": known.origin.threads,
            "latency_ms": predicted.latency_ms,
            "latency_low_ms": predicted.low_ms,
            "latency_high_ms": predicted.high_ms,
            "confidence": confidence if predicted.calibrated else None,
            "missing_ops": [str(signature) for signature in predicted.interpolated],
        }
    return described


def where(network: Arch | Graph, target: str) -> list[dict[str, Any]]:
    """Where a network's time goes on a target: a row for each stage and kind of op, in order.

    A table's correction, which is of the whole, is shared out in proportion. The stage is
    ``stem``, ``stage 1`` and so on, ``head``, or empty for a graph, which has none. A row's range,
    ``low_ms`` to ``high_ms``, is for errors of its ops that all lie on one side.
    """
    predictor = Predictor(table.load(target))
    rows: dict[tuple[str, str], list[float]] = {}
    for stage, graph in _stages(network):
        for op in signatures(graph):
            row = rows.setdefault((stage, kind_name(op)), [0, 0.0, 0.0])
            cost = predictor.costs.of_op(op)
            row[0] += 1
            row[1] += cost.latency_ms
            row[2] += cost.latency_ms * cost.error
    whole = predictor.predict(network).latency_ms
    share = whole / sum(ms for _, ms, _ in rows.values())
    return [
        {
            "stage": stage,
            "kind": kind,
            "ops": int(ops),
            "latency_ms": share * ms,
            "low_ms": share * max(0.0, ms - error),
            "high_ms": share * (ms + error),
        }
        for (stage, kind), (ops, ms, error) in rows.items()
    ]


def kind_name(op: OpSignature) -> str:
    """What an op is called among the kinds: ``conv 3x3``, ``depthwise 5x5``, ``add``."""
    return f"{op.op} {op.kernel}x{op.kernel}" if op.kernel else op.op


def _stages(network: Arch | Graph) -> Iterator[tuple[str, Graph]]:
    if isinstance(network, Graph):
        yield "", network
        return
    stem, *blocks, head = parts(network)
    numbers = [f"stage {at}" for at, stage in enumerate(network.stages, 1) for _ in stage.blocks]
    yield "stem", lower_part(stem)
    for number, block in zip(numbers, blocks, strict=True):
        yield number, lower_part(block)
    yield "head", lower_part(head)


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
            f"{described['latency_ms']:.2f} ms on {_setting(described)} "
            f"({described['latency_low_ms']:.2f} to {described['latency_high_ms']:.2f}, "
            f"{f'{100 * confidence:g} %' if confidence else 'not calibrated'})"
        )
        if missing := described["missing_ops"]:
            lines.append(f"{len(missing)} ops are not in the table and were interpolated")
    return "\n".join(lines)


def where_text(described: Mapping[str, Any]) -> str:
    """A description with a table of where the time goes; of two networks, beside each other."""
    networks = [described, *([described["compared"]] if "compared" in described else [])]
    lines = [text(each) for each in networks]
    for title, key in (("stage", "stage"), ("kind of op", "kind")):
        totals = [_totals(each["where"], key) for each in networks]
        names = list(dict.fromkeys(name for total in totals for name in total))
        if names == [""]:
            continue
        heads = "".join(f"{'ms':>10} {'share':>6} {'ops':>5}" for _ in networks)
        lines += ["", f"{title:16}{heads}"]
        for name in names:
            cells = ""
            for total, each in zip(totals, networks, strict=True):
                ms, ops = total.get(name, (0.0, 0))
                cells += f"{ms:10.3f} {100 * ms / each['latency_ms']:4.1f} % {ops:4}"
            lines.append(f"{name:16}{cells}")
    return "\n".join(lines)


def where_csv(described: Mapping[str, Any]) -> str:
    """Where the time goes, as CSV: one row for each network, stage and kind of op."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("network", "target", "stage", "kind", "ops", "latency_ms"))
    for each in (described, *([described["compared"]] if "compared" in described else [])):
        for row in each["where"]:
            cells = (row["stage"], row["kind"], row["ops"], f"{row['latency_ms']:.6g}")
            rows.writerow((each["id"], each["target"], *cells))
    return out.getvalue()


def _totals(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, tuple[float, int]]:
    totals: dict[str, tuple[float, int]] = {}
    for row in rows:
        ms, ops = totals.get(row[key], (0.0, 0))
        totals[row[key]] = (ms + row["latency_ms"], ops + row["ops"])
    return totals


def _setting(described: Mapping[str, Any]) -> str:
    threads = described["threads"]
    several = f", {threads} threads" if threads > 1 else ""
    return f"{described['target']}{several}"
