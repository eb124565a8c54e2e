import random
from dataclasses import replace

import numpy as np
import pytest
import small

from ghostnas import files
from ghostnas.errors import InputError, MissingOpError
from ghostnas.latency import table
from ghostnas.latency.batch_predictor import Sweep
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import Correction
from ghostnas.networks import space

ARM = table.load(small.TABLE)
GHOSTNET = space.load("ghostnet")
MBCONV_FILE = """
block = "mbconv"
alpha = [1, 0.5, 1.3]
resolution = [64, 50]
round_to = 8
stem = {channels = [16, 24]}
head = {channels = [64, 96], features = [32, 48]}
group = [
 {stride = 1, depth = 1, width = [16, 24], expansion = [1, 2], se = 0, kernel = 3},
 {stride = 2, depth = [2, 1, 4], width = [24, 16], expansion = [4, 1], se = [0, 1], kernel = 3},
 {stride = 1, depth = 3, width = [24, 32], expansion = 3, se = 0.25, kernel = [5, 3]},
 {stride = 2, depth = [1, 2], width = 40, expansion = [2.5, 6], se = [0.25, 0], kernel = [3, 5]},
]
"""
MBCONV = space.parse(MBCONV_FILE, "mbconv", "mbconv.toml")
MIXED_FILE = """
block = ["mbconv", {type = "mbconv", kernel = 5, expansion = 6}, "skip", "ghost"]
alpha = [1, 0.5]
resolution = 64
round_to = 8
stem = {channels = [16, 24], activation = ["relu", "hard_swish"]}
head = {channels = 64, features = [32, 0]}

[[group]]
stride = 2
depth = [2, 3]
width = [24, 16]
expansion = 3
se = 0
kernel = [3, 5]
ghost_ratio = [2, 1]
cheap_kernel = 3

[[group]]
stride = 1
depth = [3, 1]
width = [24, 32]
expansion = 3
se = 0.25
kernel = 3
ghost_ratio = 2
cheap_kernel = 3
"""
MIXED = space.parse(MIXED_FILE, "mixed", "mixed.toml")
TABLES = {
    "plain": ARM,
    "calibrated": replace(
        ARM,
        # One op in ten is missing and has to be interpolated.
        rows={op: ARM.rows[op] for index, op in enumerate(sorted(ARM.rows)) if index % 10},
        correction=Correction(
            scale=1.2,
            per_op_ms=-0.002,
            per_megabyte_ms=0.05,
            networks=20,
            scores=tuple(float(rank) for rank in range(20)),
        ),
    ),
}


def assert_as_one_by_one(searched, predictor, indices):
    sweep = Sweep(searched, predictor)
    found = sweep.predict(indices)
    for at, row in enumerate(indices):
        expected = predictor.predict(searched.decode(sweep.params(row)))
        for key in ("latency_ms", "low_ms", "high_ms"):
            assert getattr(found, key)[at] == pytest.approx(getattr(expected, key), rel=1e-9), key


def sample(searched, count, seed=0):
    return Sweep(searched, Predictor(ARM)).sample(count, seed)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("searched", [GHOSTNET, MBCONV, MIXED], ids=["ghostnet", "mbconv", "mixed"])
def test_many_at_once_are_predicted_as_one_by_one(searched, name):
    count = 100 if name == "calibrated" else 20
    assert_as_one_by_one(searched, Predictor(TABLES[name]), sample(searched, count))


def test_a_calibrated_sweep_has_the_intervals_of_its_confidence():
    indices = sample(GHOSTNET, 5)
    wide, narrow = (
        Sweep(GHOSTNET, Predictor(TABLES["calibrated"], confidence)).predict(indices)
        for confidence in (0.9, 0.5)
    )
    assert (wide.latency_ms == narrow.latency_ms).all()
    assert (wide.high_ms > narrow.high_ms).all()
    assert (wide.low_ms < narrow.low_ms).all()


def test_a_space_of_fixed_depths_is_swept_too():
    for depth in (1, 3):
        pinned = MBCONV.pin(**{"group2.depth": depth, "group4.depth": 1, "alpha": 1})
        assert_as_one_by_one(pinned, Predictor(ARM), sample(pinned, 12))


def test_a_space_with_nothing_to_search_has_one_latency():
    pinned = GHOSTNET.pin(**{name: options[0] for name, options in GHOSTNET.choices.items()})
    sweep = Sweep(pinned, Predictor(ARM))
    indices = sweep.sample(3, 0)
    assert indices.shape == (3, 0)
    assert sweep.params(indices[0]) == {}
    latency_ms = Predictor(ARM).predict(GHOSTNET.decode({})).latency_ms
    assert sweep.predict(indices).latency_ms == pytest.approx([latency_ms] * 3, rel=1e-9)


def test_a_number_that_is_not_used_changes_nothing():
    text = (files.shipped("search_spaces") / "ghostnet.toml").read_text()
    text = text.replace("ghost_ratio = [2, 3]", "ghost_ratio = [1, 2]")  # 1 uses no kernel
    searched = space.parse(text, "ghostnet", "ghostnet.toml")
    sweep = Sweep(searched, Predictor(ARM))
    before = sweep.sample(50, 0)
    after = before.copy()
    rng = random.Random(0)
    changed = 0
    for row in after:
        asked, params = set(), sweep.params(row)

        def pick(name, options, asked=asked, params=params):
            asked.add(name)
            return params[name]

        searched.build(pick)
        for column, name in enumerate(sweep.names):
            if name not in asked:
                row[column] = rng.randrange(len(searched.choices[name]))
                changed += 1
    assert changed > 150
    assert (before != after).any()
    latency_ms = sweep.predict(before).latency_ms
    assert sweep.predict(after).latency_ms == pytest.approx(latency_ms, rel=1e-12)


def test_every_number_that_is_used_changes_something():
    sweep = Sweep(MBCONV, Predictor(ARM))
    base = np.zeros((1, len(sweep.names)), dtype=int)
    (latency_ms,) = sweep.predict(base).latency_ms
    for column in range(len(sweep.names)):
        changed = base.copy()
        changed[0, column] = 1
        assert sweep.predict(changed).latency_ms[0] != latency_ms, sweep.names[column]


def test_predictions_do_not_depend_on_what_else_is_predicted():
    predictor = Predictor(TABLES["calibrated"])
    indices = sample(GHOSTNET, 15)
    sweep = Sweep(GHOSTNET, predictor)
    together = sweep.predict(indices).high_ms
    assert (sweep.predict(indices[::-1]).high_ms == together[::-1]).all()
    apart = [Sweep(GHOSTNET, predictor).predict(row[None]).high_ms[0] for row in indices[:5]]
    assert together[:5] == pytest.approx(apart, rel=1e-12)
    assert len(sweep.predict(indices[:0]).latency_ms) == 0


def test_a_sample_is_of_every_option_and_the_same_for_the_same_seed():
    sweep = Sweep(GHOSTNET, Predictor(ARM))
    assert sweep.names == tuple(GHOSTNET.choices)
    indices = sweep.sample(2000, 3)
    assert indices.shape == (2000, len(sweep.names))
    for name, column in zip(sweep.names, indices.T, strict=True):
        counts = np.bincount(column)
        assert len(counts) == len(GHOSTNET.choices[name])
        assert counts.min() > 0.8 * 2000 / len(counts) - 30
    assert (sweep.sample(2000, 3) == indices).all()
    assert (sweep.sample(2000, 4) != indices).any()


def test_params_are_the_options_at_the_indices():
    sweep = Sweep(GHOSTNET, Predictor(ARM))
    (row,) = sweep.sample(1, 0)
    params = sweep.params(row)
    assert tuple(params) == sweep.names
    for name, at in zip(sweep.names, row, strict=True):
        assert params[name] == GHOSTNET.choices[name][at]
    assert GHOSTNET.decode(sweep.params(np.zeros(len(row), dtype=int))) == GHOSTNET.decode({})


def test_a_space_that_searches_strides_is_refused():
    text = MBCONV_FILE.replace("{stride = 2, depth = [1, 2]", "{stride = [2, 1], depth = [1, 2]")
    with pytest.raises(InputError, match=r"space mbconv searches group4\.stride"):
        Sweep(space.parse(text, "mbconv", "mbconv.toml"), Predictor(ARM))


def test_a_kind_of_op_that_the_table_lacks_is_refused_by_name():
    rows = {op: timing for op, timing in ARM.rows.items() if op.op != "pool"}
    sweep = Sweep(GHOSTNET, Predictor(replace(ARM, rows=rows)))
    with pytest.raises(MissingOpError, match="like pool "):
        sweep.predict(sweep.sample(1, 0))
