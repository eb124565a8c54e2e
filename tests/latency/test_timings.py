from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from ghostnas.errors import InputError
from ghostnas.latency import cost_model, targets, timings
from ghostnas.latency.op_signature import signatures
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import load, save
from ghostnas.networks import classics

NAMES = [
    *("mobilenet_w1", "mobilenetv2_w1", "mobilenetv3_small_w1", "resnet10", "squeezenet_v1_0"),
    *("proxylessnas_cpu", "peleenet", "hardnet39ds", "preresnet18_wd2", "fdmobilenet_w1"),
    *("densenet121", "mobilenetv3_large_w1"),
]
CANDIDATES = [
    targets.targets()[name]
    for name in ("pixel4-cpu1-fp32", "s10-little-fp32", "a03s-cpu1-fp32", "mi8se-cpu1-int8")
]
TRUE = targets.targets()["a03s-cpu1-fp32"].model.costs_ns


def works(names=NAMES):
    return np.array([cost_model.total(signatures(classics.graph(n)), "fp32") for n in names])


def measured(prices, names=NAMES):
    return 1e-6 * works(names) @ np.array(prices)


def test_the_target_of_the_same_proportions_is_nearest_and_predicts_the_rest():
    slower = [1.7 * price for price in TRUE]
    adapted = timings.adapt(works(), measured(slower), "fp32", CANDIDATES)
    assert adapted.nearest.name == "a03s-cpu1-fp32"
    assert adapted.mape < 1e-3
    assert adapted.model.costs_ns == pytest.approx(slower, rel=1e-2)


def test_prices_move_from_the_prior_as_far_as_networks_say():
    other = np.array(TRUE) * [1.0, 3.0, 1.0, 1.0, 1.0, 1.0]
    adapted = timings.adapt(works(), measured(other), "fp32", CANDIDATES[2:3])
    depthwise, matrix = adapted.model.costs_ns[1] / TRUE[1], adapted.model.costs_ns[0] / TRUE[0]
    assert 2 < depthwise / matrix < 3.1
    assert adapted.mape < 0.08


def test_three_timings_are_enough_and_two_are_not():
    few = works(NAMES[:3])
    adapted = timings.adapt(few, measured(TRUE, NAMES[:3]), "fp32", CANDIDATES)
    assert len(adapted.errors) == 3
    with pytest.raises(InputError, match="2 timings are too few: it takes at least 3"):
        timings.adapt(few[:2], measured(TRUE, NAMES[:2]), "fp32", CANDIDATES)
    with pytest.raises(InputError, match="no target for int8 to start from"):
        timings.adapt(few, measured(TRUE, NAMES[:3]), "int8", CANDIDATES[:3])


def test_errors_of_networks_left_out_are_those_of_noise():
    rng = np.random.default_rng(0)
    noisy = measured(TRUE) * np.exp(rng.normal(0.0, 0.05, len(NAMES)))
    adapted = timings.adapt(works(), noisy, "fp32", CANDIDATES)
    assert 0.02 < adapted.mape < 0.15


@pytest.mark.parametrize(("count", "calibrated"), [(5, False), (12, True)])
def test_a_table_of_timings_is_kept_in_a_file_and_predicts(tmp_path, count, calibrated):
    rng = np.random.default_rng(1)
    noisy = measured(TRUE, NAMES[:count]) * np.exp(rng.normal(0.0, 0.03, count))
    adapted = timings.adapt(works(NAMES[:count]), noisy, "fp32", CANDIDATES)
    table = timings.to_table(adapted, "mine", datetime.now(UTC).date().isoformat())
    save(table, tmp_path / "mine.csv")
    assert load(str(tmp_path / "mine.csv")) == table
    assert (table.correction is not None) == calibrated
    assert table.origin.method == f"fitted to {count} networks, from {adapted.nearest.name}"
    found = Predictor(table).predict(classics.graph("mobilenetv2_wd2"))
    assert found.calibrated == calibrated
    assert found.low_ms < found.latency_ms < found.high_ms


def test_what_to_expect_is_that_of_the_most_timings_that_are_no_more():
    for dtype in ("fp32", "int8"):
        assert timings.expected(3, dtype) == timings.expected(4, dtype)
        errors = [timings.expected(count, dtype) for count in (3, 5, 10, 20, 1000)]
        assert 0.2 > errors[0] > errors[2] > errors[3] == errors[4] > 0.01


def test_a_file_of_timings_is_read(tmp_path):
    path = tmp_path / "timings.csv"
    path.write_text("network, ms, resolution\nghostnet, 20.5, 160\n\nmodel.tflite,3,\n")
    first = timings.NetworkTiming(network="ghostnet", resolution=160, ms=20.5)
    second = replace(first, network="model.tflite", resolution=None, ms=3.0)
    assert timings.read(path) == [first, second]
    path.write_text("\ufeffms,network\n1.5,resnet10\n")
    assert timings.read(path) == [replace(first, network="resnet10", resolution=None, ms=1.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"timings\.csv: is empty; it needs the columns network, resolution, ms"),
        ("network,us\na,1\n", r":1: the columns must be network, ms and.*they are network, us"),
        ("network\na\n", r":1: the columns must be"),
        ("network,ms,ms\na,1,1\n", r":1: the columns must be"),
        ("network,ms\na\n", r":2: has not as many columns as the first line"),
        ("network,ms\na,fast\n", r":2: could not convert string to float: 'fast'"),
        ("network,ms\na,-1\n", r":2: needs a network, and milliseconds and pixels above 0"),
        ("network,ms\na,nan\n", r":2: needs a network"),
        ("network,ms,resolution\na,1,0\n", r":2: needs a network"),
        ("network,ms\n,1\n", r":2: needs a network"),
    ],
)
def test_a_damaged_file_of_timings_names_its_line(tmp_path, text, message):
    path = tmp_path / "timings.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        timings.read(path)
