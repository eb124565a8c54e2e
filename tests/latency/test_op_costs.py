import random
from dataclasses import replace
from functools import cache
from math import prod

import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.devices.op_models import op_graph
from ghostnas.errors import MissingOpError
from ghostnas.ir.graph import Conv, Dense, weight_shapes
from ghostnas.latency import op_costs
from ghostnas.latency import table as latency_table
from ghostnas.latency.interpolation import Interpolator, kind_of
from ghostnas.latency.op_costs import OpCosts
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.latency.table import Timing
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import fit_to, lower, parts

ARM = latency_table.load(small.TABLE)
GHOSTNET = space.load("ghostnet")
MBCONV = space.parse(
    """
block = "mbconv"
alpha = [1, 0.5]
resolution = [96, 64]
round_to = 8
stem = {channels = [16, 24]}
head = {channels = 64, features = 32}
group = [
    {stride = 2, depth = [1, 3], width = [24, 16], expansion = [4, 1], se = [0, 0.25], kernel = 3},
    {stride = 1, depth = [2, 1], width = 32, expansion = 3, se = 0.25, kernel = [5, 3]},
]
""",
    "mbconv",
    "mbconv.toml",
)


def random_arch(seed):
    """Of either space or the zoo, at its own resolution or fitted to small images."""
    rng = random.Random(seed)
    if rng.random() < 0.2:
        arch = rng.choice(list(zoo.ZOO.values()))(rng.choice([0.35, 1.0, 1.3]), 224, 1000)
    else:
        searched = rng.choice([GHOSTNET, MBCONV])
        arch = searched.decode(searched.sample(rng))
    if rng.random() < 0.3:
        arch = fit_to(arch, resolution=rng.choice([16, 32, 50, 64]), classes=10)
    return arch


NETWORKS = 120


@cache
def full_table():
    """Random times for four in five of the ops that random networks have, and for four per kind."""
    ops = {op for seed in range(NETWORKS) for op in signatures(lower(random_arch(seed)))}
    rng, rows, kinds = random.Random(0), {}, {}
    for op in sorted(ops):
        kinds[kind_of(op)] = kinds.get(kind_of(op), 0) + 1
        if rng.random() < 0.8 or kinds[kind_of(op)] <= 4:
            median = rng.uniform(0.01, 1.0)
            rows[op] = Timing(median, median * rng.uniform(0.5, 1), median * rng.uniform(1, 2), 9)
    return replace(ARM, rows=rows)


COSTS, WHOLE_COSTS = OpCosts(full_table()), OpCosts(full_table())


def assert_same(one, other):
    assert one[:3] == pytest.approx(other[:3], rel=1e-9)
    assert one.borrowed_ms == pytest.approx(other.borrowed_ms, rel=1e-9)
    assert (one.ops, one.weights, one.interpolated) == (
        other.ops,
        other.weights,
        other.interpolated,
    )


# Over networks and their parts


@settings(max_examples=40)
@given(seed=st.integers(0, 400))
def test_the_parts_of_an_architecture_together_are_the_whole_network(seed):
    arch = random_arch(seed)
    try:
        whole = WHOLE_COSTS.of_graph(lower(arch))
    except MissingOpError:  # of the few kinds of which the table has fewer than four
        with pytest.raises(MissingOpError):
            COSTS.of_arch(arch)
        return
    assert_same(COSTS.of_arch(arch), whole)


def test_some_of_these_networks_are_fitted_to_small_images_and_some_need_interpolation():
    archs = [random_arch(seed) for seed in range(NETWORKS)]
    found = [COSTS.of_arch(arch) for arch in archs]
    assert sum(arch.dropped_strides > 0 for arch in archs) >= 10
    assert sum(bool(each.interpolated) for each in found) >= 40
    assert any(each.variance_ms2 == 0 for each in found)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
@pytest.mark.parametrize("width", [0.5, 1.0, 1.3])
def test_the_parts_of_a_named_network_together_are_the_whole_network(name, width):
    costs = OpCosts(ARM)
    arch = zoo.named(name, width)
    assert_same(costs.of_arch(arch), costs.of_graph(lower(arch)))


def test_a_sum_is_over_all_ops_of_the_network():
    arch = zoo.ghostnet()
    graph = lower(arch)
    ops = signatures(graph)
    found = OpCosts(ARM).of_arch(arch)
    assert found.latency_ms == pytest.approx(sum(ARM.rows[op].median_ms for op in ops), rel=1e-12)
    assert found.spread_ms == pytest.approx(ARM.origin.op_error * found.latency_ms, rel=1e-12)
    assert (found.ops, found.variance_ms2, found.interpolated) == (len(ops), 0, ())
    kernels = [
        prod(shape)
        for node in graph.nodes
        if isinstance(node.op, Conv | Dense)
        for key, shape in weight_shapes(node).items()
        if key.endswith(".weight")
    ]
    assert found.weights == sum(kernels)


def test_of_part_is_the_stem_a_block_or_the_head():
    arch = zoo.mobilenetv3_large(0.75)
    costs = OpCosts(ARM)
    count = len(parts(arch))
    each = [costs.of_part(arch, position) for position in range(count)]
    assert_same(op_costs.add(each), costs.of_arch(arch))
    assert (each[0].ops, each[-1].ops) == (2, 7)  # hard-swish is a separate op
    assert each[0].weights == 27 * arch.stem.channels


def test_adding_sums_adds_every_number_and_keeps_every_op():
    some = [COSTS.of_arch(random_arch(seed)) for seed in range(3)]
    total = op_costs.add(iter(some))
    for index in range(6):
        assert total[index] == pytest.approx(sum(each[index] for each in some))
    assert total.interpolated == tuple(op for each in some for op in each.interpolated)
    assert op_costs.add([]) == (0, 0, 0, 0, 0, 0, ())


def test_a_part_is_lowered_once(monkeypatch):
    lowered = []

    def lower_part(part, real=op_costs.lower_part):
        lowered.append(part)
        return real(part)

    monkeypatch.setattr(op_costs, "lower_part", lower_part)
    costs = OpCosts(ARM)
    arch = zoo.ghostnet()
    first = costs.of_arch(arch)
    assert set(lowered) == set(parts(arch))
    assert len(lowered) == len(set(lowered)) < len(parts(arch))  # some blocks are equal
    assert costs.of_arch(zoo.ghostnet()) == first
    assert costs.of_part(arch, 3) == costs.of_part(arch, 3)
    assert len(lowered) == len(set(lowered))
    costs.of_arch(replace(arch, classes=10))
    assert len(lowered) == len(set(parts(arch))) + 1  # another head


def test_the_same_block_on_another_map_has_another_cost():
    costs = OpCosts(ARM)
    large, small = (costs.of_part(zoo.ghostnet(1.0, size), 1) for size in (224, 112))
    assert large.latency_ms > 2 * small.latency_ms
    assert large.weights == small.weights


# Ops that the table lacks


def without(*ops):
    return replace(ARM, rows={op: timing for op, timing in ARM.rows.items() if op not in ops})


def test_ops_that_the_table_lacks_are_interpolated_and_listed_each_time_they_run():
    arch = zoo.ghostnet()
    ops = signatures(lower(arch))
    missing = {op for op in ops if op.height == 14 and op.op in ("conv", "concat")}
    table = without(*missing)
    found = OpCosts(table).of_arch(arch)
    assert found.interpolated == tuple(op for op in ops if op in missing)
    assert len(found.interpolated) > len(missing) > 10
    guesses = Interpolator({op: timing.median_ms for op, timing in table.rows.items()})
    method = ARM.origin.op_error
    total = spread = variance = 0.0
    for op in ops:
        if op in missing:
            ms, error, _ = guesses.predict(op)
            variance += ((error + method) * ms) ** 2
            spread += (error + method) * ms
        else:
            ms = ARM.rows[op].median_ms
            spread += method * ms
        total += ms
    assert found[:3] == pytest.approx((total, spread, variance), rel=1e-9)


def test_only_ops_that_the_table_lacks_make_variance():
    arch = zoo.ghostnet()
    op = signatures(lower(arch))[0]
    shaky = replace(ARM, rows={**ARM.rows, op: Timing(1.0, 0.5, 1.5, 9)})
    known, unknown = (OpCosts(table).of_arch(arch) for table in (shaky, without(op)))
    assert known.variance_ms2 == 0
    assert unknown.variance_ms2 > 0


def test_the_error_of_a_borrowed_op_is_kept_apart():
    arch = zoo.ghostnet()
    stem = signatures(lower(arch))[0]
    table = without(*(op for op in ARM.rows if kind_of(op) == kind_of(stem)))
    found, known = OpCosts(table).of_arch(arch), OpCosts(ARM).of_arch(arch)
    guess = Interpolator({op: timing.median_ms for op, timing in table.rows.items()}).predict(stem)
    assert guess.borrowed
    assert (found.interpolated, found.variance_ms2, known.borrowed_ms) == ((stem,), 0, 0)
    share = min(1.0, guess.error + ARM.origin.op_error)
    assert found.borrowed_ms == pytest.approx(share * guess.latency_ms)
    assert found.spread_ms > known.spread_ms


def test_the_error_of_a_guess_is_at_most_all_of_it():
    rows = {
        OpSignature("add", size, size, 8, 8, 0, 0, "none"): Timing(ms, ms, ms, 1)
        for size, ms in ((2, 1.0), (3, 100.0), (4, 0.01), (5, 10.0))
    }
    op = OpSignature("add", 6, 6, 8, 8, 0, 0, "none")
    found = OpCosts(replace(ARM, rows=rows)).of_graph(op_graph(op))
    assert found.spread_ms == found.latency_ms
    assert found.variance_ms2 == pytest.approx(found.latency_ms**2)


def test_the_error_of_an_op_is_the_methods_or_its_spread_where_that_is_larger():
    op = OpSignature("add", 4, 4, 8, 8, 0, 0, "none")
    for timing, error in ((Timing(2.0, 1.9, 2.1, 9), 0.1), (Timing(2.0, 1.5, 3.5, 9), 0.5)):
        found = OpCosts(replace(ARM, rows={op: timing})).of_graph(op_graph(op))
        assert found.spread_ms == pytest.approx(2.0 * error)


def test_a_kind_of_op_that_is_not_in_the_table_is_named_with_what_to_do():
    pools = [op for op in ARM.rows if op.op == "pool"]
    costs = OpCosts(without(*pools))
    words = r"^table emulated-a76 has too few ops like pool 28x28x72 -> 72 none to predict it; "
    for ask in (costs.of_arch, lambda arch: costs.of_graph(lower(arch))):
        with pytest.raises(
            MissingOpError, match=words + "build a table with: ghostnas latency build$"
        ):
            ask(zoo.ghostnet())
    assert costs.of_part(zoo.ghostnet(), 0).ops == 1  # what has no pool is known anyway


@pytest.mark.parametrize(("dtype", "count"), [("fp32", 4), ("int8", 1)])
def test_weights_are_as_wide_as_the_table_has_them(dtype, count):
    table = replace(ARM, origin=replace(ARM.origin, dtype=dtype))
    assert OpCosts(table).bytes_a_weight == count
