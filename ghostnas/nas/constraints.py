"""What networks cost on a search's target, compared with its budgets. Trains nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.ir.cost import Cost
from ghostnas.ir.graph import Graph
from ghostnas.latency import table
from ghostnas.latency.predictor import CONFIDENCE, Prediction, Predictor
from ghostnas.nas import budget
from ghostnas.nas.budget import Budget
from ghostnas.nas.feasible import FeasibleSet
from ghostnas.networks.arch import Arch, Part, lower, lower_part
from ghostnas.networks.space import Space
from ghostnas.stats import summary

LOG_COSTS = ("macs", "params", "latency")  # what `Constraints.log_costs` are of


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracies:
    """One network's accuracies, one per training seed, on validation and test images, 0 to 1."""

    validation: tuple[float, ...]
    test: tuple[float, ...]


UNTRAINED = Accuracies(validation=(), test=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that may win: a trial of the search, or the plain GhostNet it is compared with.

    Attributes:
        trial: its number in the study; None for plain GhostNet.
        cost, latency: of its deployment.
        choosing: accuracies of the trainings used to choose the winner.
        reporting: accuracies from fresh seeds that took no part in the choice; only the winner and
            plain GhostNet have them.
    """

    name: str
    trial: int | None
    arch: Arch
    cost: Cost
    latency: Prediction
    choosing: Accuracies = UNTRAINED
    reporting: Accuracies | None = None

    def to_json(self) -> dict[str, Any]:
        found = self.reporting or self.choosing
        test = summary(found.test)
        chosen_by = self.choosing if self.choosing.validation else found  # none along a front
        return {
            "name": self.name,
            "trial": self.trial,
            "id": self.arch.id,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "model_bytes": self.cost.model_bytes,
            "peak_activation_bytes": self.cost.peak_activation_bytes,
            "latency_ms": round(self.latency.latency_ms, 4),
            "latency_low_ms": round(self.latency.low_ms, 4),
            "latency_high_ms": round(self.latency.high_ms, 4),
            "accuracy": round(test.mean, 5),
            "accuracy_std": None if test.std is None else round(test.std, 5),
            "accuracy_min": round(test.min, 5),
            "accuracy_max": round(test.max, 5),
            "validation_accuracy": round(summary(chosen_by.validation).mean, 5),
            "seeds": test.count,
            "fresh_seeds": self.reporting is not None,
        }


class Constraints:
    """What networks cost on the target, and how much of the budgets they use.

    With a `confidence`, the upper end of the latency's interval counts. Bytes are those of the
    target's dtype.
    """

    def __init__(
        self, target: str, budgets: Sequence[str], confidence: float | None = None
    ) -> None:
        self.budgets = [budget.parse(text) for text in budgets]
        if not self.budgets:
            raise InputError("a search needs at least one --budget, like 150MFLOPs or 20ms")
        self._target = target
        names = {target, *(b.target for b in self.budgets if b.target)}
        self._careful = confidence is not None
        self._predictors = {
            name: Predictor(table.load(name), confidence or CONFIDENCE) for name in sorted(names)
        }
        self.dtype = self._predictors[target].table.origin.dtype
        self._utilizations: dict[Arch, float] = {}

    def utilization(self, arch: Arch) -> float:
        """The largest share of any budget that `arch` uses; over 1 is over budget."""
        if arch not in self._utilizations:
            self._utilizations[arch] = max(self._shares(arch, self.budgets))
        return self._utilizations[arch]

    def shares(self, arch: Arch) -> dict[str, float]:
        """The share of each budget that `arch` uses, by the budget's text."""
        texts = (each.text for each in self.budgets)
        return dict(zip(texts, self._shares(arch, self.budgets), strict=True))

    def cost_of(self, arch: Arch) -> tuple[Cost, Prediction]:
        return cost.count(lower(arch), self.dtype), self._predictors[self._target].predict(arch)

    def feasible(self, space: Space) -> FeasibleSet:
        """The networks of a space that meet the budgets.

        Raises:
            BudgetError: there are none.
        """
        sums = [each for each in self.budgets if each.quantity in budget.SUMS]
        peaks = [each for each in self.budgets if each.quantity not in budget.SUMS]

        counts = any(each.quantity != "latency_ms" for each in self.budgets)

        def shares_of_part(part: Part) -> list[float]:
            graph = lower_part(part)
            counted = cost.count(graph, self.dtype) if counts else _NO_COST
            alone = [budget.amount(each, counted, _no_latency) / each.limit for each in peaks]
            if max(alone, default=0.0) > 1:
                return [math.inf] * len(sums)
            return [
                budget.amount(each, counted, lambda name: self._part_ms(name, graph)) / each.limit
                for each in sums
            ]

        return FeasibleSet(
            space,
            shares_of_part,
            lambda arch: self._shares(arch, sums),
            len(sums),
            not peaks,
            self.utilization,
            self.log_costs,
        )

    def log_costs(self, arch: Arch) -> tuple[float, float, float]:
        """Logarithms of multiply-accumulates, parameters and milliseconds on the target."""
        counted, predicted = self.cost_of(arch)
        return math.log(counted.macs), math.log(counted.params), math.log(predicted.latency_ms)

    def _shares(self, arch: Arch, budgets: Sequence[Budget]) -> list[float]:
        counted = cost.count(lower(arch), self.dtype)

        def latency_ms(target: str | None) -> float:
            predicted = self._predictors[target or self._target].predict(arch)
            return predicted.high_ms if self._careful else predicted.latency_ms

        return [budget.amount(each, counted, latency_ms) / each.limit for each in budgets]

    def _part_ms(self, target: str | None, graph: Graph) -> float:
        return self._predictors[target or self._target].predict(graph).latency_ms


_NO_COST = Cost(macs=0, params=0, model_bytes=0, peak_activation_bytes=0)


def _no_latency(target: str | None) -> float:
    raise AssertionError("a latency is a sum over parts")
