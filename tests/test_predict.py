import random
from dataclasses import replace

import numpy as np
import pytest

from ghostnas import latency, space, zoo
from ghostnas.arch import lower
from ghostnas.errors import MissingOpError
from ghostnas.latency import Timing
from ghostnas.measure import op_graph
from ghostnas.predict import Predictor
from ghostnas.signature import OpSignature, signatures

TABLE = latency.load("arm")
GRAPH = lower(zoo.ghostnet())
FEW = {"dense", "flatten"}  # kinds of which the table has too few to leave any out


def table_of(rows, op_error=0.0):
    return replace(TABLE, rows=rows, origin=replace(TABLE.origin, op_error=op_error))


def without(*ops):
    return {op: timing for op, timing in TABLE.rows.items() if op not in ops}


def test_a_network_whose_ops_are_all_in_the_table_takes_their_sum():
    ops = signatures(GRAPH)
    rows = {
        op: Timing(2.0**-index, 2.0**-index, 2.0**-index, 1) for index, op in enumerate(set(ops))
    }
    prediction = Predictor(table_of(rows)).predict(GRAPH)
    total = sum(rows[op].median_ms for op in ops)
    assert prediction.latency_ms == pytest.approx(total, rel=1e-12)
    assert prediction.low_ms == prediction.high_ms == prediction.latency_ms
    assert prediction.interpolated == ()


def test_the_interval_is_the_methods_error_or_the_spread_where_that_is_larger():
    op = OpSignature("add", 4, 4, 8, 8, 0, 0, "none")
    steady, shaky = ({op: Timing(2.0, low, high, 9)} for low, high in ((2.0, 2.0), (1.5, 3.5)))
    for rows, low, high in ((steady, 1.8, 2.2), (shaky, 1.0, 3.0)):
        prediction = Predictor(table_of(rows, op_error=0.1)).predict(op_graph(op))
        assert prediction.latency_ms == 2.0
        assert (prediction.low_ms, prediction.high_ms) == pytest.approx((low, high))


def test_the_shipped_table_has_every_op_of_the_named_networks():
    predictor = Predictor(TABLE)
    for build in zoo.ZOO.values():
        prediction = predictor.predict(lower(build(1.0, 224, 1000)))
        assert prediction.interpolated == ()
        share = prediction.high_ms / prediction.latency_ms - 1
        assert share == pytest.approx(TABLE.origin.op_error, rel=1e-6)


def test_an_op_that_the_table_has_not_is_interpolated_and_listed_and_widens_the_interval():
    missing = next(op for op in signatures(GRAPH) if op.op == "conv" and op.height == 14)
    known = Predictor(TABLE).predict(GRAPH)
    prediction = Predictor(table_of(without(missing), TABLE.origin.op_error)).predict(GRAPH)
    assert set(prediction.interpolated) == {missing}
    assert prediction.latency_ms == pytest.approx(known.latency_ms, rel=0.02)
    assert prediction.latency_ms != known.latency_ms
    width, known_width = (p.high_ms - p.low_ms for p in (prediction, known))
    assert width > known_width
    assert 0 < prediction.low_ms < prediction.latency_ms < prediction.high_ms


@pytest.mark.parametrize("seed", range(3))
def test_left_out_ops_are_predicted_within_the_error_that_is_stated(seed):
    ops = [op for op in TABLE.rows if op.op not in FEW]
    left_out = random.Random(seed).sample(ops, len(ops) // 5)
    predictor = Predictor(table_of(without(*left_out)))
    errors, within = [], []
    for op in left_out:
        prediction, true_ms = predictor.predict(op_graph(op)), TABLE.rows[op].median_ms
        assert prediction.interpolated == (op,)
        assert prediction.latency_ms > 0
        errors.append(abs(prediction.latency_ms / true_ms - 1))
        within.append(prediction.low_ms <= true_ms <= prediction.high_ms)
    assert np.median(errors) <= 0.1
    assert 0.8 <= np.mean(within) <= 0.97


def test_a_kind_of_op_that_is_not_in_the_table_is_named_and_never_0_ms():
    pools = [op for op in TABLE.rows if op.op == "pool"]
    with pytest.raises(MissingOpError, match=r"cortex-a76.*pool 28x28x72.*latency build"):
        Predictor(table_of(without(*pools))).predict(GRAPH)
    with pytest.raises(MissingOpError, match="conv 224x224x3 -> 16 k3 s2 relu"):
        Predictor(table_of({})).predict(GRAPH)


def test_even_the_smallest_op_takes_time():
    predictor = Predictor(TABLE)
    for op in (
        OpSignature("conv", 1, 1, 1, 1, 1, 1, "none"),
        OpSignature("conv", 2, 2, 1, 1, 1, 1, "none"),
        OpSignature("depthwise", 1, 1, 2, 2, 3, 1, "none"),
        OpSignature("add", 1, 1, 1, 1, 0, 0, "none"),
        OpSignature("pool", 1, 1, 1, 1, 0, 0, "none"),
    ):
        prediction = predictor.predict(op_graph(op))
        assert 0 <= prediction.low_ms < prediction.latency_ms < 1


def test_predictions_are_deterministic():
    rng = random.Random(0)
    searched = space.load("ghostnet")
    graphs = [lower(searched.decode(searched.sample(rng))) for _ in range(5)]
    once, again = Predictor(TABLE), Predictor(TABLE)
    assert [once.predict(g) for g in graphs] == [again.predict(g) for g in reversed(graphs)][::-1]
