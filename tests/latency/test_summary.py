import csv
import io

import pytest

from ghostnas.ir import cost
from ghostnas.latency import summary
from ghostnas.latency import table as latency_table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import classics, zoo
from ghostnas.networks.arch import lower

GHOSTNET = zoo.ghostnet(0.5)


@pytest.mark.parametrize("target", ["arm", "pixel4-little4-int8", "rpi4-cpu1-fp32"])
def test_where_the_time_goes_adds_up_to_the_latency(target):
    rows = summary.where(GHOSTNET, target)
    whole = Predictor(latency_table.load(target)).predict(GHOSTNET).latency_ms
    assert sum(row["latency_ms"] for row in rows) == pytest.approx(whole)
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    assert stages == ["stem", *(f"stage {n}" for n in range(1, 6)), "head"]
    kinds = {row["kind"] for row in rows}
    assert {"conv 1x1", "conv 3x3", "depthwise 5x5", "concat", "dense"} < kinds


def test_a_correction_is_shared_out_in_proportion(tmp_path):
    arm = latency_table.load("arm")
    twice = latency_table.Correction(
        scale=2.0, per_op_ms=0.0, per_megabyte_ms=0.0, networks=20, scores=(1.0,) * 20
    )
    from dataclasses import replace

    path = tmp_path / "twice.csv"
    latency_table.save(replace(arm, correction=twice), path)
    for one, two in zip(
        summary.where(GHOSTNET, "arm"), summary.where(GHOSTNET, str(path)), strict=True
    ):
        assert two["latency_ms"] == pytest.approx(2 * one["latency_ms"])


def test_a_graph_has_kinds_of_op_but_no_stages():
    graph = classics.graph("squeezenet_v1_1")
    described = summary.describe(graph, "arm", name="squeezenet_v1_1")
    assert (described["id"], described["resolution"]) == ("squeezenet_v1_1", 224)
    rows = summary.where(graph, "arm")
    assert {row["stage"] for row in rows} == {""}
    text = summary.where_text({**described, "where": rows})
    assert "conv 3x3" in text
    assert "stage" not in text


def test_bytes_are_those_of_the_targets_dtype():
    for target, dtype in (("arm", "fp32"), ("pixel4-cpu1-int8", "int8")):
        counted = cost.count(lower(GHOSTNET), dtype)
        described = summary.describe(GHOSTNET, target)
        assert described["model_bytes"] == counted.model_bytes
        assert described["dtype"] == dtype


def both():
    def one(arch):
        return {**summary.describe(arch, "arm"), "where": summary.where(arch, "arm")}

    return {**one(GHOSTNET), "compared": one(zoo.mobilenetv3_large(0.5))}


def test_two_networks_stand_beside_each_other():
    lines = summary.where_text(both()).splitlines()
    [concat] = [line for line in lines if line.startswith("concat")]
    [swish] = [line for line in lines if line.startswith("hard_swish")]
    assert concat.split()[-3:] == ["0.000", "0.0", "%", "0"][-3:]
    assert swish.split()[1:5] == ["0.000", "0.0", "%", "0"]


def test_where_the_time_goes_as_csv():
    rows = list(csv.DictReader(io.StringIO(summary.where_csv(both()))))
    assert len({row["network"] for row in rows}) == 2
    assert {row["target"] for row in rows} == {"arm"}
    whole = sum(float(row["latency_ms"]) for row in rows if row["network"] == GHOSTNET.id)
    assert whole == pytest.approx(both()["latency_ms"], rel=1e-4)
