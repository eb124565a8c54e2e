"""Reports in Chromium: opened from disk, drawn without a complaint, at a desktop's and a phone's
width, light and dark; by keyboard; and read by axe-core.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, chromium
from run_folders import write_search

from ghostnas.nas import report_page
from ghostnas.training import report as training_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium(), reason="no Chromium with its driver here"),
]
pytest.importorskip("selenium")
TRAINING = Path(__file__).parents[1] / "golden" / "earlier" / "full"
TRIALS = 12
# The diamonds of plain GhostNet, which are no trials.
BASELINES = {"front-latency-ms": 1, "front-macs": 1, "progress": 0}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_page.write(
        write_search(tmp_path_factory.mktemp("browser") / "run", trials=TRIALS)
    )


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here to fetch axe-core with")
    ran = subprocess.run(
        [npm, "install", "axe-core@4"], cwd=folder, capture_output=True, check=False
    )
    if ran.returncode:
        pytest.skip("npm cannot fetch axe-core here")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=str)
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    width, scheme = request.param
    with Browser(chromium(), width=width, scheme=scheme) as opened:
        yield opened


@pytest.fixture
def desktop() -> Iterator[Browser]:
    with Browser(chromium()) as opened:
        yield opened


def test_figures_are_drawn_and_nothing_is_complained_of(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.console() == []
    plots = browser.run("return document.querySelectorAll('.plot').length")
    marks = browser.run(
        "return [...document.querySelectorAll('.plot svg')].map("
        "(each) => each.querySelectorAll('.mark-symbol path, .mark-rect path, .mark-line path')"
        ".length)"
    )
    assert plots == len(marks) == 7
    assert min(marks) > 0
    assert marks[0] >= TRIALS
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_the_scheme_is_the_readers(browser: Browser, page: Path) -> None:
    browser.open(page)
    dark = browser.run("return matchMedia('(prefers-color-scheme: dark)').matches")
    shades = browser.run(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (sum(shades) < 3 * 64) == dark


def test_axe_finds_nothing(browser: Browser, page: Path, axe: str) -> None:
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    browser.run(axe)
    found = browser.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run().then((found) => done(found.violations.map((each) => ["
        "each.id, each.impact, each.nodes.map((node) => node.target.join(' ')).slice(0, 5)])));"
    )
    assert found == []


def test_a_training_is_drawn(desktop: Browser, tmp_path: Path) -> None:
    shutil.copytree(TRAINING, tmp_path / "full")
    desktop.open(training_report.write(tmp_path / "full"))
    assert desktop.console() == []
    assert desktop.run("return document.querySelectorAll('.plot svg').length") == 3


def shown(browser: Browser, column: int) -> list[str]:
    return browser.run(
        "return [...document.querySelectorAll('#every-trial tbody tr:not([hidden])')]"
        f".map((row) => row.cells[{column}].textContent)"
    )


def test_the_table_is_sorted_by_keyboard(desktop: Browser, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    desktop.open(page)
    heading = desktop.driver.find_element(By.CSS_SELECTOR, "th[data-column=ms] button")
    heading.send_keys(Keys.ENTER)
    values = [float(text) for text in shown(desktop, 3)]
    assert len(values) == TRIALS + 1
    assert values == sorted(values)
    heading.send_keys(Keys.SPACE)
    assert [float(text) for text in shown(desktop, 3)] == values[::-1]
    header = desktop.driver.find_element(By.CSS_SELECTOR, "th[data-column=ms]")
    assert header.get_attribute("aria-sort") == "descending"
    score = desktop.driver.find_element(By.CSS_SELECTOR, "th[data-column=score] button")
    score.send_keys(Keys.ENTER)
    assert shown(desktop, 2)[-1] == ""  # a failed trial has none, and comes last


def test_the_table_is_filtered_by_comparisons_and_words(desktop: Browser, page: Path) -> None:
    from selenium.webdriver.common.by import By

    desktop.open(page)
    words = desktop.driver.find_element(By.ID, "words")
    every = sorted(float(text) for text in shown(desktop, 3))
    words.send_keys(f"ms<{every[4]}")
    assert sorted(float(text) for text in shown(desktop, 3)) == every[:4]
    words.clear()
    words.send_keys("failed")
    assert len(shown(desktop, 3)) == 1
    count = desktop.driver.find_element(By.CSS_SELECTOR, ".filter output")
    assert count.text == f"1 of {TRIALS + 1} shown"


def opacities(browser: Browser, figure: str) -> list[float]:
    return browser.run(
        f"return [...document.querySelectorAll('#plot-{figure} .mark-symbol path')]"
        ".map((each) => Number(each.getAttribute('opacity') ?? 1))"
    )


def press(browser: Browser, selector: str) -> None:
    """Press a button as the keyboard does."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.driver.find_element(By.CSS_SELECTOR, selector).send_keys(Keys.ENTER)


def wait_for_marks(browser: Browser) -> None:
    browser.driver.execute_async_script(
        "const done = arguments[0];"
        "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100)));"
    )


def test_a_trial_marked_in_the_table_is_marked_in_the_figures(desktop: Browser, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    desktop.open(page)
    box = desktop.driver.find_element(By.CSS_SELECTOR, "tr[data-key='3'] input")
    box.send_keys(Keys.SPACE)
    wait_for_marks(desktop)
    assert desktop.driver.find_element(By.ID, "marked").text.startswith("1 marked")
    for figure in ("front-latency-ms", "front-macs", "progress"):
        values = opacities(desktop, figure)
        assert sum(value < 0.2 for value in values) == len(values) - 1 - BASELINES[figure], figure


def test_a_brush_marks_the_trials_within_it_everywhere(desktop: Browser, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    desktop.open(page)
    plot = desktop.driver.find_element(By.CSS_SELECTOR, "#plot-front-macs svg")
    desktop.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", plot)
    size = plot.size
    drag = ActionChains(desktop.driver)
    drag.move_to_element_with_offset(plot, -int(size["width"] * 0.43), -int(size["height"] * 0.4))
    drag.click_and_hold()
    drag.move_by_offset(int(size["width"] * 0.4), int(size["height"] * 0.45)).release().perform()
    wait_for_marks(desktop)
    marked = desktop.run(
        "return [...document.querySelectorAll('tr.is-marked')].map((row) => row.dataset.key)"
    )
    held = desktop.run("return document.querySelector('#plot-front-macs').view.signal('brush')")
    rows = json.loads(desktop.run("return document.getElementById('drawn').textContent"))
    within = {
        str(row["trial"])
        for row in rows["datasets"]["trials"]
        if row["score"] is not None
        and all(min(ends) <= row[field] <= max(ends) for field, ends in held.items())
    }
    assert 0 < len(within) < TRIALS
    assert set(marked) == within
    bright = sum(value > 0.5 for value in opacities(desktop, "progress"))
    assert bright == len(marked)
    press(desktop, "#marked .clear")
    wait_for_marks(desktop)
    assert not desktop.run("return document.querySelectorAll('tr.is-marked').length")
    assert min(opacities(desktop, "progress")) > 0.5


def test_a_figure_zooms_by_its_buttons(desktop: Browser, page: Path) -> None:
    def ticks() -> list[str]:
        return desktop.run(
            "return [...document.querySelectorAll('#plot-progress .role-axis-label text')]"
            ".map((each) => each.textContent).sort()"
        )

    desktop.open(page)
    before = ticks()
    tools = "#figure-progress .tools button"
    press(desktop, f"{tools}[data-zoom=in]")
    wait_for_marks(desktop)
    assert ticks() != before
    press(desktop, f"{tools}[data-zoom=all]")
    wait_for_marks(desktop)
    assert ticks() == before
