import pytest

from ghostnas import measure, space
from ghostnas.signature import OpSignature, signatures

# One of every kind of op that a network can run.
KINDS = [
    OpSignature("conv", 9, 8, 3, 16, 3, 2, "relu"),
    OpSignature("conv", 1, 1, 24, 8, 1, 1, "none"),
    OpSignature("conv", 4, 4, 1, 8, 3, 1, "relu6"),
    OpSignature("depthwise", 8, 8, 16, 16, 5, 2, "none"),
    OpSignature("depthwise", 7, 7, 8, 24, 3, 1, "relu"),
    OpSignature("dense", 1, 1, 64, 10, 0, 0, "none"),
    OpSignature("dense", 1, 1, 64, 10, 0, 0, "relu"),
    OpSignature("add", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("add", 4, 4, 16, 16, 0, 0, "relu"),
    OpSignature("multiply", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("concat", 4, 4, 8, 24, 0, 0, "none"),
    OpSignature("narrow", 4, 4, 9, 8, 0, 0, "none"),
    OpSignature("pool", 7, 7, 16, 16, 0, 0, "none"),
    OpSignature("flatten", 1, 1, 16, 16, 0, 0, "none"),
    OpSignature("relu", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("relu6", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("hard_swish", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("hard_sigmoid", 1, 1, 16, 16, 0, 0, "none"),
]
SPACE = space.load("ghostnet")


@pytest.mark.parametrize("signature", KINDS, ids=str)
def test_the_graph_of_an_op_has_its_signature(signature):
    assert signatures(measure.op_graph(signature)) == [signature]


def test_the_ops_of_networks_are_of_these_kinds_and_their_graphs_have_their_signatures():
    ops = measure.ops_of(SPACE, 5)
    assert {op.op for op in ops} <= {op.op for op in KINDS}
    assert [op for op in ops if signatures(measure.op_graph(op)) != [op]] == []


def test_ops_of_is_deterministic_sorted_and_has_each_op_once():
    ops = measure.ops_of(SPACE, 5, seed=1)
    assert ops == measure.ops_of(SPACE, 5, seed=1)
    assert ops == sorted(set(ops))
    assert ops != measure.ops_of(SPACE, 5, seed=2)
    assert set(ops) > set(measure.ops_of(SPACE, 0))


def test_ops_are_really_timed():
    reports = []
    timings = measure.time_ops(KINDS, 3, lambda done, wanted: reports.append((done, wanted)))
    assert list(timings) == KINDS
    for timing in timings.values():
        assert timing.runs == 3
        assert 0 < timing.p10_ms <= timing.median_ms <= timing.p90_ms < 1000
    assert reports == [(done, len(KINDS)) for done in range(len(KINDS) + 1)]


def test_a_larger_op_takes_longer():
    small, large = (OpSignature("conv", size, size, 64, 64, 3, 1, "none") for size in (2, 48))
    timings = measure.time_ops([small, large], 5, lambda done, wanted: None)
    assert timings[large].p10_ms > 5 * timings[small].p10_ms


def test_the_origin_of_a_local_table_says_that_it_was_measured_and_with_what():
    origin = measure.local_origin()
    assert (origin.method, origin.threads, origin.delegate) == ("measured", 1, "XNNPACK")
    assert origin.runtime.startswith("ai-edge-litert ")
