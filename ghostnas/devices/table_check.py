"""Checks a table against fresh networks on the device, and carries one over to another device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.devices import check_report, table_build
from ghostnas.devices.bench import Bench
from ghostnas.devices.journal import Journal
from ghostnas.devices.table_build import MeasuredNetwork
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.latency import calibration
from ghostnas.latency import table as latency_table
from ghostnas.latency.op_costs import OpCosts
from ghostnas.latency.predictor import CONFIDENCE, Predictor
from ghostnas.latency.table import Table, Timing
from ghostnas.networks.arch import lower
from ghostnas.networks.space import Space
from ghostnas.progress import Say


def check(
    bench: Bench, path: Path, space: Space, *, networks: int, seed: int, say: Say = print
) -> dict[str, Any]:
    """Measure networks that the table has never seen and compare its predictions with them.

    They are kept beside the table, and not measured again. So is a page about the check.

    Raises:
        InputError: the device's setting is not the table's; the difference is named. Or there are
            too few networks, to check or in the table.
    """
    _check_enough(networks)
    table = latency_table.load(str(path))
    origin = dataclasses.replace(table_build.origin_of(bench), method=table.origin.method)
    if differs := latency_table.difference(origin, table.origin):
        raise InputError(f"{path} is for another setting than the device: {differs}")
    Predictor(table)  # refuses a table that allows no interval, before anything is measured
    file = table_build.networks_file(path)
    earlier = table_build.load_networks(file)
    seen = frozenset(each.arch.id for each in earlier)
    about = {"space": space.hash, "seed": seed, "setting": latency_table.setting(origin)}
    journal = Journal(Path(f"{path}.check-journal"), about)
    wanted = table_build.draw(space, networks, seed, without=seen)
    measured = table_build.measure_networks(bench, wanted, journal, "check", say)
    table_build.save_networks(file, [*earlier, *measured])
    journal.remove()
    before_ms = table.origin.sentinel_ms
    drift = bench.first.sentinel_ms / before_ms - 1 if before_ms else None
    found = {**compare(table, measured), "drift": drift}
    check_report.write(path, table, measured, found)
    return {**found, "report": str(check_report.place(path))}


def compare(table: Table, measured: Sequence[MeasuredNetwork]) -> dict[str, Any]:
    """How well a table predicts measured networks, and how well their FLOPs would.

    `flops` is for a line through the multiply-accumulates, fitted to these very networks except
    the one it predicts: more than it could know.

    Raises:
        InputError: there are too few networks.
    """
    _check_enough(len(measured))
    measured_ms = np.array([each.timing.median_ms for each in measured])
    predictor = Predictor(table)
    predictions = [predictor.predict(each.arch) for each in measured]
    predicted_ms = np.array([each.latency_ms for each in predictions])
    held = [
        each.low_ms <= ms <= each.high_ms for each, ms in zip(predictions, measured_ms, strict=True)
    ]
    macs = np.array([cost.count(lower(each.arch)).macs for each in measured], dtype=float)
    lines = np.stack([macs / macs.max(), np.ones(len(macs))], axis=1)
    return {
        "networks": len(measured),
        **agreement(predicted_ms, measured_ms),
        "bias": float(np.mean(predicted_ms / measured_ms - 1)),
        "confidence": CONFIDENCE,
        "coverage": float(np.mean(held)),
        "flops": agreement(calibration.left_out(lines, measured_ms), measured_ms),
    }


def agreement(predicted: Array, measured: Array) -> dict[str, float]:
    """Mean absolute percentage error (as a share), shares within 5 and 10 %, and two rank
    correlations: Spearman's rho and Kendall's tau.
    """
    from scipy.stats import kendalltau, spearmanr

    errors = np.abs(predicted / measured - 1)
    return {
        "mape": float(errors.mean()),
        "within_5": float(np.mean(errors <= 0.05)),
        "within_10": float(np.mean(errors <= 0.10)),
        "spearman": float(spearmanr(predicted, measured).statistic),
        "kendall": float(kendalltau(predicted, measured).statistic),
    }


def calibrate(
    bench: Bench, table: Table, space: Space, out: Path, *, networks: int, say: Say = print
) -> Table:
    """A table for another device of the same kind, from a few networks measured on it.

    The ops keep their proportions to each other; the correction is fitted again.

    Raises:
        InputError: the device has another architecture than the table's, runs another dtype or
            number of threads, or runs none of the networks whole.
    """
    if out.exists():
        raise InputError(f"{out} already exists; choose another --out")
    origin = table_build.origin_of(bench)
    for key in ("dtype", "threads"):
        ours, theirs = getattr(origin, key), getattr(table.origin, key)
        if ours != theirs:
            raise InputError(
                f"table {table.name} has {key} {theirs!r}, but the device runs {ours!r}"
            )
    theirs, ours = latency_table.architecture(table.origin), latency_table.architecture(origin)
    if theirs and ours and theirs != ours:
        raise InputError(
            f"table {table.name} is for {theirs} cores and the device has {ours} ones: kernels "
            "differ there, and ops do not keep their proportions; build a table on the device with "
            "ghostnas latency build"
        )
    if not theirs or not ours:
        say(
            f"{table.name if not theirs else 'the device'} does not state its architecture; "
            "the two must match for the table to hold"
        )
    about = {"table": table.name, "setting": latency_table.setting(origin)}
    journal = Journal(Path(f"{out}.journal"), about)
    wanted = table_build.draw(space, networks, table_build.NETWORK_SEED)
    measured = table_build.measure_networks(bench, wanted, journal, "fit", say)
    if not measured:
        raise InputError(f"XNNPACK takes none of the {len(wanted)} networks on the device")
    costs = OpCosts(table)
    sums_ms = np.array([costs.of_arch(each.arch).latency_ms for each in measured])
    measured_ms = np.array([each.timing.median_ms for each in measured])
    scale = float(np.median(measured_ms / sums_ms))
    rows = {op: _scaled(timing, scale) for op, timing in table.rows.items()}
    origin = dataclasses.replace(
        origin,
        method=f"carried over from {table.name} by {len(measured)} networks",
        op_error=table.origin.op_error,
        sentinel_ms=bench.first.sentinel_ms,
    )
    model = table.model and dataclasses.replace(
        table.model, costs_ns=tuple(scale * price for price in table.model.costs_ns)
    )
    carried = dataclasses.replace(table, name=out.stem, origin=origin, rows=rows, model=model)
    carried = table_build.correct(carried, measured)
    table_build.save_networks(table_build.networks_file(out), measured)
    latency_table.save(carried, out)
    journal.remove()
    return carried


def _check_enough(networks: int) -> None:
    if networks < calibration.FEWEST_NETWORKS:
        raise InputError(
            f"{networks} networks are too few: it takes at least {calibration.FEWEST_NETWORKS}"
        )


def _scaled(timing: Timing, scale: float) -> Timing:
    median_ms, p10_ms, p90_ms = (scale * ms for ms in timing[:3])
    return Timing(median_ms, p10_ms, p90_ms, timing.runs)
