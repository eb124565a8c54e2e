"""Latency tables: what each op of a network takes on one device setting, and their files.

A table is measured by `ghostnas.devices.table_build` or computed elsewhere; nothing here knows a
device.
"""

from __future__ import annotations

import math
import re
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_type_hints

from ghostnas import records
from ghostnas.errors import InputError, did_you_mean
from ghostnas.files import read_text, shipped, toml_value, write_whole
from ghostnas.latency import targets as shipped_targets
from ghostnas.latency.cost_model import CostModel
from ghostnas.latency.op_signature import ACTIVATIONS, OPS, OpSignature
from ghostnas.latency.targets import FILE as TARGETS_FILE
from ghostnas.latency.targets import Target

R = TypeVar("R")

FORMAT = 2
CHECK_DIGITS = 100_000
TARGETS_DATE = "2026-11-28"  # when the shipped targets were fitted
SCORE_UNIT = 0.02  # of a correction's scores where all ops are known
# What two tables must share to be used as one: all of the origin but when and how busy it was.
SETTING = (
    *("device", "soc", "core", "clock_mhz", "governor", "threads", "runtime", "delegate"),
    *("dtype", "method"),
)
# What older tables say of it: names of cores and chips, of /proc/cpuinfo and of uname.
ARCHITECTURES = {
    "arm": re.compile(
        r"\b(cortex-|neoverse|kryo|exynos|snapdragon|tensor g|apple m\d|bcm2|rk3|"
        r"aarch64|arm64|armv\d|0x[0-9a-f]{2} 0x[0-9a-f]{3}\b)",
        re.IGNORECASE,
    ),
    "x86": re.compile(
        r"\b(intel|amd|xeon|epyc|ryzen|celeron|pentium|x86|i[3-6]86\b)", re.IGNORECASE
    ),
}


class Timing(NamedTuple):
    """Milliseconds of one op: median, 10th and 90th percentile, over `runs` runs."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


COLUMNS = ",".join((*OpSignature._fields, *Timing._fields, "check"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a table comes from. Tables that differ in any of `SETTING` are not mixed.

    Attributes:
        clock_mhz: of the cores it ran on, their highest; 0 where it cannot be read.
        governor: of the clock, as read when the measuring began.
        load: the device's load average when the measuring began.
        delegate: what ran the ops, ``XNNPACK``.
        dtype: ``fp32`` or ``int8``.
        method: ``measured``, ``emulated, not measured`` and the like.
        op_error: the share by which the method itself may be off on any op (0.1 for 10 %), as far
            as it is known.
        sentinel_ms: of the op that was timed again and again to see the device drift; 0 for none.
        architecture: of the machine, ``arm``, ``x86`` or as uname says; empty in older tables, see
            `architecture`.
    """

    device: str
    soc: str
    core: str
    clock_mhz: int
    governor: str
    load: float
    threads: int
    runtime: str
    delegate: str
    dtype: str
    method: str
    op_error: float
    date: str
    sentinel_ms: float = 0.0
    notes: str = ""
    architecture: str = ""


class ModelTiming(NamedTuple):
    """A whole model's timing, or why it was refused, on a device that `origin` describes.

    `memory_bytes` is by how much the process that ran it grew at its peak; None where not told.
    """

    timing: Timing | str
    origin: Origin
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """From the sum over a network's ops to the network, and how far that is to be trusted.

    A network takes ``scale * sum + per_op_ms * ops + per_megabyte_ms * megabytes of weights``.

    Attributes:
        per_op_ms: negative where an op alone pays for a call that a network makes once.
        networks: how many were measured whole.
        scores: for each, in ascending order, how far its latency lies from the prediction of a
            fit that it took no part in, in units of the prediction's own uncertainty.
    """

    scale: float
    per_op_ms: float
    per_megabyte_ms: float
    networks: int
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extent:
    """What a file's header says of the file: how many rows follow, and its own check digits."""

    rows: int
    check: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Op latencies of one device setting, and their correction if networks were measured too.

    `model` has a latency for every op that is not in `rows`; a table without one interpolates.
    """

    name: str
    origin: Origin
    rows: Mapping[OpSignature, Timing]
    correction: Correction | None = None
    model: CostModel | None = None


def setting(origin: Origin) -> dict[str, Any]:
    """What of an origin must be the same for tables to be mixed."""
    return {key: getattr(origin, key) for key in SETTING}


def difference(one: Origin, other: Origin) -> str:
    """The first part of the setting in which two origins differ, in words; empty if in none."""
    theirs = setting(other)
    for key, ours in setting(one).items():
        if ours != theirs[key]:
            return f"{key} is {ours!r} in one and {theirs[key]!r} in the other"
    return ""


def architecture(origin: Origin) -> str:
    """``arm``, ``x86`` or another architecture that an origin says or lets tell; empty if neither.

    Kernels are others on each, so that times of one say nothing of another.
    """
    if origin.architecture:
        return origin.architecture
    if origin.method.startswith("emulated"):  # there was never an emulator but of ARM cores
        return "arm"
    for told in (origin.core, origin.soc, origin.device):
        found = [name for name, names in ARCHITECTURES.items() if names.search(told)]
        if len(found) == 1:
            return found[0]
    return ""


def join(tables: Sequence[Table]) -> Table:
    """Tables of one device setting as one; of an op that several have, the first one's row.

    Raises:
        InputError: they are of different settings; the difference is named.
    """
    first = tables[0]
    for other in tables[1:]:
        if differs := difference(first.origin, other.origin):
            raise InputError(f"tables {first.name} and {other.name} do not mix: {differs}")
    rows = {op: timing for table in reversed(tables) for op, timing in table.rows.items()}
    corrections = [table.correction for table in tables if table.correction]
    return replace(
        first,
        name="+".join(table.name for table in tables),
        rows=rows,
        correction=corrections[0] if corrections else None,
    )


def load(name: str) -> Table:
    """The table of a target, by its name, or the table in a .csv file, by its path.

    Several, with a ``+`` between them, are joined.

    Raises:
        InputError: there is no such target, its file is damaged (the line is named), or several do
            not mix.
    """
    path = Path(name)
    if "+" in name and not path.exists():
        return join([load(part) for part in name.split("+")])
    if path.suffix == ".csv":
        return parse(read_text(path), path.stem, str(path))
    known = targets()
    if name not in known:
        raise InputError(
            f"unknown target {name!r}: a name that `ghostnas latency list` prints, or the path of "
            f"a table's .csv{did_you_mean(name, known)}"
        )
    if known[name] in shipped_targets.targets():
        return from_target(shipped_targets.targets()[known[name]])
    path = shipped("latency_tables") / f"{known[name]}.csv"
    return parse(read_text(path), known[name], str(path))


def targets() -> dict[str, str]:
    """Every target's name and that of its table: the targets, shipped tables, and other names."""
    folder = shipped("latency_tables")
    tables = [path.stem for path in sorted(folder.glob("*.csv")) if path.name != TARGETS_FILE]
    names = {name: name for name in (*shipped_targets.targets(), *tables)}
    return {**names, **shipped_targets.aliases()}


def from_target(target: Target) -> Table:
    """The table of a shipped target: no rows, but a cost model."""
    correction = None
    if target.errors:
        scores = tuple(error / 1e3 / SCORE_UNIT for error in target.errors)
        correction = Correction(
            scale=1.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=len(scores), scores=scores
        )
    origin = Origin(
        device=target.device,
        soc=target.soc,
        core=target.core,
        clock_mhz=target.clock_mhz,
        governor="unknown",
        load=0.0,
        threads=target.threads,
        runtime="TFLite 2.10",
        delegate="XNNPACK" if target.dtype == "fp32" else "unknown",
        dtype=target.dtype,
        method=f"{target.source} {target.basis}",
        op_error=target.mape,
        date=TARGETS_DATE,
        architecture="arm",
    )
    return Table(
        name=target.name, origin=origin, rows={}, correction=correction, model=target.model
    )


def parse(text: str, name: str, where: str) -> Table:
    """The table of a file's text; `where` stands before each error.

    Raises:
        InputError: as `load`.
    """
    lines = text.replace("\r\n", "\n").split("\n")  # splitlines would break notes at U+2028 too
    header = [line for line in lines if line.startswith("#")]
    comments = "\n".join(line[1:].strip() for line in header)
    extent, origin, correction, model = _parse_header(comments, f"{where}:1")
    written = extent.check
    if written != _check(0, "\n".join(line for line in header if not line.startswith("# check"))):
        raise InputError(f"{where}:1: the header was changed after the table was written")
    body = [(at, line) for at, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not body or body[0][1] != COLUMNS:
        raise InputError(f"{where}:{body[0][0] if body else 1}: the columns must be {COLUMNS}")
    rows: dict[OpSignature, Timing] = {}
    check = written
    for at, line in body[1:]:
        signature, timing, written = _parse_row(line, f"{where}:{at}")
        if signature in rows:
            raise InputError(f"{where}:{at}: {signature} appears a second time")
        check = _check(check, line.rpartition(",")[0])
        if check != written:
            raise InputError(
                f"{where}:{at}: this row or the order of the rows was changed after the table was "
                "written"
            )
        rows[signature] = timing
    if extent.rows != len(rows):
        last = body[-1][0]
        raise InputError(f"{where}:{last}: the file ends with {len(rows)} of {extent.rows} rows")
    return Table(name=name, origin=origin, rows=rows, correction=correction, model=model)


def to_text(table: Table) -> str:
    """The file of a table: origin and correction as TOML in comments, then a row an op, sorted.

    Each row ends in check digits of itself and all before it.
    """
    header = [f"format = {FORMAT}", f"rows = {len(table.rows)}"]
    header += [line for line in _toml(table.origin, Origin) if line != 'architecture = ""']
    if table.correction:
        header += ["[correction]", *_toml(table.correction, Correction)]
    if table.model:
        header += ["[model]", *_toml(table.model, CostModel)]
    comments = "\n".join(f"# {line}" for line in header)
    check = _check(0, comments)
    comments = comments.replace("\n", f"\n# check = {check}\n", 1)
    lines = [comments, COLUMNS]
    for signature in sorted(table.rows):
        timing = table.rows[signature]
        values = [f"{ms:.6g}" for ms in timing[:3]]
        line = ",".join((*map(str, signature), *values, str(timing.runs)))
        check = _check(check, line)
        lines.append(f"{line},{check}")
    return "\n".join(lines) + "\n"


def save(table: Table, path: Path) -> None:
    """Write the table's file whole or not at all."""
    write_whole(path, to_text(table).encode())


def _parse_header(
    text: str, where: str
) -> tuple[_Extent, Origin, Correction | None, CostModel | None]:
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: the origin in the comments is not TOML: {error}") from error
    if fields.pop("format", None) != FORMAT:
        raise InputError(f"{where}: not a latency table of format {FORMAT}")
    said: dict[str, Any] = {key: fields.pop(key) for key in ("rows", "check") if key in fields}
    sections = {name: fields.pop(name) for name in ("correction", "model") if name in fields}
    origin = _record(Origin, fields, f"{where}: the origin")
    extent = _record(_Extent, said, f"{where}: the header")
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise InputError(f"{where}: {name} must be a table")
    correction = model = None
    if "correction" in sections:
        correction = _record(Correction, sections["correction"], f"{where}: the correction")
    if "model" in sections:
        model = _record(CostModel, sections["model"], f"{where}: the model")
    return extent, origin, correction, model


def _record(record: type[R], values: Mapping[str, object], where: str) -> R:
    try:
        found = records.from_table(record, values, whole="refused")
        for key, value in values.items():
            if isinstance(value, float) and math.isnan(value):
                raise records.refused(key, value, "a number")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return found


def _parse_row(line: str, where: str) -> tuple[OpSignature, Timing, int]:
    cells = line.split(",")
    columns = COLUMNS.count(",") + 1
    if len(cells) != columns:
        raise InputError(f"{where}: has {len(cells)} columns, needs {columns}")
    try:
        signature = OpSignature(cells[0], *map(int, cells[1:7]), cells[7])  # type: ignore[call-arg, arg-type]
        timing = Timing(*map(float, cells[8:11]), int(cells[11]))  # type: ignore[call-arg, arg-type]
        check = int(cells[12])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if signature.op not in OPS or signature.activation not in ACTIVATIONS:
        raise InputError(f"{where}: {signature.op} {signature.activation} is not a known op")
    if min(signature[1:5]) < 1 or min(signature[5:7]) < 0 or timing.runs < 1:
        raise InputError(f"{where}: sizes, channels and runs must be at least 1")
    if not 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms < float("inf"):
        raise InputError(f"{where}: needs 0 < p10_ms <= median_ms <= p90_ms")
    return signature, timing, check


def _check(before: int, text: str) -> int:
    """Digits that a change of the text, or of what stood before it, changes."""
    return zlib.crc32(text.encode(), before) % CHECK_DIGITS


def _toml(record: object, kind: type) -> list[str]:
    return [f"{key} = {toml_value(getattr(record, key))}" for key in get_type_hints(kind)]
