"""What a report says about networks that the seeds distinguish, and about those they do not."""

from typing import Any

import pytest

from ghostnas.data import images
from ghostnas.nas import report

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


COMPARED = {
    "networks": ["trial 2", "GhostNet 0.5x"],
    "difference": 0.0623,
    "interval": [0.031, 0.094],
    "p_value": 0.00012,
    "distinguished": True,
    "latency_difference_ms": -2.5,
}
DEPLOYED = {"id": "d", "resolution": 224, "dropped_strides": 0, "classes": 10, "macs": 45_600_000}
PROXY = {"id": "p", "resolution": 32, "dropped_strides": 2, "classes": 10, "macs": 13_700_000}


def result(**changed: Any) -> dict[str, Any]:
    """A search's result: the winner is better than GhostNet."""
    found = {
        "run": "run",
        "best": network("trial 2"),
        "baseline": network("GhostNet 0.5x", accuracy=0.85),
        "others": [network("trial 1", accuracy=0.911)],
        "comparison": COMPARED,
        "deployment": DEPLOYED,
        "proxy": PROXY,
        "trials": 2,
        "failed": 0,
        "used_up": False,
        "scorer": "train",
        "infeasible_trained": 0,
        "seconds": 90.0,
        "data": "synthetic",
        "target": "arm",
        "budgets": ["150MFLOPs"],
        "exported": [FILE],
    }
    return found | changed


def test_the_first_skipped_images_are_named() -> None:
    reasons = [f"{number}.png: is damaged" for number in range(6)]
    assert images.skipped_lines([]) == []
    assert images.skipped_lines(reasons[:5]) == [f"skipped {reason}" for reason in reasons[:5]]
    assert images.skipped_lines(reasons)[4:] == [
        "skipped 4.png: is damaged",
        "skipped 6 images in all",
    ]


def test_the_terminal_shows_what_the_winner_is_and_how_it_compares() -> None:
    lines = report.text(result()).splitlines()
    numbers = "45.6 MFLOPs, 1.23 M parameters, 12.3 ms (11.1 to 13.4)"
    spread = "+- 0.3 (3 seeds, 90.8 to 91.6)"
    assert lines == [
        "trial 2 against plain GhostNet 0.5x: 2.5 ms faster, and +6.2 points of accuracy, 95 % "
        "interval +3.1 to +9.4 (Welch's t-test, p = 0.00012)",
        f"trial 2 (id of trial 2): 91.2 % {spread}, {numbers}",
        f"GhostNet 0.5x (id of GhostNet 0.5x): 85.0 % {spread}, {numbers}",
        f"trial 1 (id of trial 1): 91.1 % {spread}, {numbers}",
        "The winner is deployed at 224 px, 10 classes, 45.6 MFLOPs; its proxy was trained at "
        "32 px, 2 strides dropped, 10 classes, 13.7 MFLOPs.",
        "run/export/model.onnx: 5.2 MB, logits within 3e-06 of PyTorch's",
        "run/report.html: 2 trials, 1.5 minutes",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"baseline": None, "comparison": None}, "trial 2 is the best found; no plain GhostNet"),
        (
            {"best": network("GhostNet 0.5x"), "comparison": None},
            "nothing better was found than plain GhostNet 0.5x",
        ),
        (
            {"comparison": COMPARED | {"p_value": None, "interval": None, "distinguished": None}},
            "2.5 ms faster; too few seeds to tell",
        ),
        (
            {"comparison": COMPARED | {"p_value": 0.3, "distinguished": False}},
            "p = 0.3), which the seeds alone may make",
        ),
        ({"comparison": COMPARED | {"latency_difference_ms": 1.0}}, "1.0 ms slower"),
        (
            {"comparison": COMPARED | {"latency_difference_ms": 1.0, "difference": -0.01}},
            "trial 2 is slower and less accurate than plain GhostNet 0.5x: 1.0 ms slower",
        ),
    ],
)
def test_the_first_line_is_the_answer(changed: dict[str, Any], said: str) -> None:
    assert said in report.text(result(**changed)).splitlines()[0]


def test_plain_ghostnet_as_the_winner_is_listed_once() -> None:
    best = network("GhostNet 0.5x")
    lines = report.text(result(best=best, baseline=best, comparison=None)).splitlines()
    assert sum(line.startswith("GhostNet 0.5x (id") for line in lines) == 1


def test_a_network_deployed_as_trained_and_an_exhausted_space_are_reported() -> None:
    text = report.text(result(proxy=DEPLOYED, used_up=True, failed=1))
    assert "The winner is deployed as it was trained: 224 px, 10 classes, 45.6 MFLOPs." in text
    assert "2 trials, 1 failed, all that the budgets allow" in text
