"""The benchmark of predictors, on "published" latencies made up from known costs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from ghostnas.backends import tflite_writer
from ghostnas.devices import op_counts, op_models
from ghostnas.devices.emulated import features
from ghostnas.devices.emulator import Counts
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.networks import classics

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "experiments" / "predictor_benchmark.py"
COSTS_NS = np.array([0.43, 12.0, 8.0])
NAMES = [
    *("mobilenet_wd4", "mobilenet_wd2", "mobilenet_w1"),
    *("mobilenetv2_wd4", "mobilenetv2_wd2", "mobilenetv2_w1"),
    *("resnet10", "preresnet18_wd4", "seresnet12"),
    *("squeezenet_v1_0", "squeezeresnet_v1_1"),
    *("proxylessnas_mobile", "dla46c", "hardnet39ds"),
]
FAMILIES = 7
COLUMN = "ourphone|1large|float|mean"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("predictor_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


benchmark = load_script()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latencies in the format of the published file, with 2 % of noise."""
    counts = op_counts.load(ROOT / "latency_tables" / "counts" / "cortex-a76-fp32.csv")
    rng = np.random.default_rng(0)
    lines = [f"model,FLOPS,size,{COLUMN},ourphone|1large|float|std,ourphone|1large|quant|std"]
    for name in NAMES:
        ops = signatures(classics.graph(name))
        ns = sum(
            COSTS_NS @ features("fp32", "", counts[op], *benchmark.sizes(op, "fp32")) for op in ops
        )
        us = 1e-3 * ns * np.exp(rng.normal(0.0, 0.02))
        lines.append(f"{name},1,1,{us:.3f},0.1,0.1")
    lines += ["no_such_network,1,1,5.0,0.1,0.1", "resnet18,1,1,,,"]
    path = tmp_path_factory.mktemp("published") / "networks.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, args)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def mean_errors(printed: str) -> dict[str, float]:
    found = re.findall(r"^  (\w+) +mean error +([\d.]+) %", printed, re.MULTILINE)
    return {name: float(error) for name, error in found}


def test_counts_predict_latencies_made_from_them_and_flops_do_not(published: Path) -> None:
    ran = run(published, "--networks")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"{COLUMN}: {len(NAMES)} networks of {FAMILIES} families\n")
    errors = mean_errors(ran.stdout)
    assert list(errors) == ["counts", "FLOPs", "roofline"]
    assert errors["counts"] < 6
    assert errors["FLOPs"] > 3 * errors["counts"]
    each = re.findall(r"^    (\w+) +([+-][\d.]+) %$", ran.stdout, re.MULTILINE)
    assert sorted(name for name, _ in each) == sorted(NAMES)
    mean = np.mean([abs(float(error)) for _, error in each])
    assert mean == pytest.approx(errors["counts"], abs=0.11)
    [fitted] = re.findall(r"fitted to all, ns: (.*)", ran.stdout)
    costs = [float(cost) for cost in fitted.split(", ")]
    assert costs[0] == pytest.approx(COSTS_NS[0], rel=0.1)
    assert costs[1:] == pytest.approx(COSTS_NS[1:], rel=0.35)


def test_families_and_columns_are_chosen(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["predictor_benchmark", str(published), "--without", "resnet", "squeezenet"]
    monkeypatch.setattr(sys, "argv", args)
    assert benchmark.main() == 0
    without = capsys.readouterr().out
    assert f"{len(NAMES) - 5} networks of {FAMILIES - 2} families" in without
    monkeypatch.setattr(sys, "argv", [*args, "--columns", "otherphone"])
    assert benchmark.main() == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("", "No columns"), ("name\nresnet18\n", "model")],
)
def test_an_invalid_file_gives_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    message: str,
) -> None:
    path = tmp_path / "networks.csv"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(sys, "argv", ["predictor_benchmark", str(path)])
    assert benchmark.main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("predictor_benchmark: ")
    assert message in line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18_wd2", "resnet"),
        ("resnetbc26b", "resnet"),
        ("sepreresnet10", "resnet"),
        ("preresnet12", "resnet"),
        ("seresnet16", "resnet"),
        ("resnext14_16x4d", "resnext"),
        ("mobilenet_w1", "mobilenet"),
        ("mobilenetb_wd4", "mobilenet"),
        ("fdmobilenet_w1", "fdmobilenet"),
        ("mobilenetv2b_w1", "mobilenetv2"),
        ("mobilenetv3_small_w1", "mobilenetv3"),
        ("squeezeresnet_v1_1", "squeezenet"),
        ("regnety016", "regnet"),
        ("densenet121", "densenet"),
        ("dla46c", "dla"),
    ],
)
def test_networks_of_one_design_are_a_family(name: str, expected: str) -> None:
    assert benchmark.family(name) == expected


def test_every_network_has_a_family() -> None:
    families = {benchmark.family(name) for name in classics.names()}
    assert 10 < len(families) < len(classics.names()) / 2


@pytest.mark.parametrize(
    ("op", "weight_numbers", "map_numbers", "macs"),
    [
        (("conv", 14, 14, 32, 64, 3, 2, "relu"), 9 * 32 * 64, 14 * 14 * 32 + 7 * 7 * 64, None),
        (("conv", 7, 7, 8, 16, 1, 2, "none"), 8 * 16, 7 * 7 * 8 + 4 * 4 * 16, 4 * 4 * 8 * 16),
        (("depthwise", 14, 14, 32, 32, 5, 1, "none"), 25 * 32, 2 * 14 * 14 * 32, 196 * 25 * 32),
        (("dense", 1, 1, 64, 10, 0, 0, "none"), 640, 74, 640),
        (("hard_swish", 7, 7, 8, 8, 0, 0, "none"), 0, 2 * 7 * 7 * 8, 0),
    ],
)
def test_sizes_and_multiply_adds_of_an_op(
    op: tuple[object, ...], weight_numbers: int, map_numbers: int, macs: int | None
) -> None:
    signature = OpSignature(*op)  # type: ignore[arg-type]
    assert benchmark.sizes(signature, "fp32") == (weight_numbers / 16, map_numbers / 16)
    assert benchmark.sizes(signature, "int8") == (weight_numbers / 64, map_numbers / 64)
    assert benchmark.macs(signature) == (weight_numbers * 49 if macs is None else macs)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_costs_are_fitted_to_the_maps_that_a_device_is_asked_for(dtype: str) -> None:
    ops = [
        OpSignature("conv", 14, 14, 32, 64, 3, 2, "relu"),
        OpSignature("depthwise", 14, 14, 32, 32, 5, 1, "none"),
        OpSignature("dense", 1, 1, 64, 10, 0, 0, "none"),
        OpSignature("flatten", 1, 1, 64, 64, 0, 0, "none"),
    ]
    for op in ops:
        inside = tflite_writer.inspect(op_models.op_model(op, dtype))
        assert benchmark.sizes(op, dtype)[1] == inside.map_bytes / 64, op


def test_int8_features_depend_on_the_kind_of_op() -> None:
    counts = Counts(
        cycles=7.0,
        instructions=1,
        l1_misses=3,
        l2_misses=2,
        l3_misses=1,
        bytes_read=1,
        bytes_written=1,
    )
    found = {
        kind: benchmark.counted(OpSignature(kind, 8, 8, 8, 8, size, size, "none"), counts, "int8")
        for kind, size in (("conv", 1), ("depthwise", 1), ("add", 0), ("pool", 0), ("relu", 0))
    }
    assert found["conv"] == (7.0, 0.0, 0.0)
    assert found["depthwise"] == (0.0, 16.0, 0.0)
    assert found["relu"] == (0.0, 0.0, 16.0)
    assert found["add"] == (0.0, 0.0, 24.0)  # two inputs and an output
    assert found["pool"] == (0.0, 0.0, 8.125)


def some_shares(rows: int = 24) -> np.ndarray:
    """Shares of rows' times that costs of 2, 300 and 5e-4 make up; the scales are far apart."""
    rng = np.random.default_rng(4)
    rows_of = rng.lognormal(0.0, 1.0, (rows, 3)) * [1e6, 1e3, 1e9]
    return rows_of / (rows_of @ [2.0, 300.0, 5e-4])[:, None]


def test_costs_are_fitted_although_some_rows_are_far_off() -> None:
    shares = some_shares()
    assert benchmark.fit_absolute(shares) == pytest.approx([2.0, 300.0, 5e-4], rel=1e-3)
    shares[3] /= 3
    shares[17] *= 3
    assert benchmark.fit_absolute(shares) == pytest.approx([2.0, 300.0, 5e-4], rel=0.02)


def test_no_cost_is_negative_and_what_never_occurs_costs_nothing() -> None:
    shares = some_shares()
    shares[:, 1] = 0.0
    costs = benchmark.fit_absolute(shares)
    assert costs[1] == 0
    assert costs.min() >= 0


def test_a_roofline_is_the_slower_of_two() -> None:
    rng = np.random.default_rng(5)
    rows = rng.lognormal(0.0, 1.5, (60, 2)) * [1e9, 1e6]
    measured = np.maximum(rows[:, 0] * 1e-8, rows[:, 1] * 1.2e-5)
    predicted = benchmark.fit_roofline(rows, measured)(rows)
    assert np.abs(predicted / measured - 1).mean() < 0.05


@pytest.mark.parametrize("kind", ["counts", "FLOPs", "roofline"])
def test_a_left_out_family_has_no_part_in_its_prediction(published: Path, kind: str) -> None:
    table = pd.read_csv(published, index_col="model")
    column = benchmark.Column.read(table, COLUMN, "fp32", ())
    before = column.left_out(kind)
    at = np.array([benchmark.family(name) == "mobilenet" for name in column.names])
    assert at.sum() == 3
    column.measured_ms[at] *= 50
    after = column.left_out(kind)
    assert after[at] == pytest.approx(before[at], rel=1e-12)
    assert np.abs(after[~at] / before[~at] - 1).max() > 1e-6
