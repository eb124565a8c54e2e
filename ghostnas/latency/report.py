"""What pages say of latencies: predicted against measured, and where a table is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas.latency.table import Table
from ghostnas.pages import page
from ghostnas.pages.page import Figure, Key, specification

TEMPLATES = Path(__file__).parent / "templates"


def agreement(rows: Sequence[Mapping[str, Any]], what: str) -> Figure:
    """Measured over predicted milliseconds, with the line on which they agree.

    Args:
        rows: ``name``, ``measured`` with the ends ``low`` and ``high`` of its runs' spread, and
            ``predicted``, in ms; perhaps ``predicted_low`` and ``predicted_high``.
        what: is drawn: ``networks``.
    """
    shown = [
        {"predicted_low": row["predicted"], "predicted_high": row["predicted"], **row}
        for row in rows
    ]
    ends = [
        value
        for row in shown
        for value in (row["predicted_low"], row["predicted_high"], row["low"], row["high"])
    ]
    errors = [abs(row["predicted"] / row["measured"] - 1) for row in shown]
    mean = sum(errors) / len(errors)
    return Figure(
        name="agreement",
        title="Predicted against measured",
        caption=f"{len(shown)} {what}; on the line both agree. Vertical whiskers: from the 10th to "
        "the 90th percentile of the runs; horizontal ones: the prediction's interval. "
        f"The mean absolute error is {100 * mean:.1f} %.",
        alt=f"Scatter plot of measured against predicted latency of {len(shown)} {what}; the mean "
        f"absolute error is {100 * mean:.1f} %.",
        spec=specification(TEMPLATES, "agreement", {"low": min(ends), "high": max(ends)}),
        datasets={"agreement": shown},
        source="agreement",
        zoom=True,
        wide=True,
        legend=(
            Key(mark="dot", colour="--trial", text=what),
            Key(mark="dash", colour="--muted", text="agreement"),
        ),
        table=page.Table(
            header=("name", "predicted, ms", "measured, ms", "10th percentile", "90th", "error, %"),
            rows=tuple(
                (
                    row["name"],
                    f"{row['predicted']:.3f}",
                    f"{row['measured']:.3f}",
                    f"{row['low']:.3f}",
                    f"{row['high']:.3f}",
                    f"{100 * (row['predicted'] / row['measured'] - 1):+.1f}",
                )
                for row in shown
            ),
        ),
    )


def origin(table: Table) -> list[tuple[str, str]]:
    """Where a table's latencies are from, as names and values; without those that it lacks."""
    known = table.origin
    told = [
        ("table", table.name),
        ("device", ", ".join(each for each in (known.device, known.soc, known.core) if each)),
        ("clock", f"{known.clock_mhz} MHz" if known.clock_mhz else ""),
        ("threads", str(known.threads)),
        ("runtime", f"{known.runtime}, {known.delegate}, {known.dtype}"),
        ("method", known.method),
        ("error of the method on one op", f"{100 * known.op_error:.0f} %"),
        ("ops in the table", str(len(table.rows)) if table.rows else "none: a model of costs"),
        (
            "networks that it was calibrated on",
            str(table.correction.networks) if table.correction else "none",
        ),
        ("date", known.date),
        ("notes", known.notes),
    ]
    return [(name, value) for name, value in told if value]
