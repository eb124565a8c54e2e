import math
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import TABLE

from ghostnas.latency import table as latency_table
from ghostnas.latency.interpolation import TILES, Interpolator, kind_of
from ghostnas.latency.op_signature import OpSignature

MEDIANS = {op: timing.median_ms for op, timing in latency_table.load(TABLE).rows.items()}


@cache
def kinds():
    """The emulated table's ops, by kind."""
    found = {}
    for op in MEDIANS:
        found.setdefault(kind_of(op), []).append(op)
    return found


def table_of(ops):
    return {op: MEDIANS[op] for op in ops}


@dataclass(frozen=True)
class Kernel:
    """What a convolution takes on a device whose kernel makes `rows` x `channels` at once."""

    rows: int
    channels: int

    def ms(self, op):
        pixels = math.ceil(op.height / op.stride) * math.ceil(op.width / op.stride)
        padded = math.ceil(pixels / self.rows) * self.rows
        padded *= math.ceil(op.out_channels / self.channels) * self.channels
        work = padded * op.in_channels * op.kernel**2
        weights = op.in_channels * op.out_channels * op.kernel**2
        read = op.height * op.width * op.in_channels
        return 1e-3 + 1e-7 * work + 3e-7 * weights + 2e-7 * read


def convolutions(count, seed, kernel=1, stride=1):
    rng = random.Random(seed)
    ops = {}
    while len(ops) < count:
        size = rng.randint(3, 30)
        ops[
            OpSignature(
                *("conv", size, size, rng.randint(1, 200), rng.randint(1, 200)),
                *(kernel, stride, rng.choice(["none", "relu"])),
            )
        ] = None
    return list(ops)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2)])
def test_a_kernel_that_works_in_tiles_is_predicted_exactly(tile, kernel, stride):
    device = Kernel(*tile)
    known, asked = convolutions(60, 0, kernel, stride), convolutions(40, 1, kernel, stride)
    interpolator = Interpolator({op: device.ms(op) for op in known})
    for op in asked:
        predicted = interpolator.predict(op)
        assert predicted.latency_ms == pytest.approx(device.ms(op), rel=1e-6)
        assert predicted.error < 1e-6


def test_a_kernel_of_another_tile_is_not_taken_for_it():
    device = Kernel(10, 12)
    interpolator = Interpolator({op: device.ms(op) for op in convolutions(60, 0)})
    errors = []
    for op in convolutions(40, 1):
        predicted = interpolator.predict(op)
        assert predicted.error > 0.005
        errors.append(abs(predicted.latency_ms / device.ms(op) - 1))
    assert np.median(errors) < 0.05


def test_what_no_cost_explains_is_learned_from_the_nearest_ops():
    def ms(op):  # above some size, nothing is in the cache
        return Kernel(6, 8).ms(op) * (3.0 if op.in_channels > 100 else 1.0)

    interpolator = Interpolator({op: ms(op) for op in convolutions(300, 0)})
    asked = [op for op in convolutions(200, 1) if not 70 < op.in_channels < 140]
    errors = [abs(interpolator.predict(op).latency_ms / ms(op) - 1) for op in asked]
    assert np.median(errors) < 0.1


def left_out(ops, count, seed):
    """Whether ops are within the stated error, and their errors, predicted from `count` others."""
    rng = random.Random(seed)
    shuffled = rng.sample(ops, len(ops))
    interpolator = Interpolator(table_of(shuffled[:count]))
    errors, within = [], []
    for op in shuffled[count : count + 25]:
        predicted = interpolator.predict(op)
        errors.append(abs(predicted.latency_ms / MEDIANS[op] - 1))
        within.append(errors[-1] <= predicted.error)
    return errors, within


@pytest.mark.parametrize(
    ("count", "median", "lowest"),
    [(4, 0.15, 0.75), (6, 0.08, 0.8), (12, 0.05, 0.86), (30, 0.04, 0.86), (130, 0.03, 0.86)],
)
def test_left_out_ops_are_within_the_stated_error_nine_times_in_ten(count, median, lowest):
    errors, within = [], []
    for ops in kinds().values():
        if len(ops) >= count + 10:
            for seed in range(5):
                found = left_out(ops, count, seed)
                errors += found[0]
                within += found[1]
    assert len(errors) > 500
    assert np.median(errors) < median
    assert lowest <= np.mean(within) <= 0.96


def test_ops_that_cost_the_same_but_for_their_activation_do_not_vouch_for_each_other():
    # Each op is there twice and takes half as long again the second time: that is the error.
    ops = [op._replace(activation="none") for op in convolutions(60, 0)]
    table = {op: Kernel(6, 8).ms(op) for op in ops}
    table |= {op._replace(activation="relu"): 1.5 * ms for op, ms in table.items()}
    assert Interpolator(table).predict(ops[0]).error > 0.3


KINDS = [
    ("conv", 1, 1),
    ("conv", 3, 2),
    ("depthwise", 3, 1),
    ("depthwise", 5, 2),
    ("dense", 0, 0),
    ("add", 0, 0),
    ("concat", 0, 0),
    ("narrow", 0, 0),
    ("pool", 0, 0),
    ("multiply", 0, 0),
    ("hard_sigmoid", 0, 0),
]


@st.composite
def any_op(draw):
    op, kernel, stride = draw(st.sampled_from(KINDS))
    size = 1 if op == "dense" else draw(st.integers(2 if kernel == 3 else 1, 300))
    channels = draw(st.integers(1, 3000))
    out = draw(st.integers(1, 3000)) if op in ("conv", "dense") else channels
    if op == "depthwise":
        out *= draw(st.integers(1, 2)) if stride == 1 else 1
    elif op == "concat":
        out *= draw(st.integers(2, 4))
    elif op == "narrow":
        channels += draw(st.integers(1, 9))
    return OpSignature(op, size, size, channels, out, kernel, stride, "none")


SHIPPED = Interpolator(MEDIANS)


@given(op=any_op())
def test_an_op_of_any_size_takes_time(op):
    predicted = SHIPPED.predict(op)
    assert 0 < predicted.latency_ms < math.inf
    assert 0 < predicted.error < math.inf


@st.composite
def any_table(draw):
    """A few ops of one kind, each of any latency."""
    op, kernel, stride = draw(st.sampled_from([k for k in KINDS if k[0] in ("conv", "add")]))
    sizes = st.tuples(st.integers(1, 60), st.integers(1, 400), st.integers(1, 400))
    rows = draw(st.lists(sizes, min_size=5, max_size=8, unique_by=lambda row: row[:2]))
    return {
        OpSignature(
            *(op, size + 1, size + 1, channels, out if op == "conv" else channels),
            *(kernel, stride, "none"),
        ): draw(st.floats(1e-4, 1e3))
        for size, channels, out in rows
    }


@settings(max_examples=30)
@given(table=any_table(), seed=st.integers(0, 9))
def test_a_table_of_any_latencies_gives_times_above_0(table, seed):
    op = random.Random(seed).choice(list(table))
    for asked in (op, op._replace(height=31, width=17), op._replace(activation="relu6")):
        predicted = Interpolator(table).predict(asked)
        assert 0 < predicted.latency_ms < math.inf
        assert 0 <= predicted.error < math.inf


def test_an_op_that_no_cost_of_the_others_covers_takes_time():
    def op(channels, out):
        return OpSignature("conv", 2, 2, channels, out, 1, 1, "none")

    # Best explained by the cost of channels that fill no whole vector; the last op has none.
    table = {op(1, 1): 2.0, op(1, 2): 1.0, op(2, 1): 2.0, op(4, 1): 0.5, op(4, 4): 12.0}
    for asked in (*table, op(4, 8), op(8, 8)):
        predicted = Interpolator(table).predict(asked)
        assert 0 < predicted.latency_ms < math.inf
        assert 0 < predicted.error < math.inf


@settings(max_examples=40)
@given(op=any_op(), factor=st.sampled_from([0.25, 8.0]))
def test_on_a_slower_device_everything_takes_proportionally_longer(op, factor):
    ops = kinds()[kind_of(op)][:9]
    once = Interpolator(table_of(ops)).predict(op)
    slower = Interpolator({each: factor * MEDIANS[each] for each in ops}).predict(op)
    assert slower.latency_ms == pytest.approx(factor * once.latency_ms, rel=1e-6)
    assert slower.error == pytest.approx(once.error, rel=1e-6, abs=1e-9)


def test_a_kind_without_ops_or_relatives_is_not_guessed():
    op = OpSignature("conv", 14, 14, 40, 80, 1, 1, "relu")
    ops = kinds()[kind_of(op)]
    assert Interpolator({}).predict(op) is None
    assert Interpolator(table_of(ops[:3])).predict(op) is None
    assert Interpolator(table_of(ops[:4])).predict(op) is not None
    others = [each for each in MEDIANS if each.op not in ("conv", "dense")]
    assert Interpolator(table_of([*others, *ops[:3]])).predict(op) is None


# Kinds that borrow from their relatives


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (7, 2), (9, 1)])
def test_a_kind_is_predicted_exactly_if_its_relatives_show_all_that_its_kernel_does(kernel, stride):
    """Of one kernel and stride alone, work, what is read and what is written grow alike."""
    device = Kernel(6, 8)
    known = [op for at in ((1, 1), (3, 2), (5, 1)) for op in convolutions(60, at[0], *at)]
    interpolator = Interpolator({op: device.ms(op) for op in known})
    for op in convolutions(20, 9, kernel, stride):
        predicted = interpolator.predict(op)
        assert predicted.borrowed
        assert predicted.latency_ms == pytest.approx(device.ms(op), rel=1e-3)


def test_a_kind_borrows_from_the_nearest_variant_of_its_op():
    """Depthwise convolutions that make several maps of each differ from those that make one."""
    table = {
        OpSignature("depthwise", size, size, 8, 8 * maps, 3, 1, "none"): 1e-5 * size**2 * ms
        for maps, ms in ((1, 1.0), (2, 50.0))
        for size in range(8, 40)
    }
    interpolator = Interpolator(table)
    for maps, ms in ((1, 1.0), (2, 50.0), (3, 75.0)):
        op = OpSignature("depthwise", 20, 20, 8, 8 * maps, 3, 2, "none")
        latency_ms = interpolator.predict(op).latency_ms
        assert 1e-3 * ms * 0.9 <= latency_ms <= 4e-3 * ms * 1.1


def test_a_few_ops_of_a_kind_correct_what_it_borrows():
    device = Kernel(6, 8)
    lent = {op: device.ms(op) for op in convolutions(60, 0, 3, 2)}
    asked = OpSignature("conv", 30, 30, 40, 16, 3, 1, "none")
    borrowed = Interpolator(lent).predict(asked).latency_ms
    own = {asked._replace(in_channels=channels): 9 * borrowed for channels in (39, 41, 42)}
    assert Interpolator({**lent, **own}).predict(asked).latency_ms > 2 * borrowed


UNKNOWN = [  # of kinds that no table of the shipped space has
    OpSignature("conv", 32, 32, 3, 16, 3, 1, "relu"),  # the stem, at a stride that is dropped
    OpSignature("conv", 14, 14, 64, 64, 7, 1, "none"),
    OpSignature("depthwise", 14, 14, 64, 64, 7, 2, "relu"),
    OpSignature("sigmoid", 1, 1, 64, 64, 0, 0, "none"),
    OpSignature("relu6", 14, 14, 64, 64, 0, 0, "none"),
    OpSignature("affine", 14, 14, 64, 64, 0, 0, "none"),
    OpSignature("pad", 14, 14, 64, 64, 3, 1, "none"),
    OpSignature("maxpool", 112, 112, 64, 64, 3, 2, "none"),
    OpSignature("avgpool", 14, 14, 64, 64, 3, 1, "none"),
]


def test_what_no_table_of_a_space_has_takes_a_time_between_bounds_and_is_less_certain():
    known = {kind_of(row) for row in MEDIANS}
    interpolator = Interpolator(MEDIANS)
    for op in UNKNOWN:
        assert kind_of(op) not in known
        predicted = interpolator.predict(op)
        numbers = op.height * op.width * max(op.in_channels, op.out_channels)
        assert 0 < predicted.latency_ms < 1e-4 * numbers * max(op.kernel, 1) ** 2
        assert 0.4 < predicted.error < 2


@pytest.mark.slow
def test_what_is_borrowed_is_off_by_the_stated_error_nine_times_in_ten():
    """Kinds count alike: each is left out of a table of an emulated core, and predicted by it."""
    within = []
    for kind, ops in kinds().items():
        rest = {op: ms for op, ms in MEDIANS.items() if kind_of(op) != kind}
        interpolator = Interpolator(rest)
        predicted = [interpolator.predict(op) for op in ops[:20]]
        if None not in predicted:
            off = [
                abs(MEDIANS[op] / p.latency_ms - 1) for op, p in zip(ops, predicted, strict=False)
            ]
            within.append(np.mean([o <= p.error for o, p in zip(off, predicted, strict=True)]))
    assert len(within) == len(kinds()) - 1  # all but the mean of a map
    assert 0.75 <= np.mean(within) <= 0.98


def test_too_few_kinds_show_no_error_of_borrowing():
    ops = [OpSignature("conv", size, size, 8, 16, 3, 2, "none") for size in range(8, 20)]
    table = {op: 1e-5 * op.height**2 for op in ops}
    assert Interpolator(table).predict(ops[0]._replace(stride=1)).error == 1.0
    assert Interpolator(table).predict(ops[0]._replace(height=40)).error < 0.1


def test_kinds_are_distinguished_by_kernel_stride_pixels_and_parts():
    ops = [
        OpSignature("conv", 14, 14, 8, 8, 1, 1, "none"),
        OpSignature("conv", 14, 14, 8, 8, 3, 1, "none"),
        OpSignature("conv", 14, 14, 8, 8, 3, 2, "none"),
        OpSignature("conv", 1, 1, 8, 8, 1, 1, "none"),
        OpSignature("dense", 1, 1, 8, 8, 0, 0, "none"),
        OpSignature("depthwise", 14, 14, 8, 8, 3, 1, "none"),
        OpSignature("depthwise", 14, 14, 8, 16, 3, 1, "none"),
        OpSignature("concat", 14, 14, 8, 16, 0, 0, "none"),
        OpSignature("concat", 14, 14, 8, 24, 0, 0, "none"),
        OpSignature("add", 14, 14, 8, 8, 0, 0, "none"),
    ]
    assert len({kind_of(op) for op in ops}) == len(ops)
    for op in ops:
        larger = op._replace(in_channels=2 * op.in_channels, out_channels=2 * op.out_channels)
        assert kind_of(larger._replace(activation="relu")) == kind_of(op)


def test_ops_of_another_kind_change_nothing():
    op = OpSignature("depthwise", 13, 13, 77, 77, 3, 1, "none")
    slower = {
        each: ms * (1 if kind_of(each) == kind_of(op) else 100) for each, ms in MEDIANS.items()
    }
    assert Interpolator(slower).predict(op) == SHIPPED.predict(op)


@settings(max_examples=40)
@given(op=any_op(), seed=st.integers(0, 9))
def test_predictions_do_not_depend_on_what_was_asked_before_or_on_the_order_of_rows(op, seed):
    ops = kinds()[kind_of(op)][:15]
    once = Interpolator(table_of(ops))
    again = Interpolator(table_of(random.Random(seed).sample(ops, len(ops))))
    for other in ops[:3]:
        once.predict(other)
    expected = again.predict(op)
    assert once.predict(op) == once.predict(op) == expected
