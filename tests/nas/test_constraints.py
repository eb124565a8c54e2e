import random
from dataclasses import replace

import pytest

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.latency.table import Correction
from ghostnas.nas.constraints import UNTRAINED, Accuracies, Candidate, Constraints
from ghostnas.nas.settings import Settings, read, to_text
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import lower

ARM = table.load("cortex-a76")
ARCH = zoo.ghostnet(0.5)
PREDICTION = Predictor(ARM).predict(ARCH)
MACS = cost.count(lower(ARCH)).macs


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The path of a table calibrated on a hundred networks."""
    correction = Correction(
        scale=1.5,
        per_op_ms=0.0,
        per_megabyte_ms=0.0,
        networks=100,
        scores=tuple(rank / 8 for rank in range(100)),
    )
    path = tmp_path_factory.mktemp("judge") / "calibrated.csv"
    table.save(replace(ARM, correction=correction), path)
    return str(path)


def between(low, high):
    return f"{(low + high) / 2:.6f}ms"


def test_utilization_is_the_largest_share_of_a_budget():
    tight, loose = f"{MACS / 2e6:.6f}MFLOPs", f"{PREDICTION.latency_ms * 4:.6f}ms"
    assert Constraints("cortex-a76", [loose]).utilization(ARCH) == pytest.approx(0.25, rel=1e-4)
    assert Constraints("cortex-a76", [tight, loose]).utilization(ARCH) == pytest.approx(2, rel=1e-4)
    assert Constraints("cortex-a76", [loose, tight]).utilization(ARCH) == pytest.approx(2, rel=1e-4)


def test_with_a_confidence_a_latency_budget_holds_at_the_upper_end():
    limit = between(PREDICTION.latency_ms, PREDICTION.high_ms)
    plain, careful = Constraints("cortex-a76", [limit]), Constraints("cortex-a76", [limit], 0.9)
    assert plain.utilization(ARCH) < 1 < careful.utilization(ARCH)
    share = PREDICTION.high_ms / PREDICTION.latency_ms
    assert careful.utilization(ARCH) / plain.utilization(ARCH) == pytest.approx(share)


def test_what_careful_constraints_accept_is_within_the_budget_at_its_upper_end(calibrated):
    searched, rng = space.load("ghostnet"), random.Random(0)
    archs = [searched.decode(searched.sample(rng)) for _ in range(40)]
    constraints = Constraints(calibrated, ["20ms"], 0.8)
    predictor = Predictor(table.load(calibrated), 0.8)
    passed = [constraints.utilization(arch) <= 1 for arch in archs]
    assert passed == [predictor.predict(arch).high_ms <= 20 for arch in archs]
    assert 0 < sum(passed) < sum(predictor.predict(arch).latency_ms <= 20 for arch in archs)


def test_more_confidence_uses_more_of_a_budget(calibrated):
    confidences = (None, 0.1, 0.5, 0.9, 0.95)
    utilizations = [
        Constraints(calibrated, ["20ms"], each).utilization(ARCH) for each in confidences
    ]
    assert utilizations == sorted(set(utilizations))


def test_a_confidence_holds_on_a_budgets_own_target_too(calibrated):
    prediction = Predictor(table.load(calibrated)).predict(ARCH)
    limit = f"{between(prediction.latency_ms, prediction.high_ms)}@{calibrated}"
    assert Constraints("cortex-a76", [limit]).utilization(ARCH) < 1
    assert Constraints("cortex-a76", [limit], 0.9).utilization(ARCH) > 1
    assert Constraints("cortex-a76", ["99ms", limit], 0.9).utilization(ARCH) > 1


def test_a_confidence_leaves_other_budgets_as_they_are():
    for confidence in (None, 0.9):
        constraints = Constraints("cortex-a76", [f"{MACS / 1e6:.6f}MFLOPs"], confidence)
        assert constraints.utilization(ARCH) == pytest.approx(1, rel=1e-6)


def test_costs_are_those_of_the_target_at_the_confidence(calibrated):
    counted, predicted = Constraints(calibrated, ["20ms@arm"], None).cost_of(ARCH)
    assert counted == cost.count(lower(ARCH))
    assert predicted == Predictor(table.load(calibrated)).predict(ARCH)
    _, wider = Constraints(calibrated, ["20ms"], 0.95).cost_of(ARCH)
    assert wider.latency_ms == predicted.latency_ms
    assert wider.high_ms > predicted.high_ms


def test_a_confidence_that_a_table_cannot_give_is_rejected_at_once(calibrated):
    with pytest.raises(InputError, match="calibrated on no networks"):
        Constraints("cortex-a76", ["20ms"], 0.95)
    with pytest.raises(InputError, match="calibrated on no networks"):
        Constraints(calibrated, ["20ms@cortex-a76"], 0.95)
    with pytest.raises(InputError, match=r"they allow 0\.99"):
        Constraints(calibrated, ["20ms"], 0.999)


def test_constraints_need_a_budget_and_known_targets():
    with pytest.raises(InputError, match="at least one --budget"):
        Constraints("cortex-a76", [])
    with pytest.raises(InputError, match="unknown target 'amr'"):
        Constraints("cortex-a76", ["20ms@amr"])


def test_a_candidate_as_json():
    judged = Candidate(
        name="one",
        arch=ARCH,
        cost=cost.count(lower(ARCH)),
        trial=4,
        latency=PREDICTION,
        choosing=Accuracies(validation=(0.5, 0.7), test=(0.25, 0.75)),
    )
    found = judged.to_json()
    assert (found["accuracy"], found["validation_accuracy"], found["seeds"]) == (0.5, 0.6, 2)
    assert found["accuracy_std"] == pytest.approx(0.35355)
    assert found["latency_low_ms"] < found["latency_ms"] < found["latency_high_ms"]
    assert (found["id"], found["macs"]) == (ARCH.id, MACS)
    assert (found["trial"], found["fresh_seeds"]) == (4, False)
    reported = replace(judged, reporting=Accuracies(validation=(0.9,), test=(0.6,))).to_json()
    assert (reported["accuracy"], reported["accuracy_std"]) == (0.6, None)
    assert (reported["validation_accuracy"], reported["fresh_seeds"]) == (0.6, True)
    along = replace(judged, choosing=UNTRAINED, reporting=judged.choosing).to_json()
    assert along["validation_accuracy"] == 0.6  # on a front: it took no part in the choice


def test_bytes_are_those_of_the_targets_dtype():
    graph = lower(ARCH)
    for target, dtype in (("pixel4-cpu1-fp32", "fp32"), ("pixel4-cpu1-int8", "int8")):
        counted, _ = Constraints(target, ["6MB"]).cost_of(ARCH)
        assert counted == cost.count(graph, dtype)
        share = counted.model_bytes / 6e6
        assert Constraints(target, ["6MB"]).utilization(ARCH) == pytest.approx(share)
    whole = cost.count(graph)
    assert 0.25 * whole.model_bytes < counted.model_bytes < 0.4 * whole.model_bytes
    assert counted.peak_activation_bytes * 4 == whole.peak_activation_bytes


def test_a_search_keeps_its_confidence(tmp_path):
    settings = Settings(target="cortex-a76", budgets=("20ms",), confidence=0.8)
    (tmp_path / "search.toml").write_text(to_text(settings))
    assert read(tmp_path / "search.toml") == settings
