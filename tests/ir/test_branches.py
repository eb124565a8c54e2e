"""Parallel branches as one convolution: what is merged, and that it computes the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.ir import cost, reference
from ghostnas.ir.branches import merge
from ghostnas.ir.fusion import deploy, fold, runs
from ghostnas.ir.graph import Activation, Add, BatchNorm, Builder, Conv, Graph
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower


def branch(graph, x, name, *, kernel=3, channels=8, stride=1, groups=8, norm=True):
    conv = Conv(in_channels=8, out_channels=channels, kernel=kernel, stride=stride, groups=groups)
    y = graph.add(f"{name}.conv", conv, x)
    return graph.add(f"{name}.norm", BatchNorm(channels=channels), y) if norm else y


def identity(graph, x, name):
    return graph.add(f"{name}.norm", BatchNorm(channels=8), x)


def summed(*builders, after=(), reused=False):
    """A graph of one sum of branches of the input, each built by `builder(graph, x, name)`."""
    graph = Builder((8, 6, 5))
    terms = [build(graph, 0, f"b{at}") for at, build in enumerate(builders)]
    total = terms[0]
    for at, term in enumerate(terms[1:]):
        total = graph.add(f"sum{at}", Add(), total, term)
    for kind in after:
        total = graph.add(f"after.{kind}", Activation(kind=kind), total)
    if reused:
        graph.add("again", Add(), total, terms[0])
    return graph.build()


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes]


def test_branches_and_an_identity_are_one_convolution_of_the_largest_kernel():
    graph = summed(
        lambda *at: branch(*at, kernel=1),
        identity,
        lambda *at: branch(*at, kernel=5),
        branch,
        after=["relu"],
    )
    [_, conv] = deploy(graph).nodes
    assert conv.op == Conv(
        in_channels=8, out_channels=8, kernel=5, groups=8, bias=True, activation="relu"
    )
    assert [run.node.name for run in runs(graph)] == ["input", "sum2"]
    counted = cost.count(graph)
    assert (counted.macs, counted.params) == (8 * 25 * 30, 8 * 25 + 8)


@settings(max_examples=30)
@given(
    kernels=st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=4),
    bare=st.booleans(),
    norm=st.booleans(),
    groups=st.sampled_from([1, 8]),
    seed=st.integers(0, 99),
)
def test_the_merged_graph_computes_the_same(kernels, bare, norm, groups, seed):
    builders = [
        lambda *at, kernel=kernel: branch(*at, kernel=kernel, groups=groups, norm=norm)
        for kernel in kernels
    ]
    graph = summed(*builders, *[identity] * bare, after=["relu"])
    weights = random_weights(graph, seed)
    images = np.random.default_rng(seed).normal(size=(2, 8, 6, 5))
    folded, found = fold(graph, weights)
    assert kinds(folded) == ["Input", "Conv"]
    expected = reference.run(graph, weights, images)
    assert reference.run(folded, found, images) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    "graph",
    {
        "two strides": summed(branch, lambda *at: branch(*at, stride=1, groups=1)),
        "a branch that is read again": summed(branch, branch, reused=True),
        "no convolution": summed(identity, identity),
        "activated between": summed(
            branch,
            lambda g, x, n: g.add(f"{n}.act", Activation(kind="relu"), branch(g, x, n)),
        ),
        "of another map": summed(branch, lambda g, x, n: branch(g, branch(g, x, f"{n}x"), n)),
    }.values(),
    ids=str,
)
def test_what_is_not_one_convolution_stays(graph):
    assert merge(graph) == graph


@pytest.mark.parametrize("name", ["ghostnetv3", "repghostnet"])
def test_a_named_networks_export_computes_what_its_training_did(name):
    graph = lower(zoo.named(name, 0.5, 64, 10))
    weights = random_weights(graph, 0)
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64))
    expected = reference.run(graph, weights, images)
    deployed, folded = fold(graph, weights)
    found = reference.run(deployed, folded, images)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert len(deployed.nodes) < len(graph.nodes) / 2


@pytest.mark.parametrize("name", ["ghostnet", "mobilenetv3-large", "ghostnetv2"])
def test_networks_without_branches_stay(name):
    graph = lower(zoo.named(name))
    assert merge(graph) is graph
