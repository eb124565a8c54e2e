"""Budgets: amounts with a unit, and how much of each a network uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ghostnas.errors import InputError
from ghostnas.ir.cost import Cost

# Unit to the quantity it counts and its size. FLOPs are multiply-accumulates.
_UNITS = {
    "FLOPs": ("macs", 1.0),
    "KFLOPs": ("macs", 1e3),
    "MFLOPs": ("macs", 1e6),
    "GFLOPs": ("macs", 1e9),
    "ms": ("latency_ms", 1.0),
    "params": ("params", 1.0),
    "Kparams": ("params", 1e3),
    "Mparams": ("params", 1e6),
    "KB": ("model_bytes", 1e3),
    "MB": ("model_bytes", 1e6),
    "KBpeak": ("peak_activation_bytes", 1e3),
    "MBpeak": ("peak_activation_bytes", 1e6),
}
SUMS = {"macs", "latency_ms", "params", "model_bytes"}  # over a network's parts, or nearly so
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]+)(?:@(.+))?")
_EXAMPLES = "150MFLOPs, 20ms, 5Mparams, 6MB (the .tflite file), 4MBpeak (activations)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most `limit` of `quantity`; a latency budget may name its own target."""

    text: str
    quantity: str
    limit: float
    target: str | None = None


def parse(text: str) -> Budget:
    """The budget for an amount such as ``150MFLOPs``, ``20ms`` or ``20ms@pixel4``.

    Raises:
        InputError: it is not a positive number with a known unit.
    """
    match = _AMOUNT.fullmatch(text.strip())
    units = {unit.lower(): unit for unit in _UNITS}
    if match is None or match[2].lower() not in units or float(match[1]) <= 0:
        raise InputError(f"budget {text!r}: write a positive number and a unit, like {_EXAMPLES}")
    quantity, factor = _UNITS[units[match[2].lower()]]
    if match[3] and quantity != "latency_ms":
        raise InputError(f"budget {text!r}: only a latency in ms can name a target")
    limit = float(match[1]) * factor
    return Budget(text=text.strip(), quantity=quantity, limit=limit, target=match[3])


def amount(budget: Budget, cost: Cost, latency_ms: Callable[[str | None], float]) -> float:
    """How much of a budget's quantity a network uses.

    Args:
        latency_ms: the network's latency on a target (None for the search's own); called only for
            a latency budget.
    """
    if budget.quantity == "latency_ms":
        return latency_ms(budget.target)
    return float(getattr(cost, budget.quantity))
