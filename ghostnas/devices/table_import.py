"""Tables measured elsewhere: benchmark_model's op profiles, and plain CSV."""

from __future__ import annotations

import csv
import datetime
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean
from typing import Any, get_type_hints

from ghostnas.devices import benchmark_model
from ghostnas.devices.benchmark_model import ProfiledOp
from ghostnas.errors import DeviceError, InputError
from ghostnas.ir.graph import Graph
from ghostnas.latency.op_signature import ACTIVATIONS, OPS, WINDOWED, OpSignature, signatures
from ghostnas.latency.table import Origin, Timing

WANTED = {str: "text", int: "a whole number", float: "a number of at least 0"}
# What benchmark_model calls the nodes of each op, in their order: TFLite's own kernels in capitals,
# then XNNPACK's, as LiteRT 2.3 and older versions name them. XNNPACK runs 1x1 convolutions as fully
# connected layers. A "*" marks nodes that may be missing.
NODES = {
    "conv": ("*PAD|Constant Pad", "CONV_2D|Convolution|Fully Connected"),
    "depthwise": ("*PAD|Constant Pad", "DEPTHWISE_CONV_2D|Convolution DWConv|Convolution"),
    "maxpool": ("MAX_POOL_2D|Max Pooling",),
    "strip": ("*PAD|Constant Pad", "DEPTHWISE_CONV_2D|Convolution DWConv|Convolution"),
    # Windows that do not overlap are written as a depthwise convolution.
    "avgpool": (
        "AVERAGE_POOL_2D|Average Pooling|DEPTHWISE_CONV_2D|Convolution DWConv|Convolution",
    ),
    "upsample": (
        "CONCATENATION|Copy|Concatenate",
        "DEPTH_TO_SPACE|Depth To Space",
        *("*STRIDED_SLICE|Slice", "*CONCATENATION|Copy|Concatenate") * 2,
    ),
    "channelconv": (
        "*RESHAPE|Static Reshape|Copy",
        "CONV_2D|Convolution",
        "*RESHAPE|Static Reshape|Copy",
    ),
    "pad": ("PAD|Constant Pad",),
    "dense": ("*Static Reshape|Copy", "FULLY_CONNECTED|Fully Connected"),
    "affine": ("MUL|Multiply|Binary Elementwise", "ADD|Add|Binary Elementwise"),
    "add": ("ADD|Add|Binary Elementwise",),
    "multiply": ("MUL|Multiply|Binary Elementwise",),
    "product": ("MUL|Multiply|Binary Elementwise",),
    "concat": ("*QUANTIZE|Convert", "CONCATENATION|Copy|Concatenate"),
    "narrow": ("SLICE|STRIDED_SLICE|Slice",),
    "pool": ("MEAN|AVERAGE_POOL_2D|Mean|Sum|Global Average Pooling|Average Pooling",),
    "flatten": ("RESHAPE|SQUEEZE|Static Reshape|Copy",),
    "relu": ("RELU|Clamp|Unary Elementwise",),
    "relu6": ("RELU6|Clamp|Unary Elementwise",),
    "hard_swish": ("HARD_SWISH|HardSwish|Unary Elementwise",),
    "hard_sigmoid": (
        "ADD|Add|Binary Elementwise",
        "*Clamp|Unary Elementwise",
        "MUL|Multiply|Binary Elementwise",
    ),
    "sigmoid": ("LOGISTIC|Sigmoid|Unary Elementwise",),
}
RELU_OF_A_SUM = (
    "*Clamp|Unary Elementwise"  # a node of its own in LiteRT 2.3, none in older versions
)
LEAST_MS = 0.0005  # what a profile shows as 0.000: it counts whole microseconds
INTEGERS = (*OpSignature._fields[1:-1], "runs")
COLUMNS = {
    **{column: (column, 1.0) for column in (*OpSignature._fields, *Timing._fields)},
    "ms": ("median_ms", 1.0),
    "us": ("median_ms", 1e-3),
    "median_us": ("median_ms", 1e-3),
    "p10_us": ("p10_ms", 1e-3),
    "p90_us": ("p90_ms", 1e-3),
}
NEEDED = ("device", "threads", "runtime", "delegate", "dtype")
UNSAID = {"soc": "unknown", "core": "unknown", "governor": "unknown", "clock_mhz": 0, "load": 0.0}


def from_profile(log: str, graph: Graph, where: str) -> dict[OpSignature, Timing]:
    """The ops of `graph` as benchmark_model's op profile of the whole network timed them.

    The nodes are matched in order with the ops of `graph`; no log has sizes, so they are not
    checked. For ops of one signature, the median is their mean time, p10 and p90 are the least and
    the greatest. `runs` takes the inferences as 1 if the log lacks their number. Hard sigmoids that
    the file has fused into convolutions get the least possible time.

    Args:
        graph: deployed first if it is not.
        where: begins each error.

    Raises:
        InputError: the log has no complete op profile, a delegate ran parts of the network as one
            node, or the nodes are not those of `graph`; the first that differs is named.
    """
    try:
        nodes = benchmark_model.parse_profile(log)
    except DeviceError as error:
        raise InputError(f"{where}: {error}") from error
    for number, node in enumerate(nodes, 1):
        _check_apart(node, f"{where}: node {number}")
    times_ms = defaultdict(list)
    for signature, ms in _align(nodes, signatures(graph), where):
        times_ms[signature].append(max(ms, LEAST_MS))
    inferences = _inferences(log)
    return {
        signature: Timing(
            min(max(fmean(each), min(each)), max(each)),  # a mean may be a rounding error outside
            min(each),
            max(each),
            inferences * len(each),
        )
        for signature, each in times_ms.items()
    }


def from_csv(text: str, where: str) -> dict[OpSignature, Timing]:
    """The rows of a CSV with a header, whose columns are those of `COLUMNS` in any order.

    It needs those of `OpSignature` and one of ``median_ms``, ``ms``, ``median_us`` and ``us``; p10
    and p90 default to the median, `runs` to 1. Blank lines and comments (#) are skipped.

    Raises:
        InputError: naming `where` and the line.
    """
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    rows = [
        (_cells(line, f"{where}:{at}"), f"{where}:{at}")
        for at, line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if len(rows) < 2:
        raise InputError(f"{where}: needs a line of column names and at least one row")
    header, at = rows[0]
    _check_header(header, at)
    found: dict[OpSignature, Timing] = {}
    for cells, at in rows[1:]:
        if len(cells) != len(header):
            raise InputError(f"{at}: has {len(cells)} columns, needs {len(header)}")
        signature, timing = _row(dict(zip(header, cells, strict=True)), at)
        if signature in found:
            raise InputError(f"{at}: {signature} appears a second time")
        found[signature] = timing
    return found


def origin_from_toml(text: str, where: str) -> Origin:
    """The origin of imported rows: a TOML file with the keys of `Origin`.

    It needs device, threads, runtime, delegate and dtype; the others default to unknown or zero,
    op_error to 0.05, date to today.

    Raises:
        InputError: it is not TOML, a key is missing or unknown, or a value is of the wrong kind.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: is not TOML: {error}") from error
    kinds = get_type_hints(Origin)
    for key, value in given.items():
        if key not in kinds:
            raise InputError(f"{where}: unknown key {key!r}; known: {', '.join(kinds)}")
        if kinds[key] is float and type(value) is int:
            given[key] = value = float(value)
        if type(value) is not kinds[key]:
            raise InputError(f"{where}: {key} must be {WANTED[kinds[key]]}")
        least = 1 if key == "threads" else 0
        if kinds[key] is not str and not least <= value < math.inf:
            raise InputError(f"{where}: {key} must be at least {least}")
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    imported = {"method": "imported", "op_error": 0.05, "date": date}
    fields: dict[str, Any] = {**UNSAID, **imported, **given}
    if missing := [key for key in NEEDED if key not in fields]:
        raise InputError(f"{where}: lacks {', '.join(missing)}")
    return Origin(**fields)


def _check_apart(node: ProfiledOp, where: str) -> None:
    kind = node.kind.removeprefix("Delegate/")
    if "delegate" in kind.lower():
        raise InputError(
            f"{where} is {kind}, many ops as one; profile with --enable_op_profiling=true and a "
            "benchmark_model of TensorFlow 2.9.1 or later, whose XNNPACK lists its ops one by one, "
            "or with --use_xnnpack=false"
        )
    if node.times_called != 1:
        raise InputError(
            f"{where}, {node.name}, stands for {node.times_called} calls per inference, which "
            "happens when a delegate runs the network in parts; profile with --use_xnnpack=false"
        )


def _align(
    nodes: Sequence[ProfiledOp], ops: Sequence[OpSignature], where: str
) -> Iterator[tuple[OpSignature, float]]:
    """Each op with the milliseconds of its nodes; a fused gate has none."""
    at = 0
    for op, following in zip_longest(ops, ops[1:]):
        end, missing = _count_off(nodes, at, op)
        if op.op == "hard_sigmoid":
            rest = _count_off(nodes, end, following)[1] if following and not missing else missing
            end, missing = (at, "") if rest else (end, missing)
        if missing:
            raise _mismatch(nodes, end, f"{missing} for {op}", where)
        yield op, sum(node.avg_ms for node in nodes[at:end])
        at = end
    if at < len(nodes):
        raise _mismatch(nodes, at, "no more", where)


def _count_off(nodes: Sequence[ProfiledOp], at: int, op: OpSignature) -> tuple[int, str]:
    """Where the op's nodes from `at` on end, and the kind that is missing there, or nothing."""
    for wanted in _wanted(op):
        names = wanted.removeprefix("*").split("|")
        if wanted.startswith("*"):
            while at < len(nodes) and _name(nodes[at]) in names:
                at += 1
        elif at < len(nodes) and _name(nodes[at]) in names:
            at += 1
        else:
            return at, names[0]
    return at, ""


def _wanted(op: OpSignature) -> tuple[str, ...]:
    rectified = op.op in ("add", "affine") and op.activation != "none"
    return (*NODES[op.op], RELU_OF_A_SUM) if rectified else NODES[op.op]


def _mismatch(nodes: Sequence[ProfiledOp], at: int, needed: str, where: str) -> InputError:
    found = f"the log ends after {at} nodes"
    if at < len(nodes):
        found = f"node {at + 1} of {len(nodes)} is {nodes[at].kind} in the log"
    return InputError(f"{where}: {found}, the network needs {needed}")


def _name(node: ProfiledOp) -> str:
    """The kind without the data types and the kernel, except for what marks a depthwise one."""
    kind = node.kind.removeprefix("Delegate/")
    if " (" not in kind:
        return kind.partition("/")[0]
    return kind.partition(" (")[0] + (" DWConv" if kind.endswith(" DWConv") else "")


def _inferences(log: str) -> int:
    try:
        return benchmark_model.parse(log).runs
    except DeviceError:
        return 1


def _cells(line: str, where: str) -> list[str]:
    try:
        return [
            cell.strip() for cell in next(csv.reader([line], strict=True, skipinitialspace=True))
        ]
    except csv.Error as error:
        raise InputError(f"{where}: {error}") from error


def _check_header(header: Sequence[str], where: str) -> None:
    if unknown := [column for column in header if column not in COLUMNS]:
        raise InputError(f"{where}: unknown column {unknown[0]!r}; known: {', '.join(COLUMNS)}")
    fields = [COLUMNS[column][0] for column in header]
    if twice := [field for field in fields if fields.count(field) > 1]:
        raise InputError(f"{where}: {twice[0]} is in two columns")
    if missing := [field for field in (*OpSignature._fields, "median_ms") if field not in fields]:
        raise InputError(f"{where}: lacks the column {missing[0]}")


def _row(cells: Mapping[str, str], where: str) -> tuple[OpSignature, Timing]:
    fields: dict[str, Any] = {}
    for column, cell in cells.items():
        field, scale = COLUMNS[column]
        try:
            if field in INTEGERS:
                fields[field] = int(cell)
            elif field in Timing._fields:
                fields[field] = float(cell) * scale
            else:
                fields[field] = cell
        except ValueError as error:
            raise InputError(f"{where}: {column} is {cell!r}, not a number") from error
    signature = OpSignature(*(fields[field] for field in OpSignature._fields))
    median_ms = fields["median_ms"]
    timing = Timing(
        median_ms,
        fields.get("p10_ms", median_ms),
        fields.get("p90_ms", median_ms),
        fields.get("runs", 1),
    )
    _check_row(signature, timing, where)
    return signature, timing


def _check_row(signature: OpSignature, timing: Timing, where: str) -> None:
    if signature.op not in OPS:
        raise InputError(f"{where}: unknown op {signature.op!r}; known: {', '.join(OPS)}")
    if signature.activation not in ACTIVATIONS:
        raise InputError(
            f"{where}: unknown activation {signature.activation!r}; known: {', '.join(ACTIVATIONS)}"
        )
    if min(signature[1:5]) < 1 or timing.runs < 1:
        raise InputError(f"{where}: sizes, channels and runs must be at least 1")
    windowed = signature.op in WINDOWED
    if any(size < 0 or (size > 0) != windowed for size in signature[5:7]):
        raise InputError(
            f"{where}: kernel and stride must be at least 1 for {', '.join(WINDOWED)}, else 0"
        )
    if not 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms < math.inf:
        raise InputError(f"{where}: needs 0 < p10_ms <= median_ms <= p90_ms")
