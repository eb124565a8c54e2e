"""Every sampler by name, in studies of this package and in a user's own."""

import budgeted
import numpy as np
import optuna
import pytest
from budgeted import LOOSE, SPACE, TIGHT, TINY, macs
from optuna.trial import TrialState

from ghostnas.errors import InputError
from ghostnas.nas import samplers
from ghostnas.nas.samplers import PastTrial, Promise, SpaceUsedUp, SurrogateSampler, key_of

SLOW = ("gp", "nsga3", "nsga2")
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
         for name in (*samplers.NAMES, "optuna.samplers:QMCSampler")]  # fmt: skip
TIGHT_SET = budgeted.feasible(SPACE, TIGHT)
LOOSE_SET = budgeted.feasible(SPACE, LOOSE)
TINY_SET = budgeted.feasible(TINY)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def value_of(params):
    """A made-up accuracy: wide, deep and large kernels are good, and se is at one place."""
    return (
        70.0
        + 0.2 * params["group2.width"]
        + params["group2.depth"]
        + 2.0 * (params["group2.cheap_kernel"] == 5)
        + 4.0 * params["group1.se"]
        + 3.0 * params["alpha"]
    )


def optimized(sampler, count, searched=SPACE, direction="maximize"):
    """A user's own study, in memory, after some trials."""
    sign = 1 if direction == "maximize" else -1
    study = optuna.create_study(direction=direction, sampler=sampler)

    def objective(trial):
        arch = searched.build(trial.suggest_categorical)
        trial.set_user_attr("id", arch.id)
        trial.set_user_attr("macs", macs(arch))
        return sign * value_of(searched_params(trial.params))

    study.optimize(objective, n_trials=count)
    return study


def made(name, seed):
    return samplers.create(name, TIGHT_SET, seed)


def searched_params(params):
    return {**{name: options[0] for name, options in SPACE.choices.items()}, **params}


@pytest.mark.parametrize("name", EVERY)
def test_none_is_over_budget_and_none_is_a_repeat_in_a_users_own_study(name):
    study = optimized(samplers.create(name, TIGHT_SET, 0), 25)
    assert len({each.user_attrs["id"] for each in study.trials}) == 25
    assert max(each.user_attrs["macs"] for each in study.trials) <= TIGHT


@pytest.mark.parametrize("name", EVERY[:-1])
def test_the_same_seed_proposes_the_same_and_another_others(name):
    once, again, other = (
        [key_of(each.params) for each in optimized(made(name, seed), 14).trials]
        for seed in (1, 1, 2)
    )  # fmt: skip
    assert once == again
    assert len(set(once[:6]) & set(other[:6])) < 3  # later they may agree on what is best


@pytest.mark.parametrize("name", EVERY)
def test_a_used_up_space_says_so(name):
    networks = {TINY_SET.network(params) for params in TINY_SET.all}
    with pytest.raises(SpaceUsedUp):
        optimized(samplers.create(name, TINY_SET, 0), len(networks) + 1, TINY)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("name", ["surrogate", "evolution"])
def test_what_is_learned_beats_chance_in_both_directions(name, direction):
    learned, chance = (
        optimized(samplers.create(each, LOOSE_SET, 0), 60, direction=direction)
        for each in (name, "random")
    )

    def late(study):
        return np.mean([abs(each.value) for each in study.trials[30:]])

    assert late(learned) > late(chance) + 1


def test_the_surrogate_finds_better_networks_in_few_trials_than_chance_in_many():
    best = []
    for seed in range(3):
        study = optimized(samplers.create("surrogate", LOOSE_SET, seed), 25)
        best.append(max(each.value for each in study.trials))
    chance = [max(each.value for each in optimized(
        samplers.create("random", LOOSE_SET, seed), 60).trials) for seed in range(3)]  # fmt: skip
    assert np.mean(best) > np.mean(chance)


def test_a_network_that_is_running_is_not_proposed_again():
    study = optuna.create_study(
        direction="maximize", sampler=samplers.create("random", TINY_SET, 0)
    )
    networks = {TINY_SET.network(params) for params in TINY_SET.all}
    running = set()
    for _ in networks:
        trial = study.ask()
        running.add(TINY.build(trial.suggest_categorical).id)
    assert running == networks
    with pytest.raises(SpaceUsedUp):
        TINY.build(study.ask().suggest_categorical)


def finished(params, state=TrialState.COMPLETE, value=None, steps=None):
    distributions = {
        name: optuna.distributions.CategoricalDistribution(SPACE.choices[name]) for name in params
    }
    return optuna.trial.create_trial(
        params=params,
        distributions=distributions,
        state=state,
        value=value,
        intermediate_values=steps or {},
    )


def test_a_stopped_trial_counts_at_the_level_of_the_whole_and_with_more_noise():
    params = LOOSE_SET.all[0]
    whole = finished(params, value=0.8, steps={2: 0.5, 4: 0.7})
    early = finished(params, TrialState.PRUNED, steps={2: 0.4})
    later = finished(params, TrialState.PRUNED, steps={2: 0.4, 4: 0.6})
    failed = finished(params, TrialState.FAIL)
    nothing = finished(params, TrialState.PRUNED)
    told = samplers.told([whole, early, later, failed, nothing])
    assert [each for each, _, _ in told] == [whole, early, later]
    scores = [score for _, score, _ in told]
    # What the whole one gained after rung 2, and after rung 4.
    assert scores == pytest.approx([0.8, 0.4 + 0.3, 0.6 + 0.1])
    noise = [each for _, _, each in told]
    assert noise[0] == 1 < noise[2] < noise[1]
    assert [samplers.reached(each) for each in (whole, early, failed)] == [0.8, 0.4, None]


def test_stopped_trials_teach_the_surrogate_too():
    made = SurrogateSampler(LOOSE_SET, 0)
    study = optuna.create_study(direction="maximize", sampler=made)
    for params in LOOSE_SET.draw(np.random.default_rng(5), 60):
        value = value_of(params)
        state = TrialState.PRUNED
        study.add_trial(finished(params, state, steps={1: value - 20}))
    predicted = made.predict(study)
    assert len(predicted) >= 55
    truth = [value_of(dict(key)) for key in predicted]
    assert np.corrcoef([mean for mean, _ in predicted.values()], truth)[0, 1] > 0.9


def test_noisy_scores_of_some_networks_lead_to_better_ones_that_were_not_screened():
    rng = np.random.default_rng(1)
    drawn = LOOSE_SET.draw(rng, 100)
    values = np.array([value_of(params) for params in drawn])
    noisy = values + values.std() * rng.normal(size=len(values))
    screened = {
        key_of(params): {"naswot": float(score)} for params, score in zip(drawn, noisy, strict=True)
    }
    made = SurrogateSampler(LOOSE_SET, 0, screened=screened, screened_prior={"naswot": 0.8})
    first = [each.value for each in optimized(made, 6).trials]
    by_score = values[np.argsort(-noisy)[:6]]
    assert np.mean(first) > max(np.mean(by_score), np.sort(values)[-10])


def test_what_is_promised_of_networks_follows_the_scores_of_others():
    rng = np.random.default_rng(2)
    drawn = LOOSE_SET.draw(rng, 150)
    screened = {key_of(params): {"naswot": value_of(params)} for params in drawn[:100]}
    promise = Promise(LOOSE_SET, {"naswot": 1.0})
    found = promise.of(drawn[100:], screened)
    truth = [value_of(params) for params in drawn[100:]]
    assert np.corrcoef(found, truth)[0, 1] > 0.8


def past_of(sign):
    drawn = LOOSE_SET.draw(np.random.default_rng(7), 60)
    values = np.array([value_of(params) for params in drawn])
    standard = sign * (values - values.mean()) / values.std()
    return [
        PastTrial(params=params, score=float(score))
        for params, score in zip(drawn, standard, strict=True)
    ]


@pytest.mark.slow
def test_an_earlier_search_helps_if_it_agrees_and_is_discounted_if_not():
    firsts, lates = {}, {}
    for name, past in (("none", None), ("agrees", past_of(1)), ("contradicts", past_of(-1))):
        studies = [optimized(SurrogateSampler(LOOSE_SET, seed, past=past), 30) for seed in (0, 1)]
        firsts[name] = np.mean([each.value for study in studies for each in study.trials[:6]])
        lates[name] = np.mean([each.value for study in studies for each in study.trials[20:]])
    assert firsts["agrees"] > firsts["none"] > firsts["contradicts"]
    chance = np.mean([value_of(params) for params in LOOSE_SET.draw(np.random.default_rng(0), 500)])
    assert lates["contradicts"] > chance + 2  # it has unlearned


def test_an_enqueued_trial_is_tried_as_it_is():
    study = optuna.create_study(
        direction="maximize", sampler=samplers.create("surrogate", TIGHT_SET, 0)
    )
    wanted = TIGHT_SET.all[3]
    study.enqueue_trial(wanted)
    trial = study.ask()
    SPACE.build(trial.suggest_categorical)
    assert trial.params == wanted


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("surogate", "unknown sampler 'surogate'; did you mean surrogate"),
        ("nowhere:Sampler", "nowhere"),
        ("optuna.samplers:Nothing", "Nothing"),
        ("ghostnas.nas.storage:Heartbeat", "is not an optuna.samplers.BaseSampler"),
        ("optuna.samplers:GridSampler", "cannot be made without arguments"),
    ],
)
def test_a_sampler_that_is_none_is_rejected(name, message):
    with pytest.raises(InputError, match=message):
        samplers.create(name, TINY_SET, 0)


def test_names_are_checked_without_making_a_sampler():
    for name in (*samplers.NAMES, "optuna.samplers:QMCSampler"):
        samplers.check(name)
    with pytest.raises(InputError, match="known: surrogate, tpe"):
        samplers.check("grid")
