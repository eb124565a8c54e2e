import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostnas.errors import InputError
from ghostnas.latency import cost_model
from ghostnas.latency.cost_model import CostModel, Work, fit, work
from ghostnas.latency.op_signature import ACTIVATIONS, OPS, WINDOWED, OpSignature

PRICES = {"fp32": (0.05, 0.1, 0.5, 0.8, 0.8, 150.0), "int8": (0.01, 0.1, 0.3, 0.2, 0.5, 200.0)}


def op(kind, height, channels, out=None, kernel=0, stride=0):
    return OpSignature(kind, height, height, channels, out or channels, kernel, stride, "none")


@st.composite
def any_op(draw):
    kind = draw(st.sampled_from(OPS))
    channels = draw(st.integers(1, 600))
    kernel, stride = (
        (draw(st.integers(1, 7)), draw(st.integers(1, 3))) if kind in WINDOWED else (0, 0)
    )
    height = 1 if kind in ("dense", "flatten") else draw(st.integers(max(kernel, 1), 60))
    out = draw(st.integers(1, 600)) if kind in ("conv", "dense") else channels
    activation = draw(st.sampled_from(ACTIVATIONS))
    return OpSignature(kind, height, height, channels, out, kernel, stride, activation)


@given(op=any_op(), dtype=st.sampled_from(["fp32", "int8"]))
def test_every_op_takes_time_and_no_work_is_negative(op, dtype):
    assert min(work(op, dtype)) >= 0
    assert CostModel(costs_ns=PRICES[dtype], networks=0).latency_ms(op, dtype) > 0


@given(op=any_op(), dtype=st.sampled_from(["fp32", "int8"]))
def test_a_larger_map_never_takes_less_work(op, dtype):
    larger = op if op.op in ("dense", "flatten") else op._replace(height=op.height + 3)
    assert all(a >= b for a, b in zip(work(larger, dtype), work(op, dtype), strict=True))


def test_the_work_of_a_convolution_by_hand():
    # 49 pixels make 13 tiles of 4, 20 channels make 3 of 8; each reads 10 channels.
    found = work(op("conv", 7, 10, 20, 1, 1), "fp32")
    assert found == Work(matrix=52 * 24 * 10, weights=200, packing=49 * 10 + 49 * 20)
    # In steps of 4 channels, and writing costs as much as reading three.
    found = work(op("conv", 7, 10, 20, 1, 1), "int8")
    assert found == Work(matrix=52 * 24 * 12, weights=200, packing=49 * 10 + 3 * 49 * 20)


def test_a_window_costs_addresses_and_in_int8_a_copy_and_a_padded_map():
    conv = op("conv", 8, 16, 8, 3, 1)
    assert work(conv, "fp32") == Work(
        matrix=64 * 8 * (16 + 2) * 9, weights=16 * 8 * 9, packing=64 * (9 * 16 + 3 * 10 + 8)
    )
    assert work(conv, "int8") == Work(
        matrix=64 * 8 * 16 * 9,
        weights=16 * 8 * 9,
        packing=64 * (9 * 16 + 3 * 20 + 3 * 8),
        elementwise=16 * (64 + 100),
    )


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_depthwise_convolution_costs_its_multiply_adds_and_its_maps(dtype):
    three, five, seven = (
        work(op("depthwise", 14, 32, 32, kernel, 1), dtype).depthwise for kernel in (3, 5, 7)
    )
    macs = 14 * 14 * 32
    assert five - three == macs * (25 - 9)
    assert seven - five > 2 * macs * (49 - 25)  # no kernel for as large a window
    maps = {"fp32": 3, "int8": 4}[dtype]
    assert three == macs * (9 + 2 * maps)


def test_a_fused_activation_is_free_and_a_vector_waits_for_weights_only():
    conv = op("conv", 7, 10, 20, 1, 1)
    assert work(conv._replace(activation="relu6"), "fp32") == work(conv, "fp32")
    assert work(op("dense", 1, 64, 10), "int8") == Work(weights=640)
    assert work(op("conv", 1, 64, 10, 1, 1), "fp32") == Work(weights=640)
    assert work(op("flatten", 1, 64), "fp32") == Work()


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_fit_finds_the_prices_that_networks_were_made_of(dtype):
    rng = np.random.default_rng(0)
    works = rng.uniform(0.1, 1.0, (40, 6)) * np.array([5e8, 2e7, 5e6, 1e7, 5e6, 1e4])
    measured = 1e-6 * works @ np.array(PRICES[dtype])
    assert fit(works, measured, dtype) == pytest.approx(PRICES[dtype], rel=1e-4)


def test_a_fit_ignores_a_network_that_is_far_off_and_heeds_weights():
    rng = np.random.default_rng(1)
    works = rng.uniform(0.1, 1.0, (40, 6)) * np.array([5e8, 2e7, 5e6, 1e7, 5e6, 1e4])
    measured = 1e-6 * works @ np.array(PRICES["int8"])
    spoilt = measured.copy()
    spoilt[3] *= 5
    assert fit(works, spoilt, "int8") == pytest.approx(PRICES["int8"], rel=0.02)
    twice = np.where(np.arange(40) < 30, 1.0, 2.0) * measured  # two devices, in truth
    first = np.where(np.arange(40) < 30, 1.0, 1e-6)
    assert fit(works, twice, "int8", weights=first) == pytest.approx(PRICES["int8"], rel=0.02)


def test_a_prior_keeps_proportions_where_networks_say_nothing_of_them():
    works = np.array([[5e8, 0, 5e6, 1e7, 5e6, 0], [9e8, 0, 6e6, 2e7, 7e6, 0]])
    prior = np.array(PRICES["int8"])
    measured = 3e-6 * works @ prior
    found = fit(works, measured, "int8", prior_ns=prior, trust=0.03)
    assert found == pytest.approx(3 * prior, rel=1e-3)


@pytest.mark.parametrize("costs", [(1.0,) * 5, (0.0,) * 6, (-1.0, *(1.0,) * 5)])
def test_prices_that_are_none_are_refused(costs):
    with pytest.raises(InputError, match=r"6 numbers of at least 0.*matrix, depthwise"):
        CostModel(costs_ns=costs, networks=1)


def test_dtypes_have_units_for_every_op():
    for units in cost_model._UNITS.values():
        assert {"add", "multiply", "affine", "concat", "pool", "pad"} < set(units.elementwise)
