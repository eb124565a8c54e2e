import itertools

import numpy as np
import pytest

from ghostnas.errors import InputError
from ghostnas.nas import pareto


def rows(points):
    """Trials of (milliseconds, MACs, score)."""
    return [
        {"trial": at, "latency_ms": ms, "macs": macs, "params": 1, "score": score}
        for at, (ms, macs, score) in enumerate(points)
    ]


def dominated(one, by, columns):
    at_least = by["score"] >= one["score"] and all(by[c] <= one[c] for c in columns)
    return at_least and (by["score"] > one["score"] or any(by[c] < one[c] for c in columns))


@pytest.mark.parametrize("costs", [("latency",), ("latency", "macs"), ("macs", "params")])
def test_a_front_is_what_no_other_trial_dominates(costs):
    rng = np.random.default_rng(0)
    several = rows(rng.integers(1, 8, (60, 3)).astype(float))
    columns = [pareto.COSTS[name] for name in costs]
    front = pareto.front(several, costs)
    kinds = {(*(row[c] for c in columns), row["score"]) for row in front}
    assert len(kinds) == len(front)  # equal ones once
    for row in several:
        free = not any(dominated(row, other, columns) for other in several)
        assert free == ((*(row[c] for c in columns), row["score"]) in kinds)


def test_a_hypervolume_is_the_area_that_is_reached():
    several = rows([(1.0, 1, 0.5), (2.0, 1, 0.8), (3.0, 1, 0.6)])
    # From 1 to 2 ms a score of 0.5, from 2 to 4 of 0.8, of 4 ms in all.
    expected = (1 * 0.5 + 2 * 0.8) / 4
    assert pareto.hypervolume(several, ["latency"], {"latency": 4.0}) == pytest.approx(expected)
    assert pareto.hypervolume(several, ["latency"], {"latency": 1.0}) == 0


def test_a_hypervolume_of_two_costs_agrees_with_counting():
    rng = np.random.default_rng(1)
    several = rows(np.column_stack([rng.integers(0, 8, (12, 2)), rng.random(12)]))
    limits = {"latency": 8.0, "macs": 8.0}
    counted = sum(
        max((r["score"] for r in several if r["latency_ms"] <= x and r["macs"] <= y), default=0.0)
        for x, y in itertools.product(range(8), repeat=2)
    )
    found = pareto.hypervolume(several, ["latency", "macs"], limits)
    assert found == pytest.approx(counted / 64)


def test_a_gain_is_highest_where_the_front_is_low():
    done = np.array([0.5, 0.9])
    costs = np.array([[0.0], [1.0]])
    better_cheap, better_dear, worse = 0.8, 0.85, 0.4
    found = pareto.gains(
        np.array([better_cheap, better_dear, worse]), np.array([[0.1], [1.0], [0.5]]), done, costs
    )
    assert found[0] > 0
    assert found[1] == found[2] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency", "write accuracy and one or two of"),
        ("accuracy", "write accuracy and one or two of"),
        ("accuracy,latency,latency", "write accuracy and one or two of"),
        ("accuracy,speed", "'speed' is none of accuracy, latency, macs, params"),
        ("accuracy,latency,macs,params", "write accuracy and one or two of"),
    ],
)
def test_what_cannot_be_traded_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        pareto.parse(text)


def test_the_accuracy_is_always_traded():
    assert pareto.parse("macs, Accuracy") == ("macs",)
    assert pareto.parse("accuracy,latency,params") == ("latency", "params")
