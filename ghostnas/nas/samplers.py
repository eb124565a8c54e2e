"""Optuna samplers that propose only networks within the budgets, and none twice.

`SurrogateSampler` is ghostnas' own. `WithinBudget` makes any other sampler's proposals feasible.
Both are `optuna.samplers.BaseSampler`s, for any study whose objective builds its network with
`Space.build(trial.suggest_categorical)`:

    from ghostnas.nas import samplers
    from ghostnas.nas.constraints import Constraints
    from ghostnas.networks import space

    searched = space.load("ghostnet")
    feasible = Constraints("arm", ["42MFLOPs"]).feasible(searched)
    study = optuna.create_study(sampler=samplers.create("surrogate", feasible, seed=0))
"""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from ghostnas.arrays import Array
from ghostnas.errors import InputError, did_you_mean
from ghostnas.nas import pareto, surrogate
from ghostnas.nas.surrogate import Group, Surrogate
from ghostnas.networks.space import Params, Value

Key: TypeAlias = frozenset[tuple[str, Value]]
LIVE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
SCREENED = "screened"  # a trial's attribute: its training-free scores, by name

POOL = 1_000  # candidates that a proposal is chosen from; of a set that is listed,
LISTED_POOL = 4_000  # so many
MUTANTS, PARENTS = 24, 6  # that join the pool at each proposal, and the networks they come from
GENERATIONS = 10  # of these at once, after a screening
SWAPPED = 2  # numbers that these change: at a budget, one can only grow if another shrinks
TEMPERATURE = 0.1  # of the posterior draws: where trials are few, exploration does not pay
LARGER = 0.7  # prior weight of the first cost, in standard deviations: larger networks do better
RUNG_NOISE = 3.0  # variance of a score one rung earlier, over that of the later one
PAST_NOISE = 3.0  # variance of an earlier search's score over one of this search, if they agree
DOUBTED = 3  # every so many proposals leave the earlier search out, to find out whether it is right
POPULATION, TOURNAMENT = 50, 10  # regularised evolution (Real et al., 2019)
NEIGHBOURS = 8
LAST_DRAWS = 20_000  # without a new network before a set that is not listed counts as used up


class SpaceUsedUp(Exception):  # noqa: N818 - the search ends, nothing went wrong
    """Every network of the space within the budgets has been tried or is being tried; `trial` is
    the number of the trial that asked for another.
    """

    def __init__(self, trial: int) -> None:
        super().__init__()
        self.trial = trial


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTrial:
    """A network of an earlier search and its score in standard deviations of all its scores."""

    params: Params
    score: float


class Feasible(Protocol):
    """Settings of searched numbers that meet the budgets; see `ghostnas.nas.feasible.FeasibleSet`,
    which is one.
    """

    @property
    def choices(self) -> Mapping[str, Sequence[Value]]: ...

    @property
    def all(self) -> list[Params] | None: ...

    def draw(self, rng: np.random.Generator, count: int) -> list[Params]: ...

    def near(
        self, rng: np.random.Generator, proposal: Mapping[str, Value], count: int
    ) -> list[Params]: ...

    def fits(self, params: Mapping[str, Value]) -> bool: ...

    def asked(self, params: Mapping[str, Value]) -> Params:
        """The numbers that decide the network, without those that make no difference to it."""
        ...

    def network(self, params: Mapping[str, Value]) -> str:
        """What network it is: rounded, other settings may lead to the same one."""
        ...

    def log_costs(self, params: Mapping[str, Value]) -> Sequence[float]: ...


def key_of(params: Mapping[str, Value]) -> Key:
    return frozenset(params.items())


class Tried:
    """The networks of some settings; asked whether the network of others is among them."""

    def __init__(self, network_of: Callable[[Mapping[str, Value]], str]) -> None:
        self._network_of = network_of
        self._networks: set[str] = set()

    def add(self, params: Mapping[str, Value]) -> None:
        self._networks.add(self._network_of(params))

    def __contains__(self, params: Mapping[str, Value]) -> bool:
        return self._network_of(params) in self._networks


class FeasibleSampler(BaseSampler):
    """What all samplers here share: one relative search space, of every number, and memory of what
    was tried.
    """

    def __init__(self, feasible: Feasible, seed: int) -> None:
        self.feasible = feasible
        self.rng = np.random.default_rng(seed)
        self._networks: dict[Key, str] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        choices = self.feasible.choices
        return {name: CategoricalDistribution(options) for name, options in choices.items()}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False, states=LIVE)
        tried = Tried(self.network_of)
        for other in trials:
            begun = other.state == TrialState.RUNNING and (
                other.number == trial.number or self.feasible.asked(other.params) != other.params
            )
            if not begun:  # otherwise it has no network yet
                tried.add(other.params)
        return self.propose(study, trial, trials, tried)

    def network_of(self, params: Mapping[str, Value]) -> str:
        """`Feasible.network`, remembered."""
        key = key_of(params)
        if key not in self._networks:
            self._networks[key] = self.feasible.network(params)
        return self._networks[key]

    def propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        tried: Tried,
    ) -> Params:
        """A setting whose network is not in `tried`.

        Raises:
            SpaceUsedUp: there is none.
        """
        return self.fresh(tried, trial.number)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        raise AssertionError(f"the space has no number {param_name}")

    def reseed_rng(self) -> None:
        self.rng = np.random.default_rng()

    def fresh(self, tried: Tried, trial: int) -> Params:
        """A setting drawn evenly from those whose network is not in `tried`."""
        everything = self.feasible.all
        if everything is not None:
            for at in self.rng.integers(len(everything), size=NEIGHBOURS):
                if (params := everything[int(at)]) not in tried:
                    return params
            left = [params for params in everything if params not in tried]
            if not left:
                raise SpaceUsedUp(trial)
            return left[int(self.rng.integers(len(left)))]
        drawn, batch = 0, NEIGHBOURS
        while drawn < LAST_DRAWS:
            for params in self.feasible.draw(self.rng, batch):
                if params not in tried:
                    return params
            drawn, batch = drawn + batch, 2 * batch
        raise SpaceUsedUp(trial)


class RandomFeasible(FeasibleSampler):
    """Draws evenly."""


class WithinBudget(FeasibleSampler):
    """Another sampler's proposals, each replaced by a network near it where it is over the budgets
    or was tried. What the other sampler leaves open is drawn evenly.
    """

    def __init__(self, inner: BaseSampler, feasible: Feasible, seed: int) -> None:
        super().__init__(feasible, seed)
        self._inner = inner

    def propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        tried: Tried,
    ) -> Params:
        inner_space = self._inner.infer_relative_search_space(study, trial)
        wanted: Params = (
            self._inner.sample_relative(study, trial, inner_space) if inner_space else {}
        )
        for name, distribution in inner_space.items():
            if name not in wanted:
                wanted[name] = self._inner.sample_independent(study, trial, name, distribution)
        if not wanted:
            return self.fresh(tried, trial.number)
        whole = self.feasible.asked({**self.fresh(tried, trial.number), **wanted})
        if self.feasible.fits(whole) and whole not in tried:
            return whole
        for params in self.feasible.near(self.rng, wanted, NEIGHBOURS):
            if params not in tried:
                return params
        return self.fresh(tried, trial.number)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        super().reseed_rng()
        self._inner.reseed_rng()


class RegularisedEvolution(FeasibleSampler):
    """Aging evolution (Real et al., "Regularized Evolution for Image Classifier Architecture
    Search", 2019): of `TOURNAMENT` of the `POPULATION` newest trials, the best with one number
    changed.
    """

    def propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        tried: Tried,
    ) -> Params:
        done = [(reached(each), each) for each in trials if reached(each) is not None]
        population = done[-POPULATION:]
        if len(population) < TOURNAMENT:
            return self.fresh(tried, trial.number)
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        rivals = self.rng.choice(len(population), TOURNAMENT, replace=False)
        parent = max((population[at] for at in rivals), key=lambda each: sign * each[0])[1]
        for mutant in mutants(self.feasible, [parent.params], self.rng, NEIGHBOURS):
            if mutant not in tried:
                return mutant
        for params in self.feasible.near(self.rng, parent.params, NEIGHBOURS):
            if params not in tried:
                return params
        return self.fresh(tried, trial.number)


class SurrogateSampler(FeasibleSampler):
    """Thompson sampling by a Bayesian regression on choices, costs and training-free scores.

    A proposal is the best of a pool of candidates in a draw from the posterior over all of them.
    Several processes that share a study thus propose different networks. Scores of trials that were
    stopped early count as noisier ones.

    Args:
        screened: training-free scores of candidates, by their settings; the pool then consists of
            these and of mutants of which much is expected. A trial's own may be in its attribute
            `SCREENED`.
        screened_prior: expected weight of each, in standard deviations of the accuracy.
        past: an earlier search's trials; they count the less, the more the trials of this one
            contradict them, and not at all for every third proposal: networks that only the past
            praises would never show that it is wrong.
        traded: which of the log costs are traded for the score: then the candidate is proposed that
            would add most to their front (`ghostnas.nas.pareto`).
    """

    def __init__(
        self,
        feasible: Feasible,
        seed: int,
        *,
        screened: Mapping[Key, Mapping[str, float]] | None = None,
        screened_prior: Mapping[str, float] | None = None,
        past: Sequence[PastTrial] | None = None,
        traded: Sequence[int] = (),
    ) -> None:
        super().__init__(feasible, seed)
        self._prior = dict(screened_prior or {})
        self._past = list(past or ())
        self._traded = list(traded)
        self._candidates = _Candidates(feasible, tuple(self._prior))
        for key, scores in (screened or {}).items():
            self._candidates.add(dict(key), scores)
        self._screening, self._widened = screened is not None, False

    def propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[FrozenTrial],
        tried: Tried,
    ) -> Params:
        self._fill(study, trials)
        doubted = trial.number % DOUBTED == DOUBTED - 1
        fitted = self.fitted(study, trials, with_past=not doubted)
        worth = fitted.draw(self.rng, TEMPERATURE)
        if self._traded:
            worth = self._front_gains(worth, trials)
        order = np.argsort(-worth)
        for at in order:
            params: Params = self._candidates.params[at]
            if params not in tried:
                return params
        return self.fresh(tried, trial.number)

    def fitted(
        self, study: optuna.Study, trials: Sequence[FrozenTrial], *, with_past: bool = True
    ) -> Surrogate:
        """What the trials say about all candidates, those of the trials among them."""
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        rows, scores, noise = [], [], []
        for each, score, rung_noise in told(trials):
            rows.append(self._candidates.add(each.params, each.user_attrs.get(SCREENED, {})))
            scores.append(sign * score)
            noise.append(rung_noise)
        if self._past and with_past:
            past_rows = [self._candidates.add(each.params, {}) for each in self._past]
            past_scores = [each.score for each in self._past]
            groups = self._candidates.groups(self._prior)
            alone = Surrogate(groups, past_rows, past_scores, [1.0] * len(past_rows))
            expected = alone.predict()[0][rows]
            factor = PAST_NOISE * surrogate.discount(scores, list(expected))
            level = float(np.mean(scores)) if scores else 0.0
            unit = (float(np.std(scores)) if len(scores) > 1 else 0.0) or 1.0
            # The levels of both searches may differ: past scores are moved to this one's.
            shift = float(np.mean(expected)) if rows else 0.0
            scores += [level + unit * (each - shift) for each in past_scores]
            rows += past_rows
            noise += [factor] * len(past_rows)
        return Surrogate(self._candidates.groups(self._prior), rows, scores, noise)

    def _front_gains(self, drawn: Array, trials: Sequence[FrozenTrial]) -> Array:
        evaluated = [each for each in trials if reached(each) is not None]
        done = [self._candidates.add(each.params, {}) for each in evaluated]
        costs = self._candidates.costs()[:, self._traded]
        return pareto.gains(drawn, costs, drawn[done], costs[done])

    def predict(self, study: optuna.Study) -> dict[Key, tuple[float, float]]:
        """Mean and standard deviation of the score of each candidate and each trial's network."""
        trials = study.get_trials(deepcopy=False, states=LIVE)
        mean, std = self.fitted(study, trials).predict()
        keys = map(key_of, self._candidates.params)
        return {key: (float(m), float(s)) for key, m, s in zip(keys, mean, std, strict=True)}

    def _fill(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        """Candidates to choose from: all there are, or those screened, draws and mutants of the
        best.
        """
        candidates = self._candidates
        everything = self.feasible.all
        if everything is not None and len(everything) <= LISTED_POOL:
            if len(candidates.params) < len(everything):
                for params in everything:
                    candidates.add(params, {})
            return
        if self._screening:
            generations = 1 if self._widened else GENERATIONS
            for _ in range(generations):
                expected = self.fitted(study, trials).predict()[0]
                best = np.argsort(-expected)[:PARENTS]
                self._join_mutants([candidates.params[at] for at in best], SWAPPED)
            self._widened = True
            return
        if not candidates.params:
            for params in self.feasible.draw(self.rng, POOL):
                candidates.add(params, {})
        ranked = sorted(
            (each for each in trials if reached(each) is not None),
            key=lambda each: -(reached(each) or 0),
        )
        self._join_mutants([each.params for each in ranked[:PARENTS]])

    def _join_mutants(self, parents: Sequence[Params], most: int = 1) -> None:
        for mutant in mutants(self.feasible, parents, self.rng, MUTANTS, most):
            self._candidates.add(mutant, {})


class Promise:
    """What is expected of networks before any training, by their costs and by training-free scores
    of some of them.

    Args:
        weights: of the scores by their names, as `SurrogateSampler`'s `screened_prior`.
        larger: of the first cost.
    """

    def __init__(
        self, feasible: Feasible, weights: Mapping[str, float], larger: float = LARGER
    ) -> None:
        self._weights, self._larger = dict(weights), larger
        self._candidates = _Candidates(feasible, tuple(weights))

    def of(self, networks: Sequence[Params], screened: Mapping[Key, Mapping[str, float]]) -> Array:
        """In standard deviations of the accuracy, for each of the networks."""
        for key, scores in screened.items():
            self._candidates.add(dict(key), scores)
        places = [self._candidates.add(params, {}) for params in networks]
        expected = Surrogate(
            self._candidates.groups(self._weights, self._larger), [], [], []
        ).predict()[0]
        found: Array = expected[places]
        return found


class _Candidates:
    """Settings with their features, each once, in the order in which they were added."""

    def __init__(self, feasible: Feasible, score_names: tuple[str, ...]) -> None:
        self._feasible, self._names = feasible, score_names
        self.params: list[Params] = []
        self._places: dict[Key, int] = {}
        self._choices: list[Array] = []
        self._costs: list[Array] = []
        self._scores: list[Array] = []

    def add(self, params: Mapping[str, Value], scores: Mapping[str, float]) -> int:
        """Its place."""
        key = key_of(params)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.params)
            self.params.append(dict(params))
            self._choices.append(surrogate.one_hot([params], self._feasible.choices)[0])
            self._costs.append(np.array(self._feasible.log_costs(params)))
            self._scores.append(np.full(len(self._names), np.nan))
        if scores:
            self._scores[place] = np.array([scores.get(name, np.nan) for name in self._names])
        return place

    def costs(self) -> Array:
        """Logarithms (networks, costs)."""
        return np.array(self._costs)

    def groups(self, prior: Mapping[str, float], larger: float = LARGER) -> list[Group]:
        """Features of all candidates.

        Args:
            larger: prior weight of the first cost.
        """
        choices, costs = np.array(self._choices), np.array(self._costs)
        expected = np.zeros(costs.shape[1])
        if len(expected):
            expected[0] = larger
        found = [
            Group(values=surrogate.scaled(choices), mean=np.zeros(choices.shape[1])),
            Group(values=_standard(costs) / max(1, costs.shape[1]) ** 0.5, mean=expected),
            Group(
                values=surrogate.scaled(surrogate.waves(choices)),
                mean=np.zeros(surrogate.WAVES),
                shares=(1e-6, 0.1, 0.3),
            ),
        ]
        if self._names:
            scores = np.array(self._scores)
            smoothed = [surrogate.smoothed(found[:2], column) for column in scores.T]
            found.append(
                Group(
                    values=_standard(np.array(smoothed).T),
                    mean=np.array([prior[name] for name in self._names]),
                    shares=(0.03, 0.1, 0.3),
                )
            )
        return found


def told(trials: Iterable[FrozenTrial]) -> list[tuple[FrozenTrial, float, float]]:
    """Each evaluated trial with its score, moved to the level of whole evaluations, and that
    score's noise relative to one of these.
    """
    trials = [each for each in trials if reached(each) is not None]
    rungs = sorted({step for each in trials for step in each.intermediate_values})
    if not rungs:
        return [(each, value, 1.0) for each in trials if (value := reached(each)) is not None]
    last = rungs[-1]
    gains = {}
    for rung in rungs:
        both = [
            (reached(each) or 0.0) - each.intermediate_values[rung]
            for each in trials
            if each.state == TrialState.COMPLETE and rung in each.intermediate_values
        ]
        gains[rung] = float(np.mean(both)) if both else 0.0
    found = []
    for each in trials:
        value = reached(each)
        assert value is not None
        step = max(each.intermediate_values, default=last)
        complete = each.state == TrialState.COMPLETE
        steps_short = 0 if complete else 1 + len([rung for rung in rungs if rung > step])
        gain = 0.0 if complete else gains.get(step, 0.0)
        found.append((each, value + gain, RUNG_NOISE**steps_short))
    return found


def reached(trial: FrozenTrial) -> float | None:
    """A trial's score, or the last that it reported before it was stopped."""
    if trial.state == TrialState.COMPLETE:
        value = trial.values[0] if trial.values else None
    elif trial.state == TrialState.PRUNED and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    else:
        return None
    return None if value is None or not math.isfinite(value) else float(value)


def mutants(
    feasible: Feasible,
    parents: Sequence[Mapping[str, Value]],
    rng: np.random.Generator,
    count: int,
    most: int = 1,
) -> list[Params]:
    """Up to `count` settings within the budgets that differ from a parent in one number, or in up
    to `most` (and in those that only then matter).
    """
    found: list[Params] = []
    choices = {name: options for name, options in feasible.choices.items() if len(options) > 1}
    for _ in range(4 * count if parents else 0):
        parent = parents[int(rng.integers(len(parents)))]
        known = [name for name in choices if name in parent]
        if not known:
            break
        draft = {
            **{each: options[int(rng.integers(len(options)))] for each, options in choices.items()},
            **parent,
        }
        changed = 1 if most == 1 else min(1 + int(rng.integers(most)), len(known))
        for at in rng.choice(len(known), changed, replace=False):
            others = [option for option in choices[known[at]] if option != parent[known[at]]]
            draft[known[at]] = others[int(rng.integers(len(others)))]
        params = feasible.asked(draft)
        if feasible.fits(params):
            found.append(params)
        if len(found) == count:
            break
    return found


def _standard(values: Array) -> Array:
    std = values.std(0)
    found: Array = (values - values.mean(0)) / np.where(std > 0, std, 1.0)
    return found


_OPTUNA: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(
        multivariate=True, group=True, constant_liar=True, n_startup_trials=8, seed=seed
    ),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed),
}
_OWN: dict[str, Callable[[Feasible, int], FeasibleSampler]] = {
    "surrogate": SurrogateSampler,
    "random": RandomFeasible,
    "evolution": RegularisedEvolution,
}
NAMES = ("surrogate", *_OPTUNA, "evolution", "random")


def create(name: str, feasible: Feasible, seed: int) -> FeasibleSampler:
    """The sampler of a name in `NAMES`, or of a class ``module:Class`` that is a BaseSampler.

    Raises:
        InputError: there is no such sampler, or it cannot be made.
    """
    if name in _OWN:
        return _OWN[name](feasible, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner = _OPTUNA[name](seed) if name in _OPTUNA else _imported(name, seed)
    return WithinBudget(inner, feasible, seed)


def check(name: str) -> None:
    """Raises:
    InputError: there is no sampler of that name.
    """
    if name not in NAMES:
        _class(name)


def _imported(name: str, seed: int) -> BaseSampler:
    sampler = _class(name)
    takes_seed = "seed" in inspect.signature(sampler).parameters
    try:
        return sampler(seed=seed) if takes_seed else sampler()
    except TypeError as error:
        raise InputError(f"sampler {name!r}: cannot be made without arguments: {error}") from error


def _class(name: str) -> Callable[..., BaseSampler]:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(
            f"unknown sampler {name!r}{did_you_mean(name, NAMES)}; known: {', '.join(NAMES)}, or "
            "module:Class for one of your own"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"sampler {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise InputError(f"sampler {name!r}: is not an optuna.samplers.BaseSampler")
    return found
