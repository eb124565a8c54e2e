import numpy as np
import pytest

from ghostnas.nas import surrogate
from ghostnas.nas.surrogate import Group, Surrogate

RNG_SEED = 0


def linear(networks=200, features=5, noise=0.0):
    """One group of features, and scores that are linear in them."""
    rng = np.random.default_rng(RNG_SEED)
    values = surrogate.scaled(rng.normal(size=(networks, features)))
    weights = rng.normal(size=features)
    scores = 70 + 4 * values @ weights + noise * rng.normal(size=networks)
    return [Group(values=values, mean=np.zeros(features))], scores


def test_a_linear_function_is_recovered_from_some_of_its_values():
    groups, scores = linear()
    rows = list(range(60))
    mean, std = Surrogate(groups, rows, scores[rows], [1.0] * 60).predict()
    assert np.corrcoef(mean[60:], scores[60:])[0, 1] > 0.99
    errors = mean[60:] - scores[60:]
    assert np.abs(errors).mean() < 0.15 * scores.std()
    assert np.abs(errors / std[60:]).mean() < 1.5  # it knows how wrong it is


def test_the_posterior_narrows_with_every_score_and_without_any_is_the_prior():
    groups, scores = linear(noise=1.0)
    stds = []
    for count in (0, 5, 20, 80):
        rows = list(range(count))
        made = Surrogate(groups, rows, scores[rows], [1.0] * count)
        stds.append(made.predict()[1][150:].mean() / (scores[rows].std(ddof=1) if count else 1))
    assert stds == sorted(stds, reverse=True)
    assert stds[-1] < stds[0] / 2
    mean, _ = Surrogate(groups, [], [], []).predict()
    assert mean == pytest.approx(np.zeros(200))


def test_what_is_expected_of_a_feature_holds_until_scores_say_otherwise():
    groups, _ = linear(features=1)
    [group] = groups
    hopeful = [Group(values=group.values, mean=np.array([0.7]))]
    mean, _ = Surrogate(hopeful, [], [], []).predict()
    assert np.corrcoef(mean, group.values[:, 0])[0, 1] == pytest.approx(1)
    rows = list(range(50))
    mean, _ = Surrogate(hopeful, rows, -group.values[rows, 0], [1.0] * 50).predict()
    assert np.corrcoef(mean, group.values[:, 0])[0, 1] < -0.9


def test_a_few_noisy_scores_do_not_overrule_what_is_expected():
    kept = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        choices = surrogate.scaled(rng.normal(size=(300, 12)))
        truth = choices @ rng.normal(size=12)
        known = truth + 0.6 * truth.std() * rng.normal(size=300)  # of a training-free score
        known = ((known - known.mean()) / known.std())[:, None]
        groups = [
            Group(values=choices, mean=np.zeros(12)),
            Group(values=surrogate.scaled(surrogate.waves(choices)), mean=np.zeros(128)),
            Group(values=known, mean=np.array([0.7]), shares=(0.03, 0.1, 0.3)),
        ]
        rows = rng.choice(300, 10, replace=False)
        scores = truth[rows] + 2 * truth.std() * rng.normal(size=10)
        mean, _ = Surrogate(groups, rows, scores, [1.0] * 10).predict()
        kept.append(np.corrcoef(mean, truth)[0, 1] / np.corrcoef(known[:, 0], truth)[0, 1])
    assert np.mean(kept) > 0.8


def test_draws_are_spread_as_predicted():
    groups, scores = linear(networks=60, noise=2.0)
    rows = list(range(12))
    made = Surrogate(groups, rows, scores[rows], [1.0] * 12)
    mean, std = made.predict()
    rng = np.random.default_rng(1)
    draws = np.array([made.draw(rng) for _ in range(4000)])
    assert draws.mean(0) == pytest.approx(mean, abs=0.1 * std.max())
    assert draws.std(0) == pytest.approx(std, rel=0.1)
    cool = np.array([made.draw(rng, 0.5) for _ in range(4000)])
    assert cool.std(0) == pytest.approx(std / 2, rel=0.1)
    assert made.draw(rng, 0.0) == pytest.approx(mean)


def test_a_noisy_score_counts_less_than_a_good_one():
    values = surrogate.scaled(np.array([[1.0], [-1.0], [1.0], [-1.0]]))
    groups = [Group(values=values, mean=np.zeros(1))]
    # The first two say that the feature is good, the others that it is as bad.
    scores = [1.0, -1.0, -1.0, 1.0]
    for noise, sign in (([1, 1, 30, 30], 1), ([30, 30, 1, 1], -1)):
        mean, _ = Surrogate(groups, [0, 1, 2, 3], scores, noise).predict()
        assert sign * mean[0] > sign * mean[1] + 0.5
    mean, _ = Surrogate(groups, [0, 1, 2, 3], scores, [1, 1, 1, 1]).predict()
    assert mean == pytest.approx(np.zeros(4), abs=1e-9)


def test_one_network_may_have_several_scores():
    groups, scores = linear(networks=40)
    once = Surrogate(groups, [0, 1, 2], scores[:3], [1.0] * 3).predict()[1]
    rows = [0, 1, 2] * 4
    often = Surrogate(groups, rows, scores[rows], [1.0] * 12).predict()[1]
    assert (often[:3] <= once[:3] + 1e-9).all()


def test_of_many_scores_the_best_and_the_newest_are_kept(monkeypatch):
    rows, scores, noise = surrogate._newest(
        4, np.arange(8), np.array([9.0, 8, 0, 0, 1, 1, 1, 1]), np.ones(8)
    )
    assert rows.tolist() == [0, 1, 6, 7]
    assert scores.tolist() == [9, 8, 1, 1]
    assert len(noise) == 4
    monkeypatch.setattr(surrogate, "MOST_SCORES", 50)
    groups, scores = linear(networks=300)
    made = Surrogate(groups, list(range(250)), scores[:250], [1.0] * 250)
    assert np.corrcoef(made.predict()[0][250:], scores[250:])[0, 1] > 0.95


def test_features_of_choices():
    chosen = [{"a": 1, "b": "x"}, {"a": 2}]
    options = {"a": (1, 2), "b": ("x", "y")}
    hot = surrogate.one_hot(chosen, options)
    assert hot.tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
    scaled = surrogate.scaled(hot)
    assert scaled.mean(0) == pytest.approx(np.zeros(4))
    assert (scaled**2).sum(1).mean() == pytest.approx(1)
    assert surrogate.scaled(np.ones((3, 2))).tolist() == [[0, 0]] * 3
    near, far = np.array([[1.0, 0, 0, 0, 0, 0]]), np.array([[0, 1.0, 1, 1, 1, 1]])
    base = np.zeros((1, 6))
    waves = surrogate.waves(np.concatenate([base, near, far]))
    assert waves[0] @ waves[1] > waves[0] @ waves[2]
    assert waves[0] @ waves[0] == pytest.approx(1, abs=0.2)


def test_another_searchs_scores_count_less_the_more_they_are_contradicted():
    ours = [1.0, 2, 3, 4, 5, 6, 7, 8]
    agree, unrelated, against = (
        surrogate.discount(ours, expected)
        for expected in (ours, [5.0, 1, 8, 2, 7, 3, 6, 4], ours[::-1])
    )
    assert agree == pytest.approx(1)
    assert agree < unrelated < against
    assert against > 1000
    assert surrogate.discount(ours[:2], ours[1::-1]) == 1  # too few to tell
    assert 1 <= surrogate.discount([1.0, 2, 3], [3.0, 2, 1]) < against
    assert surrogate.discount([1.0, 1, 1], [1.0, 2, 3]) == 1


def test_scores_of_some_networks_are_smoothed_into_values_of_all():
    groups, truth = linear()
    rng = np.random.default_rng(3)
    noisy = truth + truth.std() * rng.normal(size=len(truth))
    found = surrogate.smoothed(groups, np.where(np.arange(len(truth)) < 80, noisy, np.nan))
    assert np.corrcoef(found[80:], truth[80:])[0, 1] > 0.9
    alone = np.corrcoef(noisy[:80], truth[:80])[0, 1]
    assert np.corrcoef(found[:80], truth[:80])[0, 1] > alone + 0.1


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_scores_are_left_as_they_are(count):
    groups, truth = linear()
    found = surrogate.smoothed(groups, np.where(np.arange(len(truth)) < count, truth, np.nan))
    assert list(found[:count]) == list(truth[:count])
    assert len(set(found[count:])) == 1
