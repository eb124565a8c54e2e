"""Spreads, differences and rankings, against scipy and against cases with a known answer."""

import math
import time

import numpy as np
import pytest
from scipy import stats

from ghostnas.errors import InputError
from ghostnas.stats import (
    Summary,
    Tau,
    difference_interval,
    holm,
    kendall,
    percent,
    proportions_p_value,
    summary,
    welch_p_value,
)


def drawn(count=40, repeats=3, noise=1.0, seed=0):
    """Scores, and truths with repeats that follow them under noise."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    return scores, scores[:, None] + noise * rng.normal(size=(count, repeats))


def test_a_summary_has_the_sample_standard_deviation():
    found = summary([0.90, 0.92, 0.94])
    assert found.mean == pytest.approx(0.92)
    assert found.std == pytest.approx(0.02)
    assert (found.min, found.max, found.count) == (0.90, 0.94, 3)


def test_one_value_has_no_known_spread():
    assert summary([0.5]) == Summary(mean=0.5, std=None, min=0.5, max=0.5, count=1)


@pytest.mark.parametrize("values", [[], [0.9, math.nan], [math.inf], [[0.5, 0.6]]])
def test_a_summary_of_nothing_or_of_non_finite_numbers_is_refused(values):
    with pytest.raises(InputError, match=r"^values: "):
        summary(values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.908, 0.912, 0.912, 0.916], "91.2 % +- 0.3 (4 seeds, 90.8 to 91.6)"),
        ([0.5, 0.5], "50.0 % +- 0.0 (2 seeds, 50.0 to 50.0)"),
        ([1], "100.0 % (1 seed)"),
    ],
)
def test_accuracies_as_text(values, text):
    assert percent(summary(values)) == text


@pytest.mark.parametrize("counts", [(2, 2), (3, 7), (30, 4)])
@pytest.mark.parametrize("shift", [0.0, 0.01, 0.1])
def test_welch_p_value_is_welch(counts, shift):
    rng = np.random.default_rng(sum(counts))
    a = rng.normal(0.90, 0.01, counts[0])
    b = rng.normal(0.90 + shift, 0.03, counts[1])
    expected = stats.ttest_ind(a, b, equal_var=False).pvalue
    assert welch_p_value(a, b) == pytest.approx(expected, rel=1e-9)
    assert welch_p_value(b, a) == pytest.approx(expected, rel=1e-9)


def test_equal_networks_are_distinguished_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    told = [welch_p_value(*rng.normal(0.9, 0.01, (2, 4))) < 0.05 for _ in range(2000)]
    assert 0.02 < np.mean(told) < 0.065


@pytest.mark.parametrize(("a", "b"), [([0.9], [0.1, 0.2]), ([0.9, 0.8], [0.1]), ([0.9], [0.1])])
def test_nothing_can_be_concluded_from_one_seed(a, b):
    assert welch_p_value(a, b) is None


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([0.5, 0.5], [0.5, 0.5, 0.5], 1.0),
        ([0.5, 0.5], [0.51, 0.51], None),  # two seeds each: the spread is unknown
        ([0.1 + 0.2, 0.3], [0.3, 0.3], 1.0),  # made unequal by rounding
    ],
)
def test_without_spread_equal_is_equal(a, b, p):
    assert welch_p_value(a, b) == p


def test_with_spread_on_one_side_only_the_test_holds():
    a, b = [0.90, 0.92, 0.91], [0.95, 0.95]
    t = (0.95 - 0.91) / math.sqrt(0.01**2 / 3)
    assert welch_p_value(a, b) == pytest.approx(2 * stats.t.sf(t, 2))


def test_the_interval_covers_the_difference_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        low, high = difference_interval(rng.normal(0.91, 0.01, 3), rng.normal(0.90, 0.02, 4))
        held += low <= 0.01 <= high
    assert 930 <= held <= 975
    assert difference_interval([0.5], [0.4, 0.6]) is None
    assert difference_interval([0.5, 0.5], [0.5, 0.5]) is None


def test_proportions_are_compared_by_the_number_of_images():
    assert proportions_p_value(0.5, 0.5, 100) == 1.0
    assert proportions_p_value(1.0, 1.0, 100) == 1.0
    z = 0.02 / math.sqrt(2 * 0.51 * 0.49 / 1000)
    assert proportions_p_value(0.5, 0.52, 1000) == pytest.approx(2 * stats.norm.sf(z))


def test_holms_p_values_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, 0.06, 0.06]
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_welch_p_value_refuses_an_empty_side():
    with pytest.raises(InputError, match=r"^values: "):
        welch_p_value([], [0.5])


@pytest.mark.parametrize("decimals", [8, 0])  # with ties at 0
def test_tau_equals_scipys(decimals):
    scores, truth = drawn(noise=0.7)
    scores, truth = scores.round(decimals), truth[:, 0].round(decimals)
    found = kendall(scores, truth)
    assert found.tau == pytest.approx(stats.kendalltau(scores, truth).statistic, rel=1e-12)
    assert found.low < found.tau < found.high


def test_the_interval_equals_that_of_resampling_one_by_one():
    scores, truth = drawn(count=20, repeats=1)
    rng = np.random.default_rng(1)
    taus = []
    for _ in range(1000):
        at = rng.integers(0, 20, 20)
        taus.append(stats.kendalltau(scores[at], truth[at, 0]).statistic)
    low, high = np.quantile(taus, [0.025, 0.975])
    found = kendall(scores, truth)
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)


@pytest.mark.slow
def test_the_interval_covers_the_true_tau_about_as_often_as_it_says():
    # Two normal variables of correlation r have tau = 2 / pi * asin(r) (Greiner).
    r, inside = 0.7, []
    rng = np.random.default_rng(0)
    for _ in range(150):
        x, noise = rng.normal(size=(2, 30))
        found = kendall(x, r * x + math.sqrt(1 - r * r) * noise)
        inside.append(found.low <= 2 / math.pi * math.asin(r) <= found.high)
    assert 0.87 <= np.mean(inside) <= 0.99


def test_repeats_are_resampled_too_and_tau_is_that_of_their_means():
    scores, truth = drawn(count=15, repeats=4, noise=3.0)
    found, without = kendall(scores, truth), kendall(scores, truth.mean(1))
    assert found.tau == without.tau
    assert found.low < without.low
    assert kendall(scores, truth[:, :1]) == kendall(scores, truth[:, 0])
    same = np.repeat(truth.mean(1, keepdims=True), 4, 1)  # repeats that agree add nothing
    agreeing = kendall(scores, same)
    assert agreeing.high - agreeing.low == pytest.approx(without.high - without.low, abs=0.05)


def test_the_interval_depends_on_the_data_and_the_seed_alone():
    scores, truth = drawn()
    assert kendall(scores, truth) == kendall(scores, truth)
    assert kendall(scores, truth) != kendall(scores, truth, seed=1)


@pytest.mark.parametrize(("sign", "tau"), [(1, 1.0), (-1, -1.0)])
def test_rankings_that_agree_or_disagree_completely(sign, tau):
    scores = np.arange(10.0)
    assert kendall(scores, sign * scores**3) == Tau(tau=tau, low=tau, high=tau)


def test_any_increasing_function_of_the_scores_has_the_same_tau():
    scores, truth = drawn()
    assert kendall(np.exp(scores), truth) == kendall(scores, truth)


def test_two_thousand_resamples_of_forty_are_quick():
    began = time.process_time()
    kendall(*drawn())
    assert time.process_time() - began < 1.0


def test_three_architectures_have_an_interval_although_resamples_are_all_ties():
    found = kendall([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert found.tau == pytest.approx(1 / 3)
    assert (found.low, found.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([1, 2], [1, 2], "needs 3 or more architectures, not 2"),
        ([1, 2, 3], [1, 2], r"needs scores \(n,\) and truth \(n,\) or \(n, repeats\)"),
        ([1, 2, 3], np.zeros((3, 0)), "needs scores"),
        ([[1, 2, 3]], [1], "needs scores"),
        ([1, 2, math.nan], [1, 2, 3], "^scores: all must be finite"),
        ([1, 2, 3], [1, 2, math.inf], "^truth: all must be finite"),
        ([1, 1, 1], [1, 2, 3], "^all scores are 1: they rank nothing"),
        ([1, 2, 3], [5, 5, 5], "^all truths are 5: they rank nothing"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, truth, message):
    with pytest.raises(InputError, match=message):
        kendall(scores, truth)
