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
from ghostnas.nas.pareto import front
from ghostnas.nas.results import choose
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower

ARCH = zoo.ghostnet(0.1, 32, 10)
COUNTED = cost.count(lower(ARCH))
PREDICTED = Predictor(table.load("cortex-a76")).predict(ARCH)


def candidate(name, latency_ms, validation, trial=0):
    return Candidate(
        name=name,
        trial=trial,
        arch=ARCH,
        cost=COUNTED,
        latency=replace(PREDICTED, latency_ms=latency_ms),
        choosing=Accuracies(validation=tuple(validation), test=tuple(validation)),
    )


def test_the_most_accurate_wins_and_a_little_is_enough():
    slow = candidate("slow", 30, [0.80, 0.81, 0.79])
    quick = candidate("quick", 10, [0.60, 0.61, 0.59])
    assert choose([quick, slow]) is slow
    slow = candidate("slow", 26.7, [0.384, 0.385, 0.383])
    plain = candidate("GhostNet", 20.2, [0.383, 0.386, 0.382], trial=None)
    assert choose([slow, plain]) is slow
    assert choose([plain, slow]) is slow
    assert choose([candidate("slow", 30, [0.84]), candidate("near", 10, [0.83])]).name == "slow"


def test_of_equally_accurate_networks_the_fastest_wins_then_the_smallest():
    slow, quick = candidate("slow", 30, [0.5, 0.6]), candidate("quick", 10, [0.6, 0.5])
    assert choose([slow, quick]) is quick
    large, small = (candidate(name, 10, [0.5, 0.5]) for name in ("large", "small"))
    small = replace(small, cost=replace(small.cost, macs=small.cost.macs - 1))
    assert choose([large, small]) is small


def test_what_the_trials_predict_counts_as_far_as_it_is_certain():
    lucky = candidate("lucky", 10, [0.50, 0.56])  # its mean 0.03, its seeds 0.04 apart
    solid = candidate("solid", 10, [0.50, 0.52])
    networks = [lucky, solid]
    guesses = {"lucky": 0.40, "solid": 0.50}  # of shorter trainings, at another level
    for std, winner in ((0.001, solid), (1.0, lucky)):
        assert choose(networks, lambda each, std=std: (guesses[each.name], std)) is winner
    assert choose(networks) is lucky
    assert choose(networks, lambda each: (0.45, 0.001)) is lucky  # predicted equal


def test_predictions_choose_better_networks_than_seeds_alone():
    rng = np.random.default_rng(0)
    alone, informed = [], []
    for _ in range(400):
        true = 0.5 + 0.01 * rng.normal(size=4)
        trained = true[:, None] + 0.02 * rng.normal(size=(4, 2))
        guesses = 0.3 + (true - 0.5) + 0.01 * rng.normal(size=4)
        networks = [candidate(str(at), 10, trained[at], trial=at) for at in range(4)]
        alone.append(true[choose(networks).trial])
        chosen = choose(networks, lambda each, guesses=guesses: (guesses[each.trial], 0.01))
        informed.append(true[chosen.trial])
    assert np.mean(informed) > np.mean(alone) + 0.001


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
        winner = choose(networks)
        ours, theirs = 0.5 + 0.01 * rng.normal(size=(2, 3))
        fresh.append(np.mean(ours))
        p = stats.welch_p_value(ours, theirs)
        distinguished += winner is not networks[0] and p < results.SIGNIFICANT
    assert np.mean(flattered) > 0.504
    assert np.mean(fresh) == pytest.approx(0.5, abs=0.0005)
    assert distinguished / 1500 < 0.05


def row(trial, score, latency_ms, macs=1):
    return {"trial": trial, "score": score, "latency_ms": latency_ms, "macs": macs}


def test_a_front_keeps_one_of_equal_trials():
    equal = [row(0, 0.5, 10), row(1, 0.5, 10)]
    assert [each["trial"] for each in front(equal, ["latency"])] == [0]


def test_a_front_depends_on_score_and_latency_alone():
    rows = [row(0, 0.5, 10, macs=9), row(1, 0.6, 12), row(2, 0.4, 11, macs=1), row(3, 0.6, 13)]
    assert [each["trial"] for each in front(rows, ["latency"])] == [0, 1]
    assert [each["trial"] for each in front(rows[::-1], ["latency"])] == [0, 1]
