"""A search's page says what its run folder says: finished, unfinished, or of an earlier version."""

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from run_folders import write_search

from ghostnas.cli.main import _parser
from ghostnas.nas import history, report_again, report_page
from ghostnas.nas.history import History

EARLIER = Path(__file__).parents[1] / "golden" / "earlier" / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search(tmp_path_factory.mktemp("page") / "run")


@pytest.fixture(scope="module")
def found(run: Path) -> History:
    return history.read(run)


@pytest.fixture(scope="module")
def page(found: History) -> str:
    return report_page.page(found)


def drawn(page: str) -> dict:
    return json.loads(re.search(r'id="drawn">(.*?)</script>', page, re.DOTALL)[1])


def text(page: str) -> str:
    """The words of a page, without its scripts and style."""
    without = re.sub(r"<(script|style)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without)).split())


def test_the_answer_comes_first(page: str, found: History) -> None:
    best, plain = found.result["best"], found.result["baseline"]
    headline = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)[1]
    said = " ".join(re.sub(r"<[^>]+>", "", headline).split())
    name = best["name"].capitalize()
    assert said.startswith(f"{name} reaches {100 * best['accuracy']:.1f} % ± ")
    assert f"in {best['latency_ms']:.2f} ms on arm" in said
    assert f"Against plain {plain['name']}" in text(page)
    assert "95 % interval" in text(page)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"baseline": None, "comparison": None}, "No plain GhostNet meets the budgets"),
        ({"comparison": {"p_value": None}}, "too few seeds to tell whose accuracy is higher"),
        (
            {"comparison": {"p_value": 0.3, "distinguished": False}},
            "which the seeds alone may make",
        ),
        ({"comparison": {"p_value": 1e-4, "distinguished": True}}, "which seeds alone rarely make"),
        (
            {"comparison": {"difference": -0.02, "p_value": 0.3}, "best": {"latency_ms": 9.0}},
            "It is slower and less accurate than plain GhostNet.",
        ),
    ],
)
def test_the_comparison_says_what_is_known(
    run: Path, tmp_path: Path, changed: dict, said: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    for key, value in changed.items():
        result[key] = value if value is None else result[key] | value
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    assert said in text(report_page.page(history.read(tmp_path / "run")))


def test_the_figures_data_are_the_runs(page: str, found: History) -> None:
    rows = {row["trial"]: row for row in drawn(page)["datasets"]["trials"]}
    assert rows.keys() == {each.number for each in found.trials}
    for each in found.trials:
        row = rows[each.number]
        if each.score is None:
            assert row["score"] is None
        else:
            assert row["score"] == pytest.approx(100 * each.score, rel=1e-5)
        assert row["latency_ms"] == pytest.approx(each.latency.latency_ms, abs=1e-4)
        assert row["macs"] == pytest.approx(each.cost.macs / 1e6, abs=1e-4)
        assert row["solid"] == (each.state == history.DONE and each.share <= 1)
    assert [row["trial"] for row in rows.values() if row["best"]] == [found.result["best"]["trial"]]


def test_every_figure_is_placed_and_every_trial_is_in_the_table(page: str, found: History) -> None:
    names = [figure["name"] for figure in drawn(page)["figures"]]
    assert set(names) == {
        *("front-latency-ms", "front-macs", "progress", "importance", "choices", "seeds", "where"),
    }
    for name in names:
        assert page.count(f'id="plot-{name}"') == 1
    assert page.count("<figcaption>") == page.count("<details>") == len(names)
    keys = re.findall(r'<tr data-key="(\d+)"', page)
    assert keys == [str(each.number) for each in found.trials]
    assert "its loss &lt;is&gt; not a number" in page


def test_all_to_do_it_again_is_there(page: str, found: History) -> None:
    said = text(page)
    for each in ("sha256", "fingerprint", "hash ", found.settings.sampler, "best.json"):
        assert each in said
    for name, version in found.versions.items():
        assert f"{name} {version}" in said


def test_the_command_of_a_search_is_one_that_can_be_given(found: History) -> None:
    words = shlex.split(report_again.command(found).replace("\\\n", ""))
    asked = _parser().parse_args(words[1:])
    assert asked.budget == list(found.settings.budgets)
    assert asked.trials == found.settings.trials
    assert asked.seed == found.settings.seed


def test_nothing_is_left_unfilled(page: str) -> None:
    said = text(page)
    for each in ("{{", "}}", "{%", "None", "nan", "undefined", "Infinity"):
        assert each not in said, each
    assert len(page.encode()) < 3_000_000


def test_a_search_that_has_not_ended_says_so(tmp_path: Path) -> None:
    run = write_search(tmp_path / "run", trials=5, finished=False)
    said = text(report_page.write(run).read_text())
    assert "This search has not ended" in said
    assert "So far trial" in said
    assert f"ghostnas search --resume \\ --out {run}" in said


def test_a_search_without_a_trial_says_so(tmp_path: Path) -> None:
    run = write_search(tmp_path / "run", trials=3, finished=False)
    (run / "study.db").unlink()
    page = report_page.write(run).read_text()
    assert "No trial has ended yet" in page
    assert 'id="drawn"' not in page


def test_scores_of_another_scorer_are_no_percentages(tmp_path: Path) -> None:
    run = write_search(tmp_path / "run", trials=4, finished=False, scorer="synflow")
    found = history.read(run)
    page = report_page.page(found)
    rows = {row["trial"]: row["score"] for row in drawn(page)["datasets"]["trials"]}
    assert rows[0] == pytest.approx(found.trials[0].score, rel=1e-5)
    assert "Synflow against latency" in page


def test_a_run_of_an_earlier_version_has_a_report(tmp_path: Path) -> None:
    shutil.copytree(EARLIER, tmp_path / "run")
    said = text(report_page.write(tmp_path / "run").read_text())
    assert "Trial 1 reaches 100.0 %" in said
    assert "too few seeds to tell whose accuracy is higher" in said


def test_measured_files_are_drawn_against_their_prediction(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "files").mkdir()
    rows = [
        {"file": "model.tflite", "core": "cortex-a76", "threads": 1, "median_ms": 1.25,
         "p10_ms": 1.2, "p90_ms": 1.3, "predicted_ms": 1.0},
        {"file": "int8.tflite", "refused": "it does not run"},
    ]  # fmt: skip
    (tmp_path / "run" / "files" / "latency.json").write_text(json.dumps(rows))
    page = report_page.page(history.read(tmp_path / "run"))
    [row] = drawn(page)["datasets"]["agreement"]
    assert (row["measured"], row["predicted"]) == (1.25, 1.0)
    assert "mean absolute error is 20.0 %" in text(page)


def test_a_name_that_looks_like_markup_stays_text(tmp_path: Path) -> None:
    nasty = "folder:</script><script>alert(1)</script>"
    run = write_search(tmp_path / "run", trials=3, data=nasty)
    page = report_page.write(run).read_text()
    assert nasty not in page
    assert page.count("<script") == 4
