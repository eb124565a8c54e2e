"""What a report says of networks that the seeds tell apart, and of those that they do not."""

import re
from typing import Any

import pytest

from ghostnas import report

FILE = {"file": "run/export/model.onnx", "bytes": 5_200_000, "difference_from_torch": 3e-6}


def network(name: str, **changed: Any) -> dict[str, Any]:
    found = {
        "name": name,
        "id": f"id of {name}",
        "params": 1_230_000,
        "macs": 45_600_000,
        "latency_ms": 12.3,
        "latency_low_ms": 11.1,
        "latency_high_ms": 13.4,
        "accuracy": 0.9123,
        "accuracy_std": 0.0034,
        "accuracy_min": 0.9081,
        "accuracy_max": 0.9164,
        "validation_accuracy": 0.92,
        "seeds": 3,
    }
    return found | changed


def result(**changed: Any) -> dict[str, Any]:
    """A search's result: the winner is told apart from GhostNet, and not from trial 1."""
    found = {
        "run": "run",
        "best": network("trial 2"),
        "baseline": network("GhostNet 0.5x", accuracy=0.85),
        "others": [network("trial 1", accuracy=0.911)],
        "told_apart": [
            {"networks": ["trial 2", "trial 1"], "p_value": 0.213, "told_apart": False},
            {"networks": ["trial 2", "GhostNet 0.5x"], "p_value": 0.00012, "told_apart": True},
        ],
        "trials": 2,
        "scorer": "train",
        "infeasible_trained": 0,
        "seconds": 90.0,
        "data": "synthetic",
        "target": "arm",
        "budgets": ["150MFLOPs"],
        "exported": [FILE],
    }
    return found | changed


def test_the_first_pictures_that_were_left_out_are_named() -> None:
    reasons = [f"{number}.png: is damaged" for number in range(6)]
    assert report.skipped([]) == []
    assert report.skipped(reasons[:5]) == [f"skipped {reason}" for reason in reasons[:5]]
    assert report.skipped(reasons)[4:] == ["skipped 4.png: is damaged", "skipped 6 pictures in all"]


def alone() -> dict[str, Any]:
    """One seed each, no baseline."""
    spread = {"seeds": 1, "accuracy_std": None, "accuracy_min": 0.9, "accuracy_max": 0.9}
    told = [{"networks": ["trial 2", "trial 1"], "p_value": None, "told_apart": None}]
    return result(
        best=network("trial 2", accuracy=0.9, **spread),
        others=[network("trial 1", accuracy=0.9, **spread)],
        baseline=None,
        told_apart=told,
    )


def trial(number: int, **changed: Any) -> dict[str, Any]:
    found = {"trial": number, "id": f"id of trial {number}", "latency_ms": 10.0 + number}
    return {**found, "score": 0.8 + number / 100, "macs": 1_000_000 * number, **changed}


TRIALS = [trial(1), trial(2)]


def test_a_terminal_shows_each_network_and_who_can_be_told_apart() -> None:
    lines = report.text(result()).splitlines()
    numbers = "45.6 MFLOPs, 1.23 M parameters, 12.3 ms (11.1 to 13.4)"
    spread = "+- 0.3 (3 seeds, 90.8 to 91.6)"
    assert lines == [
        f"trial 2 (id of trial 2): 91.2 % {spread}, {numbers}",
        f"GhostNet 0.5x (id of GhostNet 0.5x): 85.0 % {spread}, {numbers}",
        f"trial 1 (id of trial 1): 91.1 % {spread}, {numbers}",
        "trial 2 and trial 1: cannot be told apart by their seeds (Welch's t-test, p = 0.213)",
        "trial 2 and GhostNet 0.5x: told apart (Welch's t-test, p = 0.00012)",
        "run/export/model.onnx: 5.2 MB, logits within 3e-06 of PyTorch's",
        "run/report.html: 2 trials, 90 s",
    ]


def test_one_seed_tells_nothing_apart_and_the_report_says_so() -> None:
    lines = report.text(alone()).splitlines()
    assert [line.split(",")[0] for line in lines[:2]] == [
        "trial 2 (id of trial 2): 90.0 % (1 seed)",
        "trial 1 (id of trial 1): 90.0 % (1 seed)",
    ]
    said = "trial 2 and trial 1: one seed cannot tell them apart; give more --seeds"
    assert lines[2] == said
    page = report.page(alone(), TRIALS)
    assert f"<li>{said}</li>" in page
    assert "GhostNet" not in page
    assert "None" not in page


def test_a_page_has_a_row_a_network_and_a_point_a_trial() -> None:
    page = report.page(result(), TRIALS)
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td>", page)
    assert [name for name, _ in rows] == [
        "trial 2 (id of trial 2)",
        "GhostNet 0.5x (id of GhostNet 0.5x)",
        "trial 1 (id of trial 1)",
    ]
    assert rows[0][1] == "91.2 % &plusmn; 0.3 (3 seeds, 90.8 to 91.6)"
    assert page.count("cannot be told apart") == 1
    assert "GhostNet 0.5x: told apart (Welch&#x27;s t-test, p = 0.00012)" in page
    assert page.count("<circle") == 2
    best = re.findall(r'<circle class="best"[^>]*><title>(.*?)</title>', page)
    assert best == ["trial 2: 82 %, 12.0 ms, 2 MFLOPs"]


def test_a_scorers_numbers_are_no_percentages() -> None:
    page = report.page(result(scorer="synflow"), [trial(1, score=31.5), trial(2, score=42.25)])
    titles = re.findall(r"<circle[^>]*><title>(.*?)</title>", page)
    assert titles == [
        "trial 1: 31.5, 11.0 ms, 1 MFLOPs",
        "trial 2: 42.25, 12.0 ms, 2 MFLOPs",
    ]
    assert 'aria-label="synflow over latency"' in page


@pytest.mark.parametrize("count", [1, 3])
def test_trials_with_one_score_are_drawn_inside_the_page(count: int) -> None:
    page = report.page(result(), [trial(1, score=0.5, trial=at) for at in range(count)])
    places = re.findall(r'cx="(-?\d+)" cy="(-?\d+)"', page)
    assert len(places) == count
    assert all(0 < int(x) < report.WIDTH and 0 < int(y) < report.HEIGHT for x, y in places)


def test_what_a_user_named_cannot_add_to_the_page() -> None:
    nasty = "<script>alert(1)</script>"
    told = [{"networks": [nasty, "trial 1"], "p_value": 0.5, "told_apart": False}]
    file = FILE | {"file": nasty}
    changed = {"data": nasty, "target": nasty, "budgets": [nasty], "told_apart": told}
    page = report.page(result(**changed, best=network(nasty, id="0f"), exported=[file]), TRIALS)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") == 7
