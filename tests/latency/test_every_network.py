"""Every network that a command can make has a latency on every target that ships."""

import csv
import random
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import small

from ghostnas.latency import table, targets
from ghostnas.latency.op_signature import signatures
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import classics, space, zoo
from ghostnas.networks.arch import fit_to, lower

GOLDEN = Path(__file__).parents[1] / "golden" / "latencies.csv"
GHOSTNET = space.load("ghostnet")
SOME = (small.TABLE, "arm", "s10-little4-int8", "mi8se-cpu1-int8", "rpi4-cpu4-fp32")
RESOLUTIONS, CLASSES = (32, 96, 224), (2, 10, 100, 1000)
WIDE = """
block = "mbconv"
alpha = 1.0
resolution = [160, 64, 32]
round_to = 4
stem = {channels = [12, 20]}
head = {channels = 60, features = 30}
group = [
    {stride = 1, depth = [1, 3], width = [24, 18], expansion = [4, 1], se = [0, 0.25], kernel = 7},
    {stride = 2, depth = [2, 1], width = 30, expansion = 3, se = 0.25, kernel = [1, 9, 11]},
]
"""


@cache
def networks():
    """Of the zoo, of the shipped space and of one with kernels that no table has."""
    archs = [zoo.named(name, width) for name in zoo.ZOO for width in (0.5, 1.0, 1.3)]
    rng = random.Random(0)
    for searched, count in ((GHOSTNET, 12), (space.parse(WIDE, "wide", "wide.toml"), 8)):
        archs += [searched.decode(searched.sample(rng)) for _ in range(count)]
    fitted = [
        fit_to(arch, resolution=resolution, classes=classes)
        for arch, (resolution, classes) in product(archs, zip(RESOLUTIONS, CLASSES, strict=False))
    ]
    return [*archs, *fitted, *(fit_to(arch, resolution=32, classes=1000) for arch in archs[:6])]


@pytest.mark.parametrize("target", SOME)
def test_every_network_has_a_latency(target):
    predictor = Predictor(table.load(target))
    for arch in networks():
        found = predictor.predict(arch)
        assert 0 <= found.low_ms < found.latency_ms < found.high_ms < 20 * found.latency_ms
        assert 0.01 < found.latency_ms < 2000
        assert bool(found.interpolated) <= (target == small.TABLE)


def test_every_target_has_a_latency_for_every_published_network():
    """No op of any network in classics and zoo is refused, whatever the device and the dtype."""
    ops = {op for name in classics.names() for op in signatures(classics.graph(name))}
    ops |= {op for arch in networks() for op in signatures(lower(arch))}
    for target in targets.targets().values():
        costs = [target.model.latency_ms(op, target.dtype) for op in ops]
        assert min(costs) > 0
        assert max(costs) < 2000


@pytest.mark.parametrize("target", SOME)
def test_a_stem_takes_longer_at_stride_1_than_at_2_with_less_than_half_the_pixels_to_make(target):
    costs = Predictor(table.load(target)).costs
    whole = zoo.ghostnet(1.0)
    strided, dropped = (
        costs.of_part(fit_to(whole, resolution=size, classes=10), 0) for size in (128, 96)
    )
    assert strided.ops == dropped.ops == 1
    assert dropped.latency_ms > strided.latency_ms


def test_what_was_known_is_predicted_as_before():
    with open(GOLDEN, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["target"] for row in rows}) > 10
    for row in rows:
        network = zoo.ghostnet(float(row["width"]), int(row["resolution"]), int(row["classes"]))
        found = Predictor(table.load(row["target"])).predict(network)
        expected = [float(row[key]) for key in ("latency_ms", "low_ms", "high_ms")]
        assert [found.latency_ms, found.low_ms, found.high_ms] == pytest.approx(expected, rel=1e-6)
