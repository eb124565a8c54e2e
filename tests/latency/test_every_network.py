"""Every network that a command can make has a latency on every target that ships."""

import csv
import random
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import fit_to

GOLDEN = Path(__file__).parents[1] / "golden" / "latencies.csv"
GHOSTNET = space.load("ghostnet")
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


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", table.targets())
def test_every_network_has_a_latency_on_every_target(target, every):
    predictor = Predictor(table.load(target))
    borrowing = 0
    for arch in networks()[::every]:
        found = predictor.predict(arch)
        assert 0 <= found.low_ms < found.latency_ms < found.high_ms < 20 * found.latency_ms
        assert 0.01 < found.latency_ms < 2000
        borrowing += any("conv 32x32x3 " in str(op) for op in found.interpolated)
    assert borrowing > 20 / every  # stems whose stride is dropped, which no table has


@pytest.mark.parametrize("target", table.targets())
def test_a_stem_takes_longer_at_stride_1_than_at_2_with_less_than_half_the_pixels_to_make(target):
    costs = Predictor(table.load(target)).costs
    whole = zoo.ghostnet(1.0)
    strided, dropped = (
        costs.of_part(fit_to(whole, resolution=size, classes=10), 0) for size in (128, 96)
    )
    [op] = dropped.interpolated
    assert (op.stride, strided.ops) == (1, 1)
    assert dropped.latency_ms > strided.latency_ms


def test_what_was_known_is_predicted_as_before():
    with open(GOLDEN, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == set(table.targets())
    for row in rows:
        network = zoo.ghostnet(float(row["width"]), int(row["resolution"]), int(row["classes"]))
        found = Predictor(table.load(row["target"])).predict(network)
        expected = [float(row[key]) for key in ("latency_ms", "low_ms", "high_ms")]
        assert [found.latency_ms, found.low_ms, found.high_ms] == pytest.approx(expected, rel=1e-6)
