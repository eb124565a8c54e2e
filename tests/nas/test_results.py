"""How a winner is chosen and what a search reports about it, on made-up accuracies."""

from dataclasses import replace

import numpy as np
import pytest

from ghostnas import stats
from ghostnas.ir import cost
from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.nas import results
from ghostnas.nas.constraints import Accuracies, Candidate
from ghostnas.nas.results import choose, pareto_front
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower

ARCH = zoo.ghostnet(0.1, 32, 10)
COUNTED = cost.count(lower(ARCH))
PREDICTED = Predictor(table.load("cortex-a76")).predict(ARCH)
IMAGES = 1000


def candidate(name, latency_ms, validation, trial=0):
    return Candidate(
        name=name,
        trial=trial,
        arch=ARCH,
        cost=COUNTED,
        latency=replace(PREDICTED, latency_ms=latency_ms),
        choosing=Accuracies(validation=tuple(validation), test=tuple(validation)),
    )


def test_the_most_accurate_wins_where_it_can_be_distinguished():
    slow = candidate("slow", 30, [0.80, 0.81, 0.79])
    quick = candidate("quick", 10, [0.60, 0.61, 0.59])
    assert choose([quick, slow], IMAGES) is slow


def test_the_fastest_of_indistinguishable_networks_wins():
    slow = candidate("slow", 26.7, [0.384, 0.385, 0.383])
    plain = candidate("GhostNet", 20.2, [0.383, 0.386, 0.382], trial=None)
    bad = candidate("bad", 5.0, [0.10, 0.11, 0.10])
    assert choose([slow, plain, bad], IMAGES) is plain
    assert choose([bad, plain, slow], IMAGES) is plain


def test_the_smallest_of_equally_fast_networks_wins():
    large, small = (candidate(name, 10, [0.5, 0.5]) for name in ("large", "small"))
    small = replace(small, cost=replace(small.cost, macs=small.cost.macs - 1))
    assert choose([large, small], IMAGES) is small


def test_with_one_seed_each_the_number_of_images_decides():
    best, near = candidate("best", 30, [0.84]), candidate("near", 10, [0.82])
    assert choose([best, near], 1000) is near
    assert choose([best, near], 100_000) is best


def test_the_reported_accuracy_is_not_flattered_by_the_choice():
    """Four equal networks, three seeds each, whose validation and test accuracies are correlated as
    a training's are: by the trainings that chose, the winner would look better than it is.
    """
    rng = np.random.default_rng(0)
    flattered, fresh, distinguished = [], [], 0
    for _ in range(1500):
        trained = 0.5 + 0.01 * rng.normal(size=(4, 3))
        networks = [candidate(str(at), 10 + at, trained[at]) for at in range(4)]
        best = max(networks, key=lambda each: np.mean(each.choosing.validation))
        flattered.append(np.mean(best.choosing.test))
        winner = choose(networks, IMAGES)
        ours, theirs = 0.5 + 0.01 * rng.normal(size=(2, 3))
        fresh.append(np.mean(ours))
        p = stats.welch_p_value(ours, theirs)
        distinguished += winner is not networks[0] and p < results.SIGNIFICANT
    assert np.mean(flattered) > 0.504
    assert np.mean(fresh) == pytest.approx(0.5, abs=0.0005)
    assert distinguished / 1500 < 0.05


def test_equal_networks_are_falsely_distinguished_in_at_most_one_search_in_twenty():
    rng = np.random.default_rng(1)
    costlier = 0
    for _ in range(1500):
        trained = 0.5 + 0.01 * rng.normal(size=(4, 3))
        networks = [candidate(str(at), 10 + at, trained[at]) for at in range(4)]
        costlier += choose(networks, IMAGES) is not networks[0]
    assert costlier / 1500 < 0.06


def row(trial, score, latency_ms, macs=1):
    return {"trial": trial, "score": score, "latency_ms": latency_ms, "macs": macs}


def test_a_front_keeps_one_of_equal_trials():
    assert [each["trial"] for each in pareto_front([row(0, 0.5, 10), row(1, 0.5, 10)])] == [0]


def test_a_front_depends_on_score_and_latency_alone():
    rows = [row(0, 0.5, 10, macs=9), row(1, 0.6, 12), row(2, 0.4, 11, macs=1), row(3, 0.6, 13)]
    assert [each["trial"] for each in pareto_front(rows)] == [0, 1]
    assert [each["trial"] for each in pareto_front(rows[::-1])] == [0, 1]
