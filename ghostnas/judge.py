"""What networks cost on a search's target, held against its budgets. Trains nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ghostnas import budget, cost, latency
from ghostnas.arch import Arch, lower
from ghostnas.cost import Cost
from ghostnas.errors import InputError
from ghostnas.predict import CONFIDENCE, Prediction, Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A network with its costs, and its accuracies (0 to 1) over trainings from several seeds."""

    name: str
    arch: Arch
    cost: Cost
    latency: Prediction
    validation: tuple[float, ...]
    test: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "id": self.arch.id,
            "params": self.cost.params,
            "macs": self.cost.macs,
            "latency_ms": round(self.latency.latency_ms, 4),
            "latency_low_ms": round(self.latency.low_ms, 4),
            "latency_high_ms": round(self.latency.high_ms, 4),
            "accuracy": round(statistics.fmean(self.test), 5),
            "accuracy_std": round(statistics.stdev(self.test), 5) if len(self.test) > 1 else None,
            "accuracy_min": round(min(self.test), 5),
            "accuracy_max": round(max(self.test), 5),
            "validation_accuracy": round(statistics.fmean(self.validation), 5),
            "seeds": len(self.test),
        }


class Judge:
    """What networks cost on the target, and how far they use up the budgets.

    With a `confidence`, a latency counts with the upper end of its interval.
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
            name: Predictor(latency.load(name), confidence or CONFIDENCE) for name in sorted(names)
        }
        self._strains: dict[Arch, float] = {}

    def strain(self, arch: Arch) -> float:
        """The largest share of a budget that `arch` uses up; over 1 is over budget."""
        if arch not in self._strains:
            counted = cost.count(lower(arch))

            def latency_ms(target: str | None) -> float:
                predicted = self._predictors[target or self._target].predict(arch)
                return predicted.high_ms if self._careful else predicted.latency_ms

            self._strains[arch] = max(
                budget.amount(each, counted, latency_ms) / each.limit for each in self.budgets
            )
        return self._strains[arch]

    def cost_of(self, arch: Arch) -> tuple[Cost, Prediction]:
        return cost.count(lower(arch)), self._predictors[self._target].predict(arch)
