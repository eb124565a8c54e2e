import random
from dataclasses import replace

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.devices.op_models import op_graph
from ghostnas.errors import InputError, MissingOpError
from ghostnas.ir.fusion import deploy
from ghostnas.latency import table as latency_table
from ghostnas.latency.interpolation import kind_of
from ghostnas.latency.op_costs import OpCosts
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.latency.predictor import CONFIDENCE, Predictor
from ghostnas.latency.table import Correction, Timing
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import lower

TABLE = latency_table.load(small.TABLE)
GHOSTNET = space.load("ghostnet")
GRAPH = lower(zoo.ghostnet())
FEW = {"dense", "flatten"}  # kinds of which the table has too few to leave any out
CORRECTION = Correction(
    scale=1.2,
    per_op_ms=-0.01,
    per_megabyte_ms=0.05,
    networks=100,
    scores=tuple(float(rank) / 50 for rank in range(1, 101)),
)
CALIBRATED = replace(TABLE, correction=CORRECTION)


def table_of(rows, op_error=0.0):
    return replace(TABLE, rows=rows, origin=replace(TABLE.origin, op_error=op_error))


def without(*ops):
    return {op: timing for op, timing in TABLE.rows.items() if op not in ops}


def width(prediction):
    return prediction.high_ms / prediction.low_ms


# Tables without measured networks


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
    assert not prediction.calibrated


def test_the_interval_is_the_methods_error_or_the_spread_where_that_is_larger():
    op = OpSignature("add", 4, 4, 8, 8, 0, 0, "none")
    steady, shaky = ({op: Timing(2.0, low, high, 9)} for low, high in ((2.0, 2.0), (1.5, 3.5)))
    for rows, low, high in ((steady, 1.8, 2.2), (shaky, 1.0, 3.0)):
        prediction = Predictor(table_of(rows, op_error=0.1)).predict(op_graph(op))
        assert prediction.latency_ms == 2.0
        assert (prediction.low_ms, prediction.high_ms) == pytest.approx((low, high))


def test_the_interval_of_the_shakiest_op_begins_at_0():
    op = OpSignature("add", 4, 4, 8, 8, 0, 0, "none")
    prediction = Predictor(table_of({op: Timing(1.0, 0.1, 10.0, 9)})).predict(op_graph(op))
    assert prediction.low_ms == 0
    assert prediction.high_ms == pytest.approx(5.95)


def test_the_shipped_table_has_every_op_of_the_networks_that_it_was_measured_for():
    predictor = Predictor(TABLE)
    for build in (zoo.ghostnet, zoo.mobilenetv3_large):
        prediction = predictor.predict(build(1.0, 224, 1000))
        assert prediction.interpolated == ()
        share = prediction.high_ms / prediction.latency_ms - 1
        assert share == pytest.approx(TABLE.origin.op_error, rel=1e-6)


@pytest.mark.parametrize("name", ["ghostnetv2", "ghostnetv3", "repghostnet"])
def test_networks_that_it_was_not_measured_for_are_interpolated_and_say_so(name):
    prediction = Predictor(TABLE).predict(zoo.named(name))
    assert prediction.interpolated
    assert prediction.latency_ms > 0
    assert prediction.high_ms / prediction.latency_ms - 1 > TABLE.origin.op_error


def test_branches_take_no_time_of_their_own():
    trained, plain = (Predictor(TABLE).predict(zoo.named(f"ghostnetv{n}")) for n in (3, 2))
    assert trained.latency_ms == pytest.approx(plain.latency_ms, rel=1e-9)


def test_an_op_that_the_table_lacks_is_interpolated_and_listed_and_widens_the_interval():
    missing = next(op for op in signatures(GRAPH) if op.op == "conv" and op.height == 14)
    known = Predictor(TABLE).predict(GRAPH)
    prediction = Predictor(table_of(without(missing), TABLE.origin.op_error)).predict(GRAPH)
    assert set(prediction.interpolated) == {missing}
    assert prediction.latency_ms == pytest.approx(known.latency_ms, rel=0.02)
    assert prediction.latency_ms != known.latency_ms
    assert width(prediction) > width(known)
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
    assert np.median(errors) <= 0.05
    assert 0.85 <= np.mean(within) <= 0.95


def test_a_kind_of_op_that_is_not_in_the_table_is_named_and_never_0_ms():
    pools = [op for op in TABLE.rows if op.op == "pool"]
    with pytest.raises(MissingOpError, match=r"emulated-a76.*pool 28x28x72.*latency build"):
        Predictor(table_of(without(*pools))).predict(GRAPH)
    with pytest.raises(MissingOpError, match="conv 224x224x3 -> 16 k3 s2 relu"):
        Predictor(table_of({})).predict(GRAPH)


def test_an_interval_holds_all_of_the_error_that_an_op_of_an_unknown_kind_may_have():
    kind = kind_of(signatures(GRAPH)[0])
    rows = {op: timing for op, timing in TABLE.rows.items() if kind_of(op) != kind}
    without_kind = replace(CALIBRATED, rows=rows)
    known, found = (Predictor(table).predict(GRAPH) for table in (CALIBRATED, without_kind))
    sums = OpCosts(without_kind).of_graph(GRAPH)
    share = sums.borrowed_ms / sums.latency_ms
    assert 0.005 < share < 0.2
    assert found.interpolated == tuple(signatures(GRAPH)[:1])
    assert found.high_ms / found.latency_ms == pytest.approx(
        (1 + share) * known.high_ms / known.latency_ms
    )
    assert found.low_ms / found.latency_ms == pytest.approx(
        (1 - share) * known.low_ms / known.latency_ms
    )


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


# Tables with measured networks


def test_a_calibrated_prediction_is_the_corrected_sum_of_the_ops():
    predictor = Predictor(CALIBRATED)
    sums = predictor.costs.of_graph(GRAPH)
    prediction = predictor.predict(GRAPH)
    expected_ms = 1.2 * sums.latency_ms - 0.01 * sums.ops + 0.05 * 4 * sums.weights / 1e6
    assert prediction.latency_ms == pytest.approx(expected_ms)
    assert prediction.calibrated
    assert prediction.high_ms / prediction.latency_ms == pytest.approx(np.exp(0.02 * 94 / 50))
    assert prediction.latency_ms / prediction.low_ms == pytest.approx(np.exp(0.02 * 94 / 50))


def test_weights_of_int8_count_one_byte():
    origin = replace(TABLE.origin, dtype="int8")
    predictors = [Predictor(CALIBRATED), Predictor(replace(CALIBRATED, origin=origin))]
    one, other = (predictor.predict(GRAPH).latency_ms for predictor in predictors)
    weights = predictors[0].costs.of_graph(GRAPH).weights
    assert one - other == pytest.approx(0.05 * 3 * weights / 1e6)


def test_a_calibrated_interval_widens_with_interpolated_ops():
    missing = [op for op in signatures(GRAPH) if op.op == "conv" and op.height == 14]
    known = Predictor(CALIBRATED).predict(GRAPH)
    some, more = (
        Predictor(replace(CALIBRATED, rows=without(*missing[:count]))).predict(GRAPH)
        for count in (2, len(missing))
    )
    assert width(known) < width(some) < width(more)
    assert known.interpolated == ()
    assert set(more.interpolated) == set(missing)


def test_a_calibrated_interval_widens_with_confidence():
    predictions = [
        Predictor(CALIBRATED, confidence).predict(GRAPH)
        for confidence in (0.1, 0.5, 0.8, CONFIDENCE, 0.95)
    ]
    assert len({prediction.latency_ms for prediction in predictions}) == 1
    widths = [width(prediction) for prediction in predictions]
    assert widths == sorted(set(widths))
    assert Predictor(CALIBRATED).predict(GRAPH) == predictions[3]


def test_a_table_without_measured_networks_refuses_other_confidences():
    assert Predictor(TABLE, CONFIDENCE).predict(GRAPH) == Predictor(TABLE).predict(GRAPH)
    for confidence in (0.5, 0.95):
        with pytest.raises(
            InputError, match=r"emulated-a76 was calibrated on no networks.*of 0\.9$"
        ):
            Predictor(TABLE, confidence)


def test_a_table_of_too_few_networks_for_the_confidence_is_refused():
    with pytest.raises(InputError, match=r"0\.995 needs more than the 100 networks"):
        Predictor(CALIBRATED, 0.995)


# Any table


PREDICTORS = (Predictor(TABLE), Predictor(CALIBRATED))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), predictor=st.sampled_from(PREDICTORS))
def test_an_architecture_and_its_graphs_take_the_same(seed, predictor):
    arch = GHOSTNET.decode(GHOSTNET.sample(random.Random(seed)))
    prediction = predictor.predict(arch)
    whole = predictor.predict(lower(arch))
    assert whole == predictor.predict(deploy(lower(arch)))
    for key in ("latency_ms", "low_ms", "high_ms"):
        assert getattr(prediction, key) == pytest.approx(getattr(whole, key), rel=1e-9)
    assert prediction.interpolated == whole.interpolated
    assert 0 < prediction.low_ms < prediction.latency_ms < prediction.high_ms


def test_a_larger_network_takes_longer():
    for predictor in PREDICTORS:
        latencies_ms = [
            predictor.predict(zoo.ghostnet(width)).latency_ms for width in (0.5, 0.75, 1.0, 1.3)
        ]
        assert latencies_ms == sorted(latencies_ms)


def test_predictions_are_deterministic():
    rng = random.Random(0)
    graphs = [lower(GHOSTNET.decode(GHOSTNET.sample(rng))) for _ in range(5)]
    once, again = Predictor(TABLE), Predictor(TABLE)
    assert [once.predict(g) for g in graphs] == [again.predict(g) for g in reversed(graphs)][::-1]


def test_a_table_predicts_the_same_before_and_after_its_file():
    ops = [op for op in TABLE.rows if op.height != 14]
    rows = {op: TABLE.rows[op] for op in random.Random(0).sample(ops, len(ops))}
    table = replace(CALIBRATED, rows=rows)
    again = latency_table.parse(latency_table.to_text(table), table.name, "table.csv")
    prediction = Predictor(table).predict(GRAPH)
    assert len(prediction.interpolated) > 20
    assert Predictor(again).predict(GRAPH) == prediction
