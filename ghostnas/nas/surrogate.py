"""What is expected of networks that were not trained: a Bayesian regression with its uncertainty.

The mean is linear in groups of features (choices, log costs, training-free scores); random Fourier
features of the choices (Rahimi and Recht, 2007) stand for what these do together. How much each
group explains and how noisy a score is are taken from the scores themselves, by their marginal
likelihood. Scores of short trainings count as the same network's with more noise. Training-free
scores are features once they are `smoothed` by a like regression.

Knows nothing of networks, spaces or Optuna: features in, predictions and draws out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ghostnas.arrays import Array

NOISES = (0.03, 0.1, 0.3, 1.0)  # variance of a full score over that of the networks'
NOISINESS = 1.0  # power of that ratio in its prior density: short trainings are noisy
SHARES = (0.1, 0.3, 1.0)  # of that variance which a group of features may explain
OFFSET = 1.0  # prior variance of the mean over all networks
FEW = 2  # scores so few that their spread says little are taken to spread wider
HYPER_SCORES, MOST_SCORES = 150, 600  # that variances and posterior are fitted to
FEWEST_SMOOTHED = 8
WAVES, WAVE_LENGTH = 128, 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Features that share a prior.

    Attributes:
        values: (networks, features), as `scaled` leaves them.
        mean: of each feature's weight a priori, in standard deviations of the scores.
        shares: variances that the group's weights may have, as parts of the scores' own.
    """

    values: Array
    mean: Array
    shares: Sequence[float] = SHARES


def scaled(values: Array) -> Array:
    """Features centred, and all divided by one number so that rows have a mean square of 1."""
    centred = values - values.mean(0)
    size = float((centred**2).sum(1).mean()) ** 0.5
    found: Array = centred / size if size else centred
    return found


def one_hot(
    choices: Sequence[Mapping[str, object]], options: Mapping[str, Sequence[object]]
) -> Array:
    """Features (networks, options of all names) of chosen options; nothing is set for a name that
    a network does not have.
    """
    columns = {
        (name, option): at
        for at, (name, option) in enumerate(
            (name, option) for name, several in options.items() for option in several
        )
    }
    found = np.zeros((len(choices), len(columns)))
    for row, params in enumerate(choices):
        for name, option in params.items():
            if (name, option) in columns:
                found[row, columns[name, option]] = 1.0
    return found


def waves(choices: Array, seed: int = 0) -> Array:
    """Random Fourier features (networks, WAVES), alike for networks that differ in few choices.

    Args:
        choices: of `one_hot`.
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(choices.shape[1], WAVES)) / WAVE_LENGTH
    phases = rng.uniform(0, 2 * np.pi, WAVES)
    found: Array = (2 / WAVES) ** 0.5 * np.cos(choices @ directions + phases)
    return found


class Surrogate:
    """A posterior over the scores of networks, given some scores.

    Args:
        groups: the features of all networks, evaluated ones among them.
        rows: the evaluated network of each score; one network may have several scores.
        scores: in any unit; higher is better.
        noise: variance of each score relative to that of a full evaluation.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rows: Sequence[int] | Array,
        scores: Sequence[float] | Array,
        noise: Sequence[float] | Array,
    ) -> None:
        values = np.concatenate([group.values for group in groups], axis=1)
        self._features = values - values.mean(0)
        self._expected = np.concatenate([group.mean for group in groups])
        told, known = np.asarray(scores, float), np.asarray(rows, int)
        self._level = float(told.mean()) if len(told) else 0.0
        spread = float(told.std(ddof=1)) if len(told) > 1 else 0.0
        self._unit = spread * (1 + FEW / len(told)) if spread else 1.0
        standard, noises = (told - self._level) / self._unit, np.asarray(noise, float)
        self._shares, self._variance = _variances(
            groups, self._features, self._expected, *_newest(HYPER_SCORES, known, standard, noises)
        )
        known, self._scores, noises = _newest(MOST_SCORES, known, standard, noises)
        self._own = self._features[known]
        self._noise = self._variance * noises
        covariance = (self._own * self._shares) @ self._own.T + OFFSET + np.diag(self._noise)
        self._root = np.linalg.cholesky(covariance) if len(known) else covariance

    def predict(self) -> tuple[Array, Array]:
        """Mean and standard deviation of every network's score, noise of an evaluation left out."""
        weights, offset = self._conditioned(self._expected, 0.0, self._scores)
        mean = self._level + self._unit * (self._features @ weights + offset)
        variance = self._features**2 @ self._shares + OFFSET
        if len(self._scores):
            with_own = (self._features * self._shares) @ self._own.T + OFFSET
            variance = variance - (np.linalg.solve(self._root, with_own.T) ** 2).sum(0)
        return mean, self._unit * np.sqrt(np.maximum(variance, 0.0))

    def draw(self, rng: np.random.Generator, temperature: float = 1.0) -> Array:
        """One draw of every network's score from the posterior (Matheron's rule), its deviation
        from the mean multiplied by `temperature`.
        """
        weights = self._expected + temperature * np.sqrt(self._shares) * rng.normal(
            size=len(self._shares)
        )
        offset = temperature * OFFSET**0.5 * rng.normal()
        noise = temperature * np.sqrt(self._noise) * rng.normal(size=len(self._noise))
        weights, offset = self._conditioned(weights, offset, self._scores - noise)
        drawn: Array = self._level + self._unit * (self._features @ weights + offset)
        return drawn

    def _conditioned(self, weights: Array, offset: float, scores: Array) -> tuple[Array, float]:
        if not len(scores):
            return weights, offset
        rest = scores - self._own @ weights - offset
        solved = np.linalg.solve(self._root.T, np.linalg.solve(self._root, rest))
        return weights + self._shares * (self._own.T @ solved), offset + OFFSET * float(
            solved.sum()
        )


def smoothed(groups: Sequence[Group], values: Array) -> Array:
    """Values of all networks, by a regression of those that are known (the others are NaN).

    What a score says of one network with random weights is mostly noise; what it says of a choice,
    over many networks, is much less so.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < FEWEST_SMOOTHED:
        return np.where(np.isfinite(values), values, values[known].mean() if len(known) else 0.0)
    unknowing = [replace(group, mean=np.zeros_like(group.mean)) for group in groups]
    fitted = Surrogate(unknowing, known, values[known], np.ones(len(known)))
    return fitted.predict()[0]


def discount(ours: Sequence[float], expected: Sequence[float]) -> float:
    """How many times noisier past scores are than they were told, by how this search's scores and
    those that the past predicts for the same networks correlate: 1 where they agree, many times
    where they do not.

    With few scores it stays near 1: a correlation counts by how many there are.
    """
    if len(ours) < 3 or not np.std(ours) or not np.std(expected):
        return 1.0
    agreement = float(np.corrcoef(ours, expected)[0, 1])
    # Shrunk towards agreement by the weight of four scores.
    agreement = (agreement * len(ours) + 4.0) / (len(ours) + 4.0)
    return float(1.0 / max(agreement, 0.01) ** 2)


def _variances(
    groups: Sequence[Group],
    features: Array,
    expected: Array,
    rows: Array,
    scores: Array,
    noise: Array,
) -> tuple[Array, float]:
    """Prior variances of the weights and the variance of a full score: geometric means over what
    was tried, by marginal likelihood and `NOISINESS`.

    The likeliest alone would be a gamble: a dozen scores of short trainings fit many a variance.
    """
    sizes = [group.values.shape[1] for group in groups]
    ends = np.cumsum([0, *sizes])
    own = features[rows]
    parts = [own[:, a:b] @ own[:, a:b].T for a, b in itertools.pairwise(ends)]
    rest = scores - own @ expected
    if len(scores) < 2:
        return np.repeat([min(group.shares) for group in groups], sizes), NOISES[1]
    tried, likelihoods = [], []
    for shares in itertools.product(*(group.shares for group in groups)):
        between = sum(share * part for share, part in zip(shares, parts, strict=True)) + OFFSET
        for variance in NOISES:
            root = np.linalg.cholesky(between + np.diag(variance * noise))
            white = np.linalg.solve(root, rest)
            likelihood = -0.5 * float(white @ white) - float(np.log(np.diag(root)).sum())
            tried.append([*shares, variance])
            likelihoods.append(likelihood + NOISINESS * np.log(variance))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    *found, variance = np.exp(weights / weights.sum() @ np.log(tried))
    return np.repeat(found, sizes), float(variance)


def _newest(most: int, rows: Array, scores: Array, noise: Array) -> tuple[Array, Array, Array]:
    """At most `most` scores: half of them the best, half the newest of the others."""
    if len(rows) <= most:
        return rows, scores, noise
    best = np.argsort(-scores, kind="stable")[: most // 2]
    others = np.setdiff1d(np.arange(len(rows)), best)[-(most - len(best)) :]
    kept = np.sort(np.concatenate([best, others]))
    return rows[kept], scores[kept], noise[kept]
