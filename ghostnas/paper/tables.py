"""Tables 1 and 3 to 8 of the GhostNet paper, counted: the printed value, ours, the difference.

Trains nothing: an accuracy of ours is None here, and shown as untrained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ghostnas.errors import InputError, did_you_mean
from ghostnas.ir import cost
from ghostnas.ir.graph import Graph
from ghostnas.latency.layers import layers
from ghostnas.networks import zoo
from ghostnas.paper import printed
from ghostnas.paper.printed import Printed
from ghostnas.paper.subjects import Subject, graph_of

TITLES = {
    "table1": "GhostNet's architecture",
    "table2": "MSE of a d x d filter between two feature maps (in thousandths)",
    "table3": "Ghost-VGG-16 on CIFAR-10 by d, s = 2",
    "table4": "Ghost-VGG-16 on CIFAR-10 by s, d = 3",
    "table5": "Compressed VGG-16 and ResNet-56 on CIFAR-10",
    "table6": "Compressed ResNet-50 on ImageNet",
    "table7": "Small networks on ImageNet",
    "table8": "Detection on COCO",
}
COUNTED = {
    "table3": printed.TABLE3,
    "table4": printed.TABLE4,
    "table5": printed.TABLE5,
    "table6": printed.TABLE6,
    "table7": printed.TABLE7,
}
SMALL = ("table3", "table4", "table5")  # of CIFAR-10


def check(name: str) -> None:
    """Raises:
    InputError: there is no such table.
    """
    if name not in TITLES:
        raise InputError(
            f"unknown table {name!r}; known: {', '.join(TITLES)}{did_you_mean(name, TITLES)}"
        )


def counted(name: str) -> dict[str, Any]:
    """A table's rows as JSON types. Table 2 has no counts: there are its printed values alone.

    Raises:
        InputError: there is no such table.
    """
    check(name)
    if name == "table1":
        rows = _table1()
    elif name == "table2":
        rows = [
            {"pair": pair, "printed": {str(d): mse for d, mse in by_d.items()}}
            for pair, by_d in printed.TABLE2.items()
        ]
    elif name == "table8":
        rows = _table8()
    else:
        resolution, classes = (32, 10) if name in SMALL else (224, 1000)
        rows = [_row(each, resolution, classes) for each in COUNTED[name]]
    return {"table": name, "title": TITLES[name], "rows": rows}


def figure(text: str | None, ours: int | None) -> dict[str, Any] | None:
    """A printed number of millions beside a count: they agree if they differ by less than one unit
    of the last printed digit, as some printed numbers are rounded and others cut off.
    """
    if text is None and ours is None:
        return None
    found: dict[str, Any] = {"printed": text, "ours": ours, "difference": None, "agrees": None}
    if text is not None and ours is not None:
        digits = len(text.partition(".")[2])
        unit = 10.0**-digits
        if not digits and text.endswith("00"):
            unit = 100.0  # printed as a tenth of a billion
        difference = ours / 1e6 - float(text)
        found |= {"difference": round(difference, 4), "agrees": abs(difference) < unit}
    return found


def _row(row: Printed, resolution: int, classes: int) -> dict[str, Any]:
    count = None
    if row.subject is not None:
        count = cost.count(graph_of(row.subject, resolution, classes))
    return {
        "network": row.label,
        "params": figure(row.params, count.params if count else None),
        "macs": figure(row.macs, count.macs if count else None),
        "top1": {"printed": row.top1, "ours": None},
        "top5": {"printed": row.top5, "ours": None},
        "ours": row.subject is not None,
        "note": row.note,
    }


def _table1() -> list[dict[str, Any]]:
    """Each printed row beside that of our GhostNet 1.0x at its place, and what it costs."""
    rows = []
    for printed_row, ours in zip(printed.TABLE1, layers(zoo.named("ghostnet")), strict=True):
        names = ("operator", "size", "channels", "expansion", "out", "se", "stride")
        said = {name: getattr(printed_row, name) for name in names}
        channels, size, _ = ours.in_shape
        about = {
            "operator": ours.operator,
            "size": size,
            "channels": channels,
            "expansion": ours.expansion,
            "out": ours.out_channels,
            "se": ours.attention == "SE",
            "stride": ours.stride,
        }
        rows.append(
            {
                "printed": said,
                "ours": about,
                "agrees": said == about,
                "params": ours.params,
                "macs": ours.macs,
            }
        )
    return rows


def backbone_of(subject: Subject, resolution: int = 224) -> Graph:
    """A classifier's graph without what follows its global pool, which no detector has."""
    from ghostnas.ir.graph import GlobalPool

    graph = graph_of(subject, resolution, 1000)
    readers = graph.consumers()
    last = [
        index
        for index, node in enumerate(graph.nodes)
        if isinstance(node.op, GlobalPool)
        and not any(len(graph.nodes[at].inputs) > 1 for at in _after(readers, index))
    ][-1]
    return Graph(graph.nodes[:last])


def _after(readers: list[list[int]], index: int) -> set[int]:
    """All nodes that depend on one."""
    found: set[int] = set()
    waiting = [index]
    while waiting:
        for reader in readers[waiting.pop()]:
            if reader not in found:
                found.add(reader)
                waiting.append(reader)
    return found


def _table8() -> list[dict[str, Any]]:
    rows = []
    for row in printed.TABLE8:
        whole = cost.count(graph_of(row.subject, 224, 1000)).macs
        body = cost.count(backbone_of(row.subject)).macs
        # Table 8 prints the whole classifiers' FLOPs of the MobileNets, as in table 7.
        of_body = row.subject.network == "ghostnet"
        rows.append(
            {
                "framework": row.framework,
                "backbone": row.backbone,
                "macs": figure(row.macs, body if of_body else whole),
                "body_macs": body,
                "classifier_macs": whole,
                "map": {"printed": row.map, "ours": None},
                "counted": "backbone" if of_body else "whole classifier",
            }
        )
    return rows


def text(found: Mapping[str, Any]) -> str:
    """A counted table for a terminal."""
    name = found["table"]
    head = f"Table {name.removeprefix('table')}: {found['title']}"
    own = ", ours below" if found.get("trained") else ", ours untrained"
    if name == "table1":
        lines = [
            f"{'as printed' if row['agrees'] else 'DIFFERS':10} {row['ours']['operator']:12} "
            f"{row['ours']['size']:4}x{row['ours']['channels']:<5} "
            f"{row['ours']['expansion'] or '-'!s:>5} {row['ours']['out'] or '-'!s:>5} "
            f"{'SE' if row['ours']['se'] else '-':>3} {row['ours']['stride'] or '-'!s:>2} "
            f"{row['macs'] / 1e6:8.2f} MFLOPs {row['params']:>10,} parameters"
            for row in found["rows"]
        ]
    elif name == "table2":
        lines = [
            f"{row['pair']:12} "
            + ", ".join(f"d = {d}: {mse:.1f}" for d, mse in row["printed"].items())
            for row in found["rows"]
        ]
        head += ", as printed; --image, --network and --weights give ours"
    elif name == "table8":
        lines = [
            f"{row['framework']:13} {row['backbone']:17} {_figure(row['macs'])} "
            f"({row['counted']}), mAP printed {row['map']['printed']}, ours untrained"
            for row in found["rows"]
        ]
    else:
        lines = [
            f"{row['network']:25} weights {_figure(row['params'])}, FLOPs {_figure(row['macs'])}, "
            f"top-1 printed {row['top1']['printed'] or '-'}" + (own if row["ours"] else "")
            for row in found["rows"]
        ]
    return "\n".join([head, *lines])


def _figure(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"{'-':>33}"
    said, ours = found["printed"] or "-", found["ours"]
    if ours is None:
        return f"{said:>6} M, not described here  "
    mark = "" if found["agrees"] else " *"
    return f"{said:>6} M, ours {ours / 1e6:9.3f} M{mark:2}"
