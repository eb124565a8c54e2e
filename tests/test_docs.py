"""The documentation's links lead somewhere, and the files that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
PLACEHOLDER = "NAME"  # for the reader's own file


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_of_the_repository_exist(page: Path) -> None:
    folders = "ghostnas|scripts|tests|recipes|search_spaces|latency_tables"
    named = re.findall(rf"\b(?:{folders})/[\w./-]*\w", page.read_text())
    assert [name for name in named if PLACEHOLDER not in name and not (ROOT / name).exists()] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
