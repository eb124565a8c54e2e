"""Latency tables: what each op of a network takes on one device setting, and their files.

A table is measured by `ghostnas.measure` or computed elsewhere; nothing here knows a device.
"""

from __future__ import annotations

import io
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from ghostnas.deploy import deploy
from ghostnas.errors import InputError, MissingOpError
from ghostnas.files import shipped, toml_value, write_whole
from ghostnas.graph import (
    Activation,
    Add,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Narrow,
    Nonlinearity,
)

FORMAT = 1
NONLINEARITIES = get_args(Nonlinearity)
ACTIVATIONS = ("none", *NONLINEARITIES)
OPS = (
    *("conv", "depthwise", "dense", "add", "multiply", "concat", "narrow", "pool", "flatten"),
    *NONLINEARITIES,
)
WANTED = {str: "text", int: "a whole number", float: "a number from 0 to 1"}


class OpSignature(NamedTuple):
    """What decides an op's latency. A convolution and the PAD before it are one op.

    `op` is ``conv``, ``depthwise``, ``dense``, ``add``, ``multiply``, ``concat``, ``narrow``,
    ``pool``, ``flatten`` or an activation's name. `height` and `width` are of the first input,
    1 for vectors; `kernel` and `stride` are 0 where there are none.
    """

    op: str
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    activation: str

    def __str__(self) -> str:
        size = f"{self.height}x{self.width}x{self.in_channels}"
        kernel = f" k{self.kernel} s{self.stride}" if self.kernel else ""
        return f"{self.op} {size} -> {self.out_channels}{kernel} {self.activation}"


class Timing(NamedTuple):
    """Milliseconds of one op: median, 10th and 90th percentile, over `runs` runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a table comes from. Tables that differ in any of this are not mixed.

    `method` is ``measured`` or ``emulated, not measured``; `op_error` is the share by which the
    method itself may be off on any op (0.1 for 10 %), as far as it is known.
    """

    device: str
    soc: str
    core: str
    clock_mhz: int
    threads: int
    runtime: str
    delegate: str
    dtype: str
    method: str
    op_error: float
    date: str
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Op latencies of one device setting."""

    name: str
    origin: Origin
    rows: Mapping[OpSignature, Timing]


def signatures(graph: Graph) -> list[OpSignature]:
    """One signature for each op that runs, in order; `graph` is deployed first if it is not."""
    deployed = deploy(graph)
    found = []
    for node in deployed.nodes:
        if isinstance(node.op, Input):
            continue
        shapes = deployed.input_shapes(node)
        channels, height, width = (*shapes[0], 1, 1)[:3]
        out = node.shape[0]
        op, kernel, stride, activation = node.op, 0, 0, "none"
        match op:
            case Conv():
                if op.groups > 1 and not op.depthwise:
                    raise MissingOpError(f"{node.name}: grouped convolutions have no signature yet")
                kind = "depthwise" if op.depthwise else "conv"
                kernel, stride, activation = op.kernel, op.stride, op.activation
            case Dense():
                kind, activation = "dense", op.activation
            case Add():
                kind, activation = "add", op.activation
            case Activation():
                kind = op.kind
            case Multiply() | Concat() | Narrow() | Flatten():
                kind = type(op).__name__.lower()
            case GlobalPool():
                kind = "pool"
            case _:
                raise MissingOpError(f"{node.name}: {op} has no signature")
        found.append(OpSignature(kind, height, width, channels, out, kernel, stride, activation))
    return found


def load(name: str) -> Table:
    """The table of a target, by its name, or the table in a .csv file, by its path.

    Raises:
        InputError: there is no such target, or its file is damaged; the line is named.
    """
    path = Path(name)
    if path.suffix == ".csv":
        return parse(_read(path), path.stem, str(path))
    known = targets()
    if name not in known:
        raise InputError(
            f"unknown target {name!r}; known: {', '.join(known)}, or the path of a table's .csv"
        )
    path = shipped("latency_tables") / f"{known[name]}.csv"
    return parse(_read(path), known[name], str(path))


def targets() -> dict[str, str]:
    """Every target's name and that of its table: the tables themselves, and other names."""
    folder = shipped("latency_tables")
    tables = {path.stem: path.stem for path in sorted(folder.glob("*.csv"))}
    aliases = tomllib.loads((folder / "targets.toml").read_text(encoding="utf-8"))
    return {**tables, **{str(name): str(table) for name, table in aliases.items()}}


def parse(text: str, name: str, where: str) -> Table:
    """The table of a file's text; `where` stands before each error.

    Raises:
        InputError: as `load`.
    """
    lines = text.splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    origin = _parse_origin("\n".join(comments), where)
    body = [(at, line) for at, line in enumerate(lines, 1) if line and not line.startswith("#")]
    header = ",".join((*OpSignature._fields, *Timing._fields))
    if not body or body[0][1] != header:
        raise InputError(f"{where}:{body[0][0] if body else 1}: the columns must be {header}")
    rows: dict[OpSignature, Timing] = {}
    for at, line in body[1:]:
        signature, timing = _parse_row(line, f"{where}:{at}")
        if signature in rows:
            raise InputError(f"{where}:{at}: {signature} stands there a second time")
        rows[signature] = timing
    declared = origin.pop("rows", None)
    if declared != len(rows):
        raise InputError(f"{where}: says it has {declared} rows but has {len(rows)}; is it whole?")
    return Table(name=name, origin=Origin(**origin), rows=rows)


def to_text(table: Table) -> str:
    """The file of a table: the origin as TOML in comments, then a row an op, sorted."""
    out = io.StringIO()
    out.write(f"# format = {FORMAT}\n# rows = {len(table.rows)}\n")
    for key in get_type_hints(Origin):
        value = getattr(table.origin, key)
        out.write(f"# {key} = {toml_value(value)}\n")
    out.write(",".join((*OpSignature._fields, *Timing._fields)) + "\n")
    for signature in sorted(table.rows):
        timing = table.rows[signature]
        values = [f"{ms:.6g}" for ms in timing[:3]]
        out.write(",".join((*map(str, signature), *values, str(timing.runs))) + "\n")
    return out.getvalue()


def save(table: Table, path: Path) -> None:
    """Write the table's file whole or not at all."""
    write_whole(path, to_text(table).encode())


def _parse_origin(text: str, where: str) -> dict[str, Any]:
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: the origin in the comments is not TOML: {error}") from error
    if fields.pop("format", None) != FORMAT:
        raise InputError(f"{where}: not a latency table of format {FORMAT}")
    hints = {**get_type_hints(Origin), "rows": int}
    for key, value in fields.items():
        if key not in hints:
            raise InputError(f"{where}: unknown key {key!r} in the origin")
        if type(value) is not hints[key] or (key == "op_error" and not 0 <= value <= 1):
            raise InputError(f"{where}: {key} in the origin must be {WANTED[hints[key]]}")
    if missing := sorted(set(hints) - set(fields) - {"notes"}):
        raise InputError(f"{where}: the origin lacks {', '.join(missing)}")
    return fields


def _parse_row(line: str, where: str) -> tuple[OpSignature, Timing]:
    cells = line.split(",")
    columns = len(OpSignature._fields) + len(Timing._fields)
    if len(cells) != columns:
        raise InputError(f"{where}: has {len(cells)} columns, needs {columns}")
    try:
        signature = OpSignature(cells[0], *map(int, cells[1:7]), cells[7])  # type: ignore[call-arg, arg-type]
        timing = Timing(*map(float, cells[8:11]), int(cells[11]))  # type: ignore[call-arg, arg-type]
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if signature.op not in OPS or signature.activation not in ACTIVATIONS:
        raise InputError(f"{where}: {signature.op} {signature.activation} is no op that is known")
    if min(signature[1:5]) < 1 or min(signature[5:7]) < 0 or timing.runs < 1:
        raise InputError(f"{where}: sizes, channels and runs must be at least 1")
    if not 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms < float("inf"):
        raise InputError(f"{where}: needs 0 < p10_ms <= median_ms <= p90_ms")
    return signature, timing


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
