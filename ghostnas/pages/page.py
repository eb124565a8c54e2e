"""Renders a page from a template of the caller's: a skeleton, figures drawn by Vega-Lite in the
reader's browser, each with a caption and a table, and text. Computes no result.

A page is one file. It opens from disk, and its content security policy lets it load nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ghostnas._version import __version__

Row: TypeAlias = Mapping[str, Any]
OWN, VENDOR = Path(__file__).parent / "templates", Path(__file__).parent / "vendor"
LIBRARIES = ("vega.min.js", "vega-lite.min.js")
LINE = 60
THEME = "theme.json"  # Vega's configuration: all figures of all pages look alike


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as text, row by row; the columns numbered in `words` are aligned left."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An entry of a figure's legend.

    Attributes:
        mark: ``dot``, ``ring``, ``diamond``, ``line``, ``dash``, ``band``, ``bar`` or ``tick``.
        colour: a custom property of the style sheet: ``--winner``.
    """

    mark: str
    colour: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure of a page.

    Attributes:
        name: unique in the page; an HTML id is made of it.
        caption: what is drawn and how to read it.
        alt: what a reader who cannot see it should know.
        spec: a Vega-Lite specification. Its colours are custom properties of the style sheet,
            ``var(--winner)``, so that a dark page and a printed one recolour it.
        table: what it shows, as a table.
        datasets: rows by the names that the specification uses; figures of a page may share them.
        source: the dataset whose rows a selection is of.
        link: a field of `source`. Rows that a selection ``brush`` holds are marked in all figures
            with the same link, through their parameter ``marked``.
        zoom: whether its axes x and y take the limits ``x0``, ``x1``, ``y0`` and ``y1``.
        wide: whether it takes the page's whole width.
        roomy: whether it needs the width of a desktop, so that a phone shows it in a frame that
            scrolls.
    """

    name: str
    title: str
    caption: str
    alt: str
    spec: Mapping[str, Any]
    table: Table
    legend: tuple[Key, ...] = ()
    datasets: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    source: str = ""
    link: str = ""
    zoom: bool = False
    wide: bool = False
    roomy: bool = False


def render(
    templates: Path,
    name: str,
    values: Mapping[str, Any],
    *,
    figures: Sequence[Figure] = (),
) -> str:
    """The page of the template `name`, a child of ``page.html.j2``, in the folder `templates`.

    Args:
        values: the template's variables; ``title`` and ``description`` are the skeleton's.
        figures: by name in the template's ``figures``; ``draw`` of parts.html.j2 places one.
    """
    drawn = {
        "theme": json.loads((OWN / THEME).read_text(encoding="utf-8")),
        "datasets": {name: rows for each in figures for name, rows in each.datasets.items()},
        "figures": [
            {"name": f.name, "spec": f.spec, "source": f.source, "link": f.link, "zoom": f.zoom}
            for f in figures
        ],
    }
    return (
        environment(templates)
        .get_template(name)
        .render(
            **values,
            version=__version__,
            figures={each.name: each for each in figures},
            drawn=drawn,
            scripts=[_library(each) for each in LIBRARIES] if figures else [],
        )
    )


def environment(templates: Path) -> Environment:
    """Templates of a folder and of this package, which escape what they are given."""
    return Environment(
        loader=ChoiceLoader([FileSystemLoader(templates), FileSystemLoader(OWN)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def specification(templates: Path, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The Vega-Lite specification of a template ``NAME.vl.json.j2``."""
    made = Environment(
        loader=ChoiceLoader([FileSystemLoader(templates), FileSystemLoader(OWN)]),
        autoescape=False,  # JSON: what is given goes through its filter tojson
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found: dict[str, Any] = json.loads(made.get_template(f"{name}.vl.json.j2").render(**values))
    return found


def shell(words: Sequence[str]) -> str:
    """A command for a shell, in lines of up to `LINE` characters where its words allow."""
    lines: list[str] = []
    for at, word in enumerate(words):
        quoted = shlex.quote(word)
        following = words[at + 1] if at + 1 < len(words) else ""
        value = "" if following.startswith("-") else f" {shlex.quote(following)}"
        if not lines:
            lines.append(quoted)
        elif word.startswith("--") and len(lines[-1]) + len(quoted + value) + 3 > LINE:
            lines.append(f"  {quoted}")
        else:
            lines[-1] += f" {quoted}"
    return " \\\n".join(lines)


@cache
def _library(name: str) -> Markup:
    """A vendored script, without the pointer to a map that is not there."""
    text = (VENDOR / name).read_text(encoding="utf-8")
    if "</script" in text.lower():
        raise ValueError(f"{name} would end the element that it is put into")
    return Markup(text.partition("//# sourceMappingURL")[0])
