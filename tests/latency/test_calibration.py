import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, norm

from ghostnas.errors import InputError
from ghostnas.latency import calibration
from ghostnas.latency.op_costs import Sums
from ghostnas.latency.table import Correction

COSTS = (1.1, 0.02, 0.3)  # scale, per op, per megabyte


def networks(rng, count, costs=COSTS, noise=0.0, guessed=0.0, bytes_a_weight=4):
    """Sums of random networks as arrays, and what they take on a device with these costs.

    `noise` is the relative deviation of each, `guessed` the share of it that comes from ops that
    the table lacks.
    """
    latency_ms = rng.uniform(5, 60, count)
    variance_ms2 = (guessed * rng.random(count) * latency_ms) ** 2
    ops, weights = rng.integers(60, 160, count), rng.integers(1_000_000, 8_000_000, count)
    sums = Sums(latency_ms, 0.1 * latency_ms, variance_ms2, ops, weights, np.zeros(count), ())
    true_ms = costs[0] * latency_ms + costs[1] * ops + costs[2] * weights * bytes_a_weight / 1e6
    deviation = np.hypot(noise, np.sqrt(variance_ms2) / latency_ms)
    return sums, true_ms * np.exp(deviation * rng.normal(size=count))


def one_by_one(sums):
    return [Sums(*(column[at].item() for column in sums[:6]), ()) for at in range(len(sums[0]))]


def fit(sums, measured_ms, bytes_a_weight=4):
    return calibration.fit(one_by_one(sums), measured_ms.tolist(), bytes_a_weight)


def costs_of(fitted):
    return (fitted.scale, fitted.per_op_ms, fitted.per_megabyte_ms)


# The fit


@pytest.mark.parametrize("bytes_a_weight", [4, 1])
@pytest.mark.parametrize("costs", [COSTS, (0.8, -0.01, 0.0), (1.0, 0.0, 0.5), (1.2, 0.0, 0.0)])
def test_the_costs_of_networks_without_noise_are_found(costs, bytes_a_weight):
    rng = np.random.default_rng(0)
    sums, true_ms = networks(rng, 12, costs, bytes_a_weight=bytes_a_weight)
    fitted = fit(sums, true_ms, bytes_a_weight)
    assert costs_of(fitted) == pytest.approx(costs, rel=1e-6, abs=1e-6)
    assert fitted.networks == len(fitted.scores) == 12
    fresh, fresh_ms = networks(rng, 20, costs, bytes_a_weight=bytes_a_weight)
    assert calibration.apply(fitted, fresh, bytes_a_weight) == pytest.approx(fresh_ms, rel=1e-6)


def test_costs_are_found_through_noise():
    found = [
        costs_of(fit(*networks(np.random.default_rng(seed), 100, noise=0.03))) for seed in range(10)
    ]
    assert np.mean(found, axis=0) == pytest.approx(COSTS, rel=0.1)


@pytest.mark.parametrize(
    ("costs", "used", "least"),
    [((1.1, 0, 0), 1, 0.6), ((1.0, 0.05, 0), 2, 0.6), ((1.0, 0.05, 0.5), 3, 0.95)],
)
def test_costs_that_the_data_do_not_show_are_left_at_zero(costs, used, least):
    picked = []
    for seed in range(30):
        fitted = fit(*networks(np.random.default_rng(seed), 60, costs, noise=0.03))
        picked.append(sum(cost != 0 for cost in costs_of(fitted)))
    assert np.mean(np.equal(picked, used)) >= least
    assert min(picked) >= used


def test_small_networks_count_as_much_as_large_ones():
    rng = np.random.default_rng(0)
    small, large = networks(rng, 10, (1.0, 0, 0)), networks(rng, 10, (2.0, 0, 0))
    sums = [
        *one_by_one(small[0]),
        *(each._replace(latency_ms=1000 * each.latency_ms) for each in one_by_one(large[0])),
    ]
    measured_ms = [*small[1], *1000 * large[1]]
    fitted = calibration.fit([s._replace(ops=0, weights=0) for s in sums], measured_ms, 4)
    assert fitted.scale == pytest.approx(1.2, rel=1e-6)  # least squares of 1 - scale / (1 or 2)


def test_too_few_networks_are_refused():
    fewest = calibration.FEWEST_NETWORKS
    with pytest.raises(InputError, match=rf"^{fewest - 1} networks are too few .*{fewest}$"):
        fit(*networks(np.random.default_rng(0), fewest - 1))
    fitted = fit(*networks(np.random.default_rng(0), fewest))
    assert fitted.networks == fewest
    assert calibration.quantile(fitted, 0.9) >= fitted.scores[-1]  # they allow the usual confidence


def test_a_fit_is_deterministic():
    sums, true_ms = networks(np.random.default_rng(0), 30, noise=0.05)
    assert fit(sums, true_ms) == fit(sums, true_ms)


# Scores


def test_scores_ascend_and_are_of_the_size_of_the_noise():
    scores = fit(*networks(np.random.default_rng(0), 200, noise=0.06)).scores
    assert list(scores) == sorted(scores)
    deviations = 0.06 / calibration.BASE_ERROR  # a normal's 68 and 95 % are 1 and 2 of them
    assert np.percentile(scores, 68) == pytest.approx(deviations, rel=0.2)
    assert np.percentile(scores, 95) == pytest.approx(2 * deviations, rel=0.2)


@pytest.mark.parametrize("outlier", [3.0, 0.4])
def test_a_network_takes_no_part_in_the_fit_that_scores_it(outlier):
    sums, measured_ms = networks(np.random.default_rng(0), 12, (1.1, 0, 0), noise=0.02)
    measured_ms[3] *= outlier
    each = [one._replace(ops=0, weights=0) for one in one_by_one(sums)]  # so a scale is all
    fitted = calibration.fit(each, measured_ms.tolist(), 4)
    others = [at for at in range(12) if at != 3]
    without = calibration.fit([each[at] for at in others], measured_ms[others].tolist(), 4)

    def score(predicting):
        predicted_ms = calibration.apply(predicting, each[3], 4)
        return abs(math.log(measured_ms[3] / predicted_ms)) / calibration.uncertainty(each[3])

    assert fitted.scores[-1] == pytest.approx(score(without), abs=1e-5)
    assert abs(score(fitted) - score(without)) > 0.5


def test_uncertainty_is_the_base_error_and_that_of_guessed_ops():
    known = Sums(20.0, 2.0, 0.0, 100, 10**6, 0.0, ())
    assert calibration.uncertainty(known) == pytest.approx(calibration.BASE_ERROR)
    guessed = known._replace(variance_ms2=1.5**2)
    expected = math.hypot(calibration.BASE_ERROR, 1.5 / 20.0)
    assert calibration.uncertainty(guessed) == pytest.approx(expected)
    assert calibration.uncertainty(guessed._replace(spread_ms=99.0)) == pytest.approx(expected)


# Intervals


@pytest.mark.parametrize(("noise", "guessed"), [(0.05, 0.0), (0.03, 0.2)])
def test_intervals_of_fresh_networks_hold_what_they_say_in_four_of_five_calibrations(
    noise, guessed
):
    coverages = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        fitted = fit(*networks(rng, 100, noise=noise, guessed=guessed))
        fresh, fresh_ms = networks(rng, 2000, noise=noise, guessed=guessed)
        predicted = calibration.apply(fitted, fresh, 4)
        width = calibration.quantile(fitted, 0.9) * calibration.uncertainty(fresh)
        coverages.append(np.mean(np.abs(np.log(fresh_ms / predicted)) <= width))
    assert 0.9 <= np.mean(coverages) <= 0.96
    assert 0.7 <= np.mean(np.greater_equal(coverages, 0.9)) <= 0.95
    assert min(coverages) >= 0.8


def ranked(count):
    """A correction whose every score is its rank."""
    scores = tuple(float(rank) for rank in range(1, count + 1))
    return Correction(scale=1.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=count, scores=scores)


@given(count=st.integers(5, 300), confidence=st.floats(0.05, 0.99))
def test_the_rank_is_the_least_with_which_four_of_five_calibrations_cover(count, confidence):
    plain = math.ceil((count + 1) * confidence)
    if plain > count:
        with pytest.raises(InputError, match="needs more than the"):
            calibration.quantile(ranked(count), confidence)
        return

    def falls_short(rank):  # how often the coverage, which is beta distributed, is below
        return beta.cdf(confidence, rank, count + 1 - rank)

    found = calibration.quantile(ranked(count), confidence)
    if falls_short(count) > 0.2 + 1e-9:
        assert count < found < 3 * count
        return
    rank = int(found)
    assert plain <= rank <= count
    assert falls_short(rank) <= 0.2 + 1e-9
    assert rank == plain or falls_short(rank - 1) > 0.2 - 1e-9


@pytest.mark.parametrize(
    ("count", "confidence", "rank"), [(100, 0.9, 94), (100, 0.5, 55), (20, 0.9, 20), (16, 0.9, 16)]
)
def test_ranks_by_hand(count, confidence, rank):
    assert calibration.quantile(ranked(count), confidence) == rank


@pytest.mark.parametrize(
    ("count", "factor"), [(9, 1.2726), (10, 1.2080), (12, 1.1095), (15, 1.0075)]
)
def test_where_the_highest_score_is_not_enough_it_is_scaled(count, factor):
    assert calibration.quantile(ranked(count), 0.9) / count == pytest.approx(factor, abs=1e-4)


@pytest.mark.parametrize("draw", ["exponential", "normal", "uniform"])
@pytest.mark.parametrize("count", [10, 12, 15, 16, 20, 22, 40, 65, 74])
def test_with_every_number_of_networks_one_calibration_in_five_covers_less_than_it_says(
    count, draw
):
    """Scores of a distribution whose coverage is known, so that only the calibration varies."""
    rng = np.random.default_rng(count)
    scores, covered = {
        "exponential": (rng.exponential(size=(4000, count)), lambda q: 1 - np.exp(-q)),
        "normal": (np.abs(rng.normal(size=(4000, count))), lambda q: 2 * norm.cdf(q) - 1),
        "uniform": (rng.random((4000, count)), lambda q: min(q, 1.0)),
    }[draw]
    short = 0
    for each in np.sort(scores):
        fitted = Correction(
            scale=1.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=count, scores=tuple(each)
        )
        short += covered(calibration.quantile(fitted, 0.9)) < 0.9
    assert short / len(scores) <= 0.2 + 0.02  # three standard deviations of the simulation
    if draw == "exponential" and count < 16:
        assert short / len(scores) >= 0.18  # and no wider than that takes


@given(count=st.integers(5, 300), one=st.floats(0.05, 0.8), other=st.floats(0.05, 0.8))
def test_more_confidence_takes_a_wider_interval(count, one, other):
    low, high = sorted((one, other))
    widths = [calibration.quantile(ranked(count), confidence) for confidence in (low, high)]
    assert widths == sorted(widths)


def test_too_few_networks_for_a_confidence_say_what_is_possible():
    with pytest.raises(
        InputError,
        match=r"^a confidence of 0\.9 needs more than the 8 networks that the table was calibrated "
        r"on; they allow 0\.88$",
    ):
        calibration.quantile(ranked(8), 0.9)
    for count in range(5, 150):
        with pytest.raises(InputError) as caught:
            calibration.quantile(ranked(count), 0.999)
        allowed = float(str(caught.value).rpartition(" ")[2])
        assert calibration.quantile(ranked(count), allowed) >= count
        with pytest.raises(InputError):
            calibration.quantile(ranked(count), allowed + 0.01)


# Networks at once


def test_a_latency_is_never_negative():
    saving = Correction(
        scale=1.0, per_op_ms=-0.1, per_megabyte_ms=-0.5, networks=5, scores=(1.0,) * 5
    )
    sums = Sums(2.0, 0.1, 0.0, 100, 1_000_000, 0.0, ())
    assert calibration.apply(saving, sums, 4) == pytest.approx(0.2)
    large = sums._replace(latency_ms=50.0)
    assert calibration.apply(saving, large, 4) == pytest.approx(50 - 10 - 2)


def test_networks_that_take_less_than_their_ops_leave_no_negative_predictions_behind():
    rng = np.random.default_rng(0)
    sums, _ = networks(rng, 30)
    fitted = fit(sums, rng.uniform(0.01, 50, 30))
    assert all(math.isfinite(score) for score in fitted.scores)
    assert (calibration.apply(fitted, sums, 4) > 0).all()


def test_arrays_and_single_networks_agree():
    sums, true_ms = networks(np.random.default_rng(0), 50, noise=0.05, guessed=0.2)
    fitted = fit(sums, true_ms)
    one = one_by_one(sums)
    latencies_ms = [calibration.apply(fitted, each, 4) for each in one]
    assert calibration.apply(fitted, sums, 4) == pytest.approx(latencies_ms, rel=1e-12)
    uncertainties = [calibration.uncertainty(each) for each in one]
    assert calibration.uncertainty(sums) == pytest.approx(uncertainties, rel=1e-12)
