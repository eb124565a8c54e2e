"""Counts and draws within budgets, held against every network of small spaces."""

import itertools
import random
from collections import Counter

import budgeted
import numpy as np
import pytest
from budgeted import LOOSE, SPACE, TIGHT, TINY, macs
from scipy.stats import chi2
from small import SPACE as SMALL_TEXT

from ghostnas.errors import BudgetError, InputError
from ghostnas.nas import feasible
from ghostnas.nas.constraints import Constraints
from ghostnas.networks import enumeration, space

MIDDLE = SPACE.pin(  # 1,152 combinations of options
    **{name: options[0] for name, options in SPACE.choices.items() if name.startswith("group1")},
    **{"group2.cheap_kernel": 3},
)


def key_of(params):
    return frozenset(params.items())


def every(searched):
    """All settings of a space, from the walk of the whole space."""
    return [params for params, _ in enumeration.explore(searched.build)]


def largest(searched, quantities, share):
    """Budgets that the given share of the networks meets each."""
    constraints = Constraints("arm", ["1MFLOPs"])
    costs = [constraints.cost_of(searched.decode(params)) for params in every(searched)]
    amounts = {
        "MFLOPs": [counted.macs / 1e6 for counted, _ in costs],
        "Mparams": [counted.params / 1e6 for counted, _ in costs],
        "ms": [predicted.latency_ms for _, predicted in costs],
        "KBpeak": [counted.peak_activation_bytes / 1e3 for counted, _ in costs],
    }
    return [f"{np.quantile(amounts[each], share):.9f}{each}" for each in quantities]


BUDGETS = {
    "one sum": ("MFLOPs",),
    "two sums": ("MFLOPs", "Mparams"),
    "three sums": ("MFLOPs", "Mparams", "ms"),
    "a sum and a peak": ("Mparams", "KBpeak"),
    "only a peak": ("KBpeak",),
}


@pytest.mark.parametrize("quantities", BUDGETS.values(), ids=BUDGETS.keys())
def test_what_is_listed_and_drawn_is_exactly_what_meets_the_budgets(quantities):
    constraints = Constraints("arm", largest(MIDDLE, quantities, 0.5))
    expected = {
        key_of(params)
        for params in every(MIDDLE)
        if constraints.utilization(MIDDLE.decode(params)) <= 1
    }
    found = constraints.feasible(MIDDLE)
    assert found.all is not None
    assert found.count == len(found.all) == len(expected)
    assert {key_of(params) for params in found.all} == expected
    drawn = found.draw(np.random.default_rng(0), 300)
    assert len(drawn) == 300
    assert {key_of(params) for params in drawn} <= expected
    assert 0 < found.acceptance <= 1
    near = found.near(np.random.default_rng(0), drawn[0], 20)
    assert {key_of(params) for params in near} <= expected


def test_a_count_that_is_not_listed_is_an_estimate(monkeypatch):
    exact = budgeted.feasible(MIDDLE, TIGHT)
    monkeypatch.setattr(feasible, "SMALL", 0)
    estimated = budgeted.feasible(MIDDLE, TIGHT)
    assert estimated.all is None
    assert estimated.count == pytest.approx(exact.count, rel=0.1)


@pytest.mark.parametrize("limit", [TIGHT, LOOSE])
def test_every_setting_is_drawn_equally_often(limit):
    found = budgeted.feasible(MIDDLE, limit)
    drawn = Counter(map(key_of, found.draw(np.random.default_rng(3), 20 * len(found.all))))
    counts = np.array([drawn[key_of(params)] for params in found.all])
    statistic = float(((counts - 20) ** 2 / 20).sum())
    assert 0.001 < chi2.sf(statistic, len(counts) - 1) < 0.999


def test_with_a_peak_every_setting_is_drawn_equally_often_too():
    found = Constraints("arm", largest(MIDDLE, ("Mparams", "KBpeak"), 0.6)).feasible(MIDDLE)
    drawn = Counter(map(key_of, found.draw(np.random.default_rng(3), 20 * len(found.all))))
    counts = np.array([drawn[key_of(params)] for params in found.all])
    statistic = float(((counts - 20) ** 2 / 20).sum())
    assert 0.001 < chi2.sf(statistic, len(counts) - 1) < 0.999


def test_the_same_seed_draws_the_same():
    found = budgeted.feasible(MIDDLE, TIGHT)
    first, again, other = (found.draw(np.random.default_rng(seed), 50) for seed in (1, 1, 2))
    assert first == again != other


def test_near_keeps_the_budget_and_changes_few_numbers():
    found = budgeted.feasible(SPACE, TIGHT)
    rng = np.random.default_rng(0)
    fits = found.draw(rng, 1)[0]
    changes = [
        sum(fits.get(name, value) != value for name, value in params.items())
        for params in found.near(rng, fits, 200)
    ]
    assert np.mean(changes) < 1  # of eleven
    over = {name: max(options) for name, options in SPACE.choices.items()}
    assert not found.fits(over)
    near = found.near(rng, over, 200)
    assert len(near) == 200
    assert all(macs(SPACE.decode(params)) <= TIGHT for params in near)
    far = found.draw(rng, 200)

    def distance(several):
        return np.mean(
            [sum(over[name] != value for name, value in params.items()) for params in several]
        )

    assert distance(near) < distance(far) - 1
    free = found.near(rng, {"alpha": 0.5}, 50)  # what it does not name is free
    assert len({key_of(params) for params in free}) > 20
    assert np.mean([params["alpha"] == 0.5 for params in free]) > 0.8


def test_one_network_in_a_million_is_drawn_without_searching():
    searched = space.load("ghostnet").pin(alpha=0.5, resolution=128)
    smallest = feasible.find_smallest(searched, lambda arch: macs(arch) / 1e12)
    limit = 1.2 * macs(searched.decode(smallest))
    found = budgeted.feasible(searched, limit)
    assert not any(found.fits(searched.sample(random.Random(seed))) for seed in range(100))
    assert 1000 < found.count < searched.size / 1e6
    drawn = found.draw(np.random.default_rng(0), 200)
    assert len({key_of(params) for params in drawn}) > 150
    assert all(macs(searched.decode(params)) <= limit for params in drawn)


def test_a_budget_that_nothing_meets_is_an_error():
    with pytest.raises(BudgetError, match="no network of space small meets the budgets"):
        budgeted.feasible(SPACE, 1000)


def test_a_space_that_searches_strides_is_rejected():
    strided = space.parse(SMALL_TEXT.replace("stride = 2", "stride = [1, 2]", 1), "s", "s.toml")
    with pytest.raises(InputError, match=r"searches group1\.stride"):
        budgeted.feasible(strided)


def test_asked_are_the_numbers_that_decide_the_network():
    found = budgeted.feasible(TINY)
    for params in itertools.islice(every(TINY), 50):
        assert found.asked({**params, "unknown": 3}) == params
    assert found.asked({}) == {name: options[0] for name, options in TINY.choices.items()}


def test_settings_that_round_to_the_same_network_are_one_network():
    found = budgeted.feasible(SPACE)
    published = found.asked({"alpha": 0.5, "group2.depth": 1})
    assert published["group2.width"] == 16
    narrower = {**published, "group2.width": 12}  # times 0.5, rounded to 4: both are 8 channels
    assert found.network(narrower) == found.network(published)
    assert found.network(published) != found.network({**published, "group2.depth": 3})
