"""Counts of ops on an emulated core, as a file: costs are fitted to it without the emulator."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import get_type_hints

from ghostnas.devices.emulator import Counts
from ghostnas.errors import InputError
from ghostnas.files import read_text, write_whole
from ghostnas.latency.op_signature import OpSignature

COLUMNS = (*OpSignature._fields, *(field.name for field in dataclasses.fields(Counts)))


def save(counts: Mapping[OpSignature, Counts], path: Path) -> None:
    """Write the file whole or not at all, sorted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for op in sorted(counts):
        values = dataclasses.asdict(counts[op]).values()
        writer.writerow([*op, *(f"{v:.10g}" if isinstance(v, float) else v for v in values)])
    write_whole(path, out.getvalue().encode())


def load(path: Path) -> dict[OpSignature, Counts]:
    """The counts of a file.

    Raises:
        InputError: there is no such file, or a line is damaged; it is named.
    """
    text = read_text(path)
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise InputError(f"{path}:1: the columns must be {','.join(COLUMNS)}")
    kinds = {**get_type_hints(OpSignature), **get_type_hints(Counts)}
    found = {}
    for row in rows:
        try:
            if None in row:
                raise ValueError("too many columns")
            values = {name: kinds[name](row[name]) for name in COLUMNS}
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}:{rows.line_num}: {error}") from error
        op = OpSignature(**{name: values.pop(name) for name in OpSignature._fields})
        found[op] = Counts(**values)
    return found
