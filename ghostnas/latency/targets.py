"""The targets that ship: devices, numbers of cores and dtypes, each with its cost model.

One row of ``latency_tables/targets.csv`` each, and other names in ``targets.toml``. Written by
``scripts/experiments/latency_targets.py``; `ghostnas.latency.table` makes tables of them.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ghostnas.errors import InputError, did_you_mean
from ghostnas.files import shipped
from ghostnas.latency.cost_model import CostModel, Work

FILE = "targets.csv"
SOURCES = ("fitted", "computed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device setting and what a unit of work costs there.

    Attributes:
        cores: the kind of core, of which `threads` are used: ``pixel4-little``.
        source: ``fitted`` to whole networks that were measured there, or ``computed`` from the
            costs of another device with such cores.
        basis: what of, in words.
        networks: how many it was fitted to, or its error was measured on; 0 for none.
        mape, within_10, spearman: of families of networks that the fit had not seen; `mape` (a
            share) of a computed target is what such a computation was off by elsewhere.
        errors: log errors of such networks in thousandths, ascending.
    """

    name: str
    cores: str
    device: str
    soc: str
    core: str
    clock_mhz: int
    threads: int
    dtype: str
    source: str
    basis: str
    networks: int
    mape: float
    within_10: float | None
    spearman: float | None
    model: CostModel
    errors: tuple[int, ...]


@cache
def targets() -> Mapping[str, Target]:
    """Every shipped target by its name, in the file's order."""
    path = shipped("latency_tables") / FILE
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: _target(row) for row in csv.DictReader(file)}


@cache
def aliases() -> Mapping[str, str]:
    """Other names of targets and of shipped tables."""
    text = (shipped("latency_tables") / "targets.toml").read_text(encoding="utf-8")
    return {str(name): str(target) for name, target in tomllib.loads(text).items()}


def variant(name: str, *, threads: int | None = None, dtype: str | None = None) -> str:
    """The target of the same cores with that many threads and that dtype.

    Raises:
        InputError: there is none; those that there are, are named.
    """
    if threads is None and dtype is None:
        return name
    known = targets()
    target = known.get(aliases().get(name, name))
    if target is None:
        asked = "--threads" if threads is not None else "--dtype"
        meant = did_you_mean(name, (*known, *aliases()))
        raise InputError(
            f"{asked} chooses among the targets that ship, and {name!r} is none of them: a table "
            f"of your own is for one dtype and number of threads{meant}"
        )
    wanted = (threads or target.threads, dtype or target.dtype)
    same = {(t.threads, t.dtype): t.name for t in known.values() if t.cores == target.cores}
    if wanted == (target.threads, target.dtype):
        return name
    if wanted not in same:
        there = ", ".join(f"{count} in {kind}" for count, kind in sorted(same))
        raise InputError(
            f"no target for {wanted[0]} threads in {wanted[1]} on {target.cores}; "
            f"there is one for {there}"
        )
    return same[wanted]


def to_row(target: Target) -> dict[str, object]:
    """The cells of a target's row."""
    return {
        **{
            column: getattr(target, column)
            for column in COLUMNS
            if column not in (*_PRICES, "errors")
        },
        "mape": f"{target.mape:.4f}",
        "within_10": "" if target.within_10 is None else f"{target.within_10:.3f}",
        "spearman": "" if target.spearman is None else f"{target.spearman:.4f}",
        **{
            f"{kind}_ns": f"{price:.4g}"
            for kind, price in zip(Work._fields, target.model.costs_ns, strict=True)
        },
        "errors": " ".join(map(str, target.errors)),
    }


_PRICES = tuple(f"{kind}_ns" for kind in Work._fields)
COLUMNS = (
    *("name", "cores", "device", "soc", "core", "clock_mhz", "threads", "dtype", "source", "basis"),
    *("networks", "mape", "within_10", "spearman", *_PRICES, "errors"),
)


def _target(row: Mapping[str, str]) -> Target:
    texts = ("name", "cores", "device", "soc", "core", "dtype", "source", "basis")
    return Target(
        **{key: row[key] for key in texts},
        clock_mhz=int(row["clock_mhz"]),
        threads=int(row["threads"]),
        networks=int(row["networks"]),
        mape=float(row["mape"]),
        within_10=float(row["within_10"]) if row["within_10"] else None,
        spearman=float(row["spearman"]) if row["spearman"] else None,
        model=CostModel(
            costs_ns=tuple(float(row[key]) for key in _PRICES), networks=int(row["networks"])
        ),
        errors=tuple(map(int, row["errors"].split())),
    )
