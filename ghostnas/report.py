"""What a search found, for people: a few lines, and an HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, MARGIN = 640, 320, 48
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
th { border-bottom: 1px solid #999; } td:first-child, th:first-child { text-align: left; }
circle { fill: #4a78b5; } circle.best { fill: #c0392b; } text { font-size: 12px; fill: #555; }
"""


def page(result: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> str:
    """The page of a run's result and its trials' rows."""
    networks = [result["best"]] + ([result["baseline"]] if result["baseline"] else [])
    budgets = ", ".join(result["budgets"])
    items = [
        f"<li>{escape(each['file'])}: {each['bytes'] / 1e6:.1f} MB, logits within "
        f"{each['difference_from_torch']:.0e} of PyTorch's</li>"
        for each in result["exported"]
    ]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>ghostnas: {escape(budgets)}</title>
<style>{STYLE}</style>
<h1>Search under {escape(budgets)} for {escape(result["target"])}</h1>
<p>{result["trials"]} trials on {escape(result["data"])} in {result["seconds"] / 60:.1f} minutes.
Accuracies are on test pictures, after the search's short training, as a mean with its standard
deviation over seeds that took no part in the choice. Latency is predicted, with its range.</p>
{_table(networks)}
<h2>Trials</h2>
{_scatter(trials, result["best"]["id"])}
<h2>Files</h2>
<ul>{"".join(items)}</ul>
<p>Their weights come from the short training at the data's size. Train the network in full, at the
size it will be used with, before it is shipped.</p>
</html>
"""


def text(result: Mapping[str, Any]) -> str:
    """A run's result in a few lines, for a terminal."""
    lines = [_network_text(result["best"])]
    if result["baseline"]:
        lines.append(_network_text(result["baseline"]))
    lines.append(files(result["exported"]))
    lines.append(
        f"{result['run']}/report.html: {result['trials']} trials, {result['seconds']:.0f} s"
    )
    return "\n".join(lines)


def files(exported: Sequence[Mapping[str, Any]]) -> str:
    """A line for each exported file."""
    return "\n".join(
        f"{each['file']}: {each['bytes'] / 1e6:.1f} MB, logits within "
        f"{each['difference_from_torch']:.0e} of PyTorch's"
        for each in exported
    )


def _network_text(network: Mapping[str, Any]) -> str:
    std = network["accuracy_std"]
    spread = "" if std is None else f" +- {100 * std:.1f}"
    return (
        f"{network['name']} ({network['id']}): {100 * network['accuracy']:.1f}{spread} % over "
        f"{network['seeds']} seeds, {network['macs'] / 1e6:.1f} MFLOPs, "
        f"{network['params'] / 1e6:.2f} M parameters, {network['latency_ms']:.1f} ms "
        f"({network['latency_low_ms']:.1f} to {network['latency_high_ms']:.1f})"
    )


def _table(networks: Sequence[Mapping[str, Any]]) -> str:
    head = ("network", "accuracy", "seeds", "MFLOPs", "M params", "latency, ms")
    rows = []
    for each in networks:
        std = each["accuracy_std"]
        spread = "" if std is None else f" &plusmn; {100 * std:.1f}"
        cells = (
            f"{escape(each['name'])} ({each['id']})",
            f"{100 * each['accuracy']:.1f}{spread} %",
            str(each["seeds"]),
            f"{each['macs'] / 1e6:.1f}",
            f"{each['params'] / 1e6:.2f}",
            f"{each['latency_ms']:.1f} ({each['latency_low_ms']:.1f} to "
            f"{each['latency_high_ms']:.1f})",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{header}</tr>{''.join(rows)}</table>"


def _scatter(trials: Sequence[Mapping[str, Any]], best: str) -> str:
    """Accuracy over predicted latency as an SVG, the winner in another colour."""
    xs = [each["latency_ms"] for each in trials]
    ys = [100 * each["accuracy"] for each in trials]
    left, right = min(xs) * 0.95, max(xs) * 1.05
    low, high = min(ys) - 2, max(ys) + 2
    points = []
    for each, x, y in zip(trials, xs, ys, strict=True):
        cx = MARGIN + (x - left) / (right - left) * (WIDTH - 2 * MARGIN)
        cy = HEIGHT - MARGIN - (y - low) / (high - low) * (HEIGHT - 2 * MARGIN)
        kind = ' class="best"' if each["id"] == best else ""
        title = f"trial {each['trial']}: {y:.1f} %, {x:.1f} ms, {each['macs'] / 1e6:.0f} MFLOPs"
        points.append(
            f'<circle{kind} cx="{cx:.0f}" cy="{cy:.0f}" r="5"><title>{title}</title></circle>'
        )
    base = HEIGHT - MARGIN
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="accuracy over latency">
<path d="M{MARGIN} {MARGIN}V{base}H{WIDTH - MARGIN}" fill="none" stroke="#999"/>
<text x="{MARGIN}" y="{base + 18}">{left:.1f} ms</text>
<text x="{WIDTH - MARGIN}" y="{base + 18}" text-anchor="end">{right:.1f} ms</text>
<text x="{MARGIN - 6}" y="{base}" text-anchor="end">{low:.0f} %</text>
<text x="{MARGIN - 6}" y="{MARGIN + 4}" text-anchor="end">{high:.0f} %</text>
{"".join(points)}</svg>"""
