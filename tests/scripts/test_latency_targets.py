"""The fit of targets, on "published" latencies made up from known prices."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ghostnas.latency import cost_model
from ghostnas.latency.op_signature import signatures
from ghostnas.networks import classics

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "latency_targets.py"
PRICES = {"float": (0.05, 0.1, 0.5, 0.8, 0.8, 150.0), "quant": (0.01, 0.1, 0.3, 0.2, 0.5, 200.0)}
NAMES = [
    *("mobilenet_wd4", "mobilenet_w1", "mobilenetv2_wd4", "mobilenetv2_w1", "resnet10"),
    *("preresnet18_wd4", "seresnet12", "squeezenet_v1_0", "squeezeresnet_v1_1", "dla46c"),
    *("proxylessnas_mobile", "hardnet39ds", "regnetx002", "regnety002", "resnext14_16x4d"),
    *("mobilenetv3_small_w1", "mobilenetv3_large_w1", "peleenet", "fdmobilenet_wd2"),
]


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("latency_targets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latencies in the format of the published file, with 2 % of noise."""
    rng = np.random.default_rng(0)
    columns = [
        (f"mi8se|{cores}|{word}|mean", word, dtype, speed)
        for word, dtype in (("float", "fp32"), ("quant", "int8"))
        for cores, speed in (
            ("1large", 1.0),
            ("2large", 0.6),
            *((f"{n}small", 3 / n) for n in range(1, 7)),
        )
    ]
    lines = [",".join(("model", *(column for column, *_ in columns)))]
    for name in NAMES:
        ops = signatures(classics.graph(name))
        works = {dtype: cost_model.total(ops, dtype) for dtype in ("fp32", "int8")}
        us = [
            1e-3 * speed * works[dtype] @ np.array(PRICES[word]) * np.exp(rng.normal(0.0, 0.02))
            for _, word, dtype, speed in columns
        ]
        lines.append(",".join((name, *(f"{each:.3f}" for each in us))))
    path = tmp_path_factory.mktemp("published") / "networks.csv"
    path.write_text("\n".join([*lines, f"no_such_network{',1' * len(columns)}"]) + "\n")
    return path


def test_families_are_told_by_name() -> None:
    assert script.family("sepreresnet18") == script.family("resnet10") == "resnet"
    assert script.family("mobilenetb_wd4") == script.family("mobilenet_w1") == "mobilenet"
    names = ("mobilenetv2b_w1", "mobilenetv3_small_w1", "fdmobilenet_w1", "regnety002", "dla46c")
    assert len({script.family(name) for name in names}) == 5


def test_families_weigh_alike() -> None:
    weights = script.alike(["a", "b", "a", "a"])
    assert weights == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])


@pytest.mark.slow
def test_prices_are_found_and_predict_families_left_out(published: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    ran = subprocess.run(
        [sys.executable, SCRIPT, published, "--columns", "mi8se", "--results", results],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.count("fp32") == ran.stdout.count("int8") == 8
    import pandas as pd

    found = pd.read_csv(results)
    assert len(found) == 16
    assert found["mape"].max() < 0.05
    assert found["spearman"].min() > 0.99
    assert (found["mape"] < found["flops_mape"]).all()
    assert set(found["networks"]) == {len(NAMES) - 2}  # RegNets are told apart


def test_a_missing_file_ends_with_2_and_one_line(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "none.csv"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    [line] = ran.stderr.splitlines()
    assert line.startswith("latency_targets: ")
