"""From the sum over a network's ops to the whole: fitted to whole networks, and calibrated.

The interval is that of normalised conformal prediction (Lei et al., "Distribution-Free Predictive
Inference for Regression", 2018; split by leaving out one network at a time): a network's score is
how far it lies from the prediction of a fit that has not seen it, in units of the uncertainty that
the prediction states; the quantile of the scores scales the uncertainty of every other prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError
from ghostnas.latency.op_costs import Sums
from ghostnas.latency.table import SCORE_UNIT, Correction

# Of a network whose ops are all known; the scores scale it to its true size.
BASE_ERROR = SCORE_UNIT
LEAST_SHARE = 0.1  # of the sum is kept at least, as corrections are made for larger networks
FEWEST_NETWORKS = 10  # fewer allow no interval of 90 %
SHORTFALLS = 0.2  # of calibrations in which an interval may cover less than it says


def fit(sums: Sequence[Sums], measured_ms: Sequence[float], bytes_a_weight: int) -> Correction:
    """The correction from networks that were measured whole.

    Of three models (a scale; that and a cost for each op; that and one for each byte of weights)
    it takes the one that predicts best what it was not fitted to.

    Raises:
        InputError: there are too few networks.
    """
    if len(sums) < FEWEST_NETWORKS:
        raise InputError(
            f"{len(sums)} networks are too few for a correction: needs {FEWEST_NETWORKS}"
        )
    measured = np.array(measured_ms)
    features = np.array([_features(each, bytes_a_weight) for each in sums])
    models = [list(range(count)) for count in (1, 2, 3)]
    residuals = [_residuals(features[:, model], measured) for model in models]
    best = min(range(len(models)), key=lambda at: float(np.mean(np.abs(residuals[at]))))
    costs = np.zeros(3)
    costs[models[best]] = _relative_fit(features[:, models[best]], measured)
    scores = sorted(
        abs(residual) / uncertainty(each)
        for residual, each in zip(residuals[best], sums, strict=True)
    )
    return Correction(
        scale=float(costs[0]),
        per_op_ms=float(costs[1]),
        per_megabyte_ms=float(costs[2]),
        networks=len(sums),
        scores=tuple(round(float(score), 6) for score in scores),
    )


def apply(correction: Correction, sums: Sums, bytes_a_weight: int) -> Any:
    """Milliseconds of the network that the ops form, or of networks if the sums are arrays."""
    costs = (correction.scale, correction.per_op_ms, correction.per_megabyte_ms)
    features = _features(sums, bytes_a_weight)
    corrected = sum(cost * each for cost, each in zip(costs, features, strict=True))
    return np.maximum(corrected, LEAST_SHARE * sums.latency_ms)


def uncertainty(sums: Sums) -> Any:
    """Relative, before it is calibrated: the base error and that of interpolated ops."""
    return np.hypot(BASE_ERROR, np.sqrt(sums.variance_ms2) / sums.latency_ms)


def quantile(correction: Correction, confidence: float) -> float:
    """How many uncertainties cover this share of networks.

    The rank of the score is raised until four in five calibrations with as many networks cover at
    least that share (Vovk, "Conditional validity of inductive conformal predictors", 2012); without
    that, as many would cover less as cover more. If not even the highest score does so (below 16
    networks for 90 %: with 12, the highest falls short in 28 of 100 calibrations) it is scaled by
    what suffices for every distribution of scores whose tail falls at least as fast as an
    exponential's, including the normal's: by 1.21 for 10 networks, by 1.01 for 15.

    Raises:
        InputError: there are too few networks for it.
    """
    networks = correction.networks
    rank = math.ceil((networks + 1) * confidence)
    if rank > networks:
        highest = networks / (networks + 1)
        raise InputError(
            f"a confidence of {confidence:g} needs more than the {networks} networks that the "
            f"table was calibrated on; they allow {math.floor(100 * highest) / 100:g}"
        )
    while rank < networks and _at_least(rank, networks, confidence) > SHORTFALLS:
        rank += 1
    if _at_least(rank, networks, confidence) <= SHORTFALLS:
        return correction.scores[rank - 1]
    reached = 1.0 - SHORTFALLS ** (
        1.0 / networks
    )  # the tail that the highest leaves, in four of five
    return correction.scores[-1] * math.log(1.0 - confidence) / math.log(reached)


def _at_least(count: int, trials: int, probability: float) -> float:
    """The probability of at least `count` successes."""
    return sum(
        math.comb(trials, n) * probability**n * (1 - probability) ** (trials - n)
        for n in range(count, trials + 1)
    )


def _features(sums: Sums, bytes_a_weight: int) -> tuple[float, float, float]:
    return (sums.latency_ms, sums.ops, sums.weights * bytes_a_weight / 1e6)


def left_out(features: Array, measured: Array) -> Array:
    """For each network, what a fit of the features to all others predicts."""
    predicted = np.zeros(len(measured))
    for index in range(len(measured)):
        others = np.arange(len(measured)) != index
        predicted[index] = features[index] @ _relative_fit(features[others], measured[others])
    return predicted


def _residuals(features: Array, measured: Array) -> Array:
    """For each network, the log of measured over predicted by a fit that it took no part in."""
    predicted = np.maximum(left_out(features, measured), LEAST_SHARE * features[:, 0])
    logs: Array = np.log(measured / predicted)
    return logs


def _relative_fit(features: Array, measured: Array) -> Array:
    fitted: Array = np.linalg.lstsq(
        features / measured[:, None], np.ones(len(measured)), rcond=None
    )[0]
    return fitted
