"""The documentation's links lead somewhere, the files and messages that it names exist, its Python
compiles, and the site has every page.
"""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
OURS = "https://github.com/ghostnas/ghostnas/blob/main/"  # on pages of the site, which has no code
PLACEHOLDER = "NAME"  # for the reader's own file


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)", text)
    ours = [link.partition(OURS)[2] for link in links if link.startswith(OURS)]
    assert [link for link in ours if not (ROOT / link).exists()] == []
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_of_the_repository_exist(page: Path) -> None:
    folders = "ghostnas|scripts|tests|recipes|search_spaces|latency_tables"
    named = re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w", page.read_text())
    assert [name for name in named if PLACEHOLDER not in name and not (ROOT / name).exists()] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_compiles(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        compile(block, str(page), "exec")


def test_the_site_has_every_page() -> None:
    """Of YAML with tags of Python's, in which the extensions are; only texts are looked at."""
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)

    def pages(nav: object) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        children = nav.values() if isinstance(nav, dict) else nav
        return [page for child in children for page in pages(child)]

    written = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages(site["nav"])) == sorted(written)


def test_the_messages_that_troubleshooting_quotes_are_real() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    source = "".join(path.read_text() for path in (ROOT / "ghostnas").rglob("*.py"))
    source += (ROOT / "scripts" / "_environment").read_text()
    of_others = ("ghostnas: command not found",)
    assert len(quoted) > 5
    assert [each for each in quoted if each not in source and each not in of_others] == []
