"""The paper's tables and figures as one HTML page that needs nothing else. Computes no result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ghostnas.pages import page
from ghostnas.paper.drawing import Drawing, svg

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A table's cell; `mark` is ``agrees``, ``differs`` or empty."""

    text: str
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, notes, perhaps a table and drawings."""

    heading: str
    notes: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    drawings: tuple[Drawing, ...] = ()


def render(sections: Sequence[Section], title: str) -> str:
    """The page."""
    values = {
        "title": title,
        "description": f"{title}, beside what ghostnas counts and trains.",
        "sections": sections,
        "svg": lambda drawing: Markup(svg(drawing)),  # markup of our own, escaped inside
    }
    return page.render(TEMPLATES, "paper.html.j2", values)


def table_section(found: Mapping[str, Any], drawings: Sequence[Drawing] = ()) -> Section:
    """A table as `ghostnas.paper.run.table` returns it."""
    name = found["table"]
    heading = f"Table {name.removeprefix('table')}: {found['title']}"
    if name == "table1":
        header, rows, notes = _table1(found)
    elif name == "table2":
        header, rows, notes = _table2(found)
    elif name == "table8":
        header, rows, notes = _table8(found)
    else:
        header, rows, notes = _counts(found)
    return Section(
        heading=heading,
        notes=(*notes, *_trained_notes(found.get("trained"))),
        header=header,
        rows=rows,
        drawings=tuple(drawings),
    )


def _counts(found: Mapping[str, Any]) -> Any:
    header: tuple[str, ...] = (
        "network",
        *_three("weights, M"),
        *_three("FLOPs, M"),
        "top-1 printed",
        "top-1 ours",
    )
    trained = {row["network"]: row for row in (found.get("trained") or {}).get("rows", ())}
    top5 = any(row["top5"]["printed"] for row in found["rows"])
    if top5:
        header = (*header[:8], "top-5 printed", header[8])
    header = (*header, "note")
    rows = []
    for row in found["rows"]:
        said = [_plain(row["top1"]["printed"])]
        if top5:
            said.append(_plain(row["top5"]["printed"]))
        rows.append(
            (
                Cell(text=row["network"]),
                *_figure(row["params"]),
                *_figure(row["macs"]),
                *said,
                _own(row, _same(row["network"], trained)),
                Cell(text=row["note"]),
            )
        )
    notes = (
        "FLOPs are multiply-accumulates of convolutions and dense layers, batch norm folded. "
        "Green: less than one unit of the last printed digit apart.",
        "A dash: the paper prints none, or this project has no description of that network.",
    )
    return header, tuple(rows), notes


def _same(label: str, trained: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return trained.get(label) or trained.get(label.removesuffix(" (s=2)"))


def _own(row: Mapping[str, Any], trained: Mapping[str, Any] | None) -> Cell:
    if not row["ours"]:
        return Cell(text="-")
    if trained is None or trained["mean"] is None:
        return Cell(text="untrained")
    ends = trained["interval"]
    between = f" ({100 * ends[0]:.2f} to {100 * ends[1]:.2f})" if ends else ""
    return Cell(text=f"{100 * trained['mean']:.2f}{between}, {trained['seeds']} seeds")


def _trained_notes(trained: Mapping[str, Any] | None) -> list[str]:
    if not trained:
        return []
    width = "" if trained["width"] == 1 else f", all networks {trained['width']:g} as wide"
    images = next(
        (line for line in trained["recipe"].splitlines() if line.startswith("train_pictures")),
        "train_pictures = all",
    )
    notes = [
        f"Ours were trained on {trained['data']}{width}, {trained['epochs']} epochs, "
        f"{images.replace('train_pictures = ', '')} training images, on "
        f"{', '.join(trained['hardware'])}; the interval is Student's 95 % one of the mean. "
        "The paper's were trained in full, from one seed as far as it says."
    ]
    told = [pair for pair in trained["pairs"] if pair["agrees"] is not None]
    if not told:
        notes.append("No pair of rows is distinguished by these seeds (Welch, Holm, p < 0.05).")
    for pair in told:
        notes.append(
            f"{pair['first']} against {pair['second']}: {100 * pair['difference']:+.2f} points, "
            f"printed {100 * pair['printed']:+.1f}: "
            f"{'as' if pair['agrees'] else 'unlike'} in the paper (p = {pair['p_value']:.2g})."
        )
    return notes


def _table1(found: Mapping[str, Any]) -> Any:
    header = ("input", "operator", "#exp", "#out", "SE", "stride", "as printed", "M FLOPs",
              "parameters")  # fmt: skip
    rows = []
    for row in found["rows"]:
        ours = row["ours"]
        rows.append(
            (
                Cell(text=f"{ours['size']}² x {ours['channels']}"),
                Cell(text=ours["operator"]),
                _plain(ours["expansion"]),
                _plain(ours["out"]),
                Cell(text="1" if ours["se"] else "-"),
                _plain(ours["stride"]),
                Cell(
                    text="yes" if row["agrees"] else f"no: {row['printed']}",
                    mark="agrees" if row["agrees"] else "differs",
                ),
                Cell(text=f"{row['macs'] / 1e6:.2f}"),
                Cell(text=f"{row['params']:,}"),
            )
        )
    total = sum(row["macs"] for row in found["rows"]), sum(row["params"] for row in found["rows"])
    notes = (f"In all {total[0] / 1e6:.1f} M FLOPs and {total[1]:,} parameters.",)
    return header, tuple(rows), notes


def _table2(found: Mapping[str, Any]) -> Any:
    header = ("pair", "d = 1", "d = 3", "d = 5", "d = 7")
    rows = [
        (Cell(text=f"{row['pair']}, printed"), *(_plain(mse) for mse in row["printed"].values()))
        for row in found["rows"]
    ]
    notes = [
        "Thousandths. Printed: chosen pairs of a trained ResNet-50 on an image of the paper's. "
        "Ours: maps scaled to lie between 0 and 1, the filter found by least squares, the pairs "
        "those of which it leaves the least share of the variance."
    ]
    if ours := found.get("redundancy"):
        for pair in ours["pairs"]:
            rows.append(
                (
                    Cell(text=f"{pair['colour']}, ours: {pair['first']} to {pair['second']}"),
                    *(Cell(text=f"{1000 * mse:.2f}") for mse in pair["mse"].values()),
                )
            )
        rows.append(
            (
                Cell(text="ours, median over maps of the best other"),
                *(Cell(text=f"{1000 * mse:.2f}") for mse in ours["median"].values()),
            )
        )
        notes.append(f"Ours: {ours['network']}, {ours['where']}, {ours['weights']}.")
    else:
        notes.append("Ours needs --network and --weights.")
    return header, tuple(rows), tuple(notes)


def _table8(found: Mapping[str, Any]) -> Any:
    header = ("framework", "backbone", *_three("backbone FLOPs, M"), "counted", "mAP printed",
              "mAP ours")  # fmt: skip
    rows = [
        (
            Cell(text=row["framework"]),
            Cell(text=row["backbone"]),
            *_figure(row["macs"]),
            Cell(text=row["counted"]),
            _plain(row["map"]["printed"]),
            Cell(text="untrained"),
        )
        for row in found["rows"]
    ]
    notes = [
        "At 224 pixels. The paper prints the MobileNets' FLOPs with their classifiers, GhostNet's "
        "without: 164.4 M are what is left of its 167.0 M."
    ]
    for each in found.get("detection", ()):
        notes.append(
            f"{each['detector']} on GhostNet {each['width']:g}x, {each['steps']} steps on "
            f"{each['images']} images ({each['data']}): loss {each['first_loss']:.3f} to "
            f"{each['last_loss']:.3f}. It shows that it trains, and is no mAP."
        )
    return header, tuple(rows), tuple(notes)


def _three(what: str) -> tuple[str, str, str]:
    return f"{what}: printed", "ours", "difference"


def _figure(found: Mapping[str, Any] | None) -> tuple[Cell, Cell, Cell]:
    if found is None:
        return Cell(text="-"), Cell(text="-"), Cell(text="-")
    ours = "-" if found["ours"] is None else f"{found['ours'] / 1e6:.3f}"
    if found["difference"] is None:
        return _plain(found["printed"]), Cell(text=ours), Cell(text="-")
    mark = "agrees" if found["agrees"] else "differs"
    return (
        _plain(found["printed"]),
        Cell(text=ours),
        Cell(text=f"{found['difference']:+.3f}", mark=mark),
    )


def _plain(value: object) -> Cell:
    return Cell(text="-" if value is None else str(value))
