"""Pages: one file that loads nothing, whatever it is given; figures with captions and tables."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ghostnas.pages import page
from ghostnas.pages.page import Figure, Key, Table

NASTY = "</script><script>alert('1 & 2')</script>"
TEMPLATE = """{% extends "page.html.j2" %}
{% from "parts.html.j2" import draw, command %}
{% block main %}{{ told }}{% for each in figures.values() %}{{ draw(each) }}{% endfor %}
{{ command(told, "a command") }}{% endblock %}
"""


def figure(**changed) -> Figure:
    about = {
        "name": "front",
        "title": "A front",
        "caption": f"A caption {NASTY}",
        "alt": f"What is seen {NASTY}",
        "spec": {"mark": "point", "data": {"name": "rows"}},
        "table": Table(header=("name", "ms"), rows=((NASTY, "1.5"), ("b", "2.5"))),
        "legend": (Key(mark="dot", colour="--trial", text="trial"),),
        "datasets": {"rows": [{"name": NASTY, "ms": 1.5}]},
        "source": "rows",
    }
    return Figure(**about | changed)


@pytest.fixture
def rendered(tmp_path: Path) -> str:
    (tmp_path / "some.html.j2").write_text(TEMPLATE)
    values = {"title": NASTY, "description": NASTY, "told": NASTY}
    return page.render(tmp_path, "some.html.j2", values, figures=[figure()])


class Elements(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    VOID = frozenset({"meta", "input", "br", "link", "img", "path", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def test_elements_close_and_what_is_given_ends_none(rendered: str) -> None:
    parsed = Elements(rendered)
    assert parsed.open == []
    scripts = [attributes for tag, attributes in parsed.found if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "drawn"}, {}, {}, {}]
    assert NASTY not in rendered
    assert json.loads(parsed.scripts[0])["datasets"]["rows"] == [{"name": NASTY, "ms": 1.5}]


def test_a_page_loads_nothing(rendered: str) -> None:
    parsed = Elements(rendered)
    policies = [
        attributes["content"]
        for tag, attributes in parsed.found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies[0].startswith("default-src 'none';")
    for tag, attributes in parsed.found:
        assert tag not in ("link", "img", "iframe")
        assert "src" not in attributes
    assert "sourceMappingURL" not in rendered
    assert len(rendered.encode()) < 1_000_000


def test_a_figure_has_a_caption_a_table_and_words_for_who_cannot_see_it(rendered: str) -> None:
    parsed = Elements(rendered)
    [plot] = [attributes for _, attributes in parsed.found if attributes.get("role") == "img"]
    assert plot["aria-label"] == f"What is seen {NASTY}"
    [outer] = [attributes for tag, attributes in parsed.found if tag == "figure"]
    title = outer["aria-labelledby"]
    assert any(attributes.get("id") == title for _, attributes in parsed.found)
    tags = [tag for tag, _ in parsed.found]
    assert tags.count("figcaption") == tags.count("details") == tags.count("table") == 1
    assert tags.count("th") == 4  # two of columns, and one of each row


def test_a_page_without_figures_carries_no_library(tmp_path: Path) -> None:
    (tmp_path / "some.html.j2").write_text(TEMPLATE)
    values = {"title": "a", "description": "b", "told": "c"}
    assert len(page.render(tmp_path, "some.html.j2", values).encode()) < 50_000


@pytest.mark.parametrize("name", page.LIBRARIES)
def test_the_libraries_are_as_published(name: str) -> None:
    told = (page.VENDOR / "README.md").read_text()
    [row] = [line for line in told.splitlines() if line.startswith(f"| `{name}`")]
    content = (page.VENDOR / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() in row
    assert (page.VENDOR / f"{name.removesuffix('.min.js')}.LICENSE").exists()
    version = re.search(r"\| (\d+\.\d+\.\d+) \|", row)[1]
    assert f'"{version}"' in content.decode()


def test_a_long_command_is_told_in_lines_that_a_shell_joins() -> None:
    words = ["ghostnas", "train", "my run", "--data", "folder:/a/long/path/to/images", "--resume"]
    told = page.shell([*words, "--out", "another/long/path"])
    assert told == (
        "ghostnas train 'my run' \\\n  --data folder:/a/long/path/to/images --resume \\\n"
        "  --out another/long/path"
    )
    assert page.shell(["ghostnas", "report", "run"]) == "ghostnas report run"


def test_colours_of_specifications_are_in_the_style_sheet() -> None:
    """A colour that no style sheet has would be drawn black."""
    root = Path(page.__file__).parents[1]
    style = (page.OWN / "page.css").read_text()
    used = set()
    for template in [*root.rglob("*.vl.json.j2"), page.OWN / page.THEME]:
        used |= set(re.findall(r"var\((--[\w-]+)\)", template.read_text()))
    assert len(used) > 5
    for name in used:
        assert style.count(f"{name}:") >= (1 if name == "--page" else 2), name  # light and dark
