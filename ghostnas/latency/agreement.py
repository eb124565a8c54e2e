"""Predicted against measured latency, drawn as a figure of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ghostnas.pages.page import Figure, Key, Table, specification

TEMPLATES = Path(__file__).parent / "templates"


def figure(rows: Sequence[Mapping[str, Any]], what: str) -> Figure:
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
        table=Table(
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
