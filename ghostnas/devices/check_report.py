"""The page of a table's check: its predictions beside what was measured on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas.devices.table_build import MeasuredNetwork
from ghostnas.files import write_whole
from ghostnas.latency import report
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import Table
from ghostnas.pages import page
from ghostnas.pages.page import shell

TEMPLATES = Path(__file__).parent / "templates"


def place(table: Path) -> Path:
    """Where the page of a table's check is: beside the table."""
    return table.with_suffix(".check.html")


def write(
    path: Path, table: Table, measured: Sequence[MeasuredNetwork], found: Mapping[str, Any]
) -> None:
    """Write the page of a check.

    Args:
        path: the table's.
        found: as `ghostnas.devices.table_check.check` returns it.
    """
    predictor = Predictor(table)
    rows = []
    for each in measured:
        predicted = predictor.predict(each.arch)
        rows.append(
            {
                "name": each.arch.id,
                "predicted": predicted.latency_ms,
                "predicted_low": predicted.low_ms,
                "predicted_high": predicted.high_ms,
                "measured": each.timing.median_ms,
                "low": each.timing.p10_ms,
                "high": each.timing.p90_ms,
            }
        )
    values = {
        "title": f"Check of the latency table {table.name}",
        "description": f"Predicted against measured latency of {len(rows)} networks.",
        "table": table.name,
        "found": found,
        "origin": report.origin(table),
        "command": shell(["ghostnas", "latency", "check", "--target", str(path)]),
    }
    figures = [report.agreement(rows, "networks")]
    made = page.render(TEMPLATES, "check.html.j2", values, figures=figures)
    write_whole(place(path), made.encode())
