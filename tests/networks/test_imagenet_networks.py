"""The networks that the paper compares: every one runs, and counts what its authors say."""

import numpy as np
import pytest

from ghostnas.errors import InputError
from ghostnas.ir import cost, reference
from ghostnas.ir.graph import Concat, Narrow
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import cifar_networks, classics, imagenet_networks, zoo
from ghostnas.networks.classic_blocks import Layers

# Parameters as in torchvision and timm; MnasNet-A1 and ProxylessNAS as in timm.
PARAMS = {
    "resnet50": 25_557_032,
    "mobilenetv1": 4_231_976,
    "mobilenetv2": 3_504_872,
    "mnasnet-a1": 3_887_038,
    "proxylessnas-mobile": 4_080_512,
    "shufflenetv2": 2_278_604,
}


@pytest.mark.parametrize("name", sorted({*imagenet_networks.NETWORKS, *cifar_networks.NETWORKS}))
def test_every_network_runs_at_a_small_size(name: str) -> None:
    size = 32 if name in cifar_networks.NETWORKS else 64
    graph = zoo.graph(name, resolution=size, classes=5)
    assert graph.output_shape == (5,)
    assert cost.count(graph).params > 0


@pytest.mark.parametrize("name", ["ghost-resnet56", "shufflenetv1-g3", "mnasnet-a1"])
def test_the_reference_runs_them(name: str) -> None:
    graph = zoo.graph(name, resolution=32, classes=5)
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    answer = reference.run(graph, random_weights(graph, 0), image)
    assert answer.shape == (1, 5)
    assert np.isfinite(answer).all()


@pytest.mark.parametrize(("name", "params"), PARAMS.items())
def test_parameters_are_those_of_the_published_network(name: str, params: int) -> None:
    assert cost.count(zoo.graph(name)).params == params


def test_fbnet_c_has_about_as_many_as_its_authors_print() -> None:
    assert cost.count(zoo.graph("fbnet-c")).params == pytest.approx(5.5e6, rel=0.02)


def test_ghost_resnet50_keeps_its_first_convolution() -> None:
    graph = zoo.graph("ghost-resnet50")
    assert graph.nodes[1].shape == (64, 112, 112)
    assert graph.output_shape == (1000,)


def test_a_shuffle_exchanges_maps_between_groups() -> None:
    """Zhang et al., 2018, figure 1: reshape to groups, transpose, flatten."""
    net = Layers((12, 2, 2))
    imagenet_networks._shuffle(net, 0, 3)
    graph = net.build()
    order = [node.op.start for node in graph.nodes if isinstance(node.op, Narrow)]
    assert order == np.arange(12).reshape(3, 4).T.ravel().tolist()
    assert isinstance(graph.nodes[-1].op, Concat)


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [
        ("fbnet-b", 0.5, "comes in width 1"),
        ("shufflenetv2", 0.75, "comes in widths 0.5, 1, 1.5, 2"),
        ("resnet18", 0.5, "has its width in its name"),
        ("vgg61", 1.0, "unknown network 'vgg61'.*did you mean vgg16"),
    ],
)
def test_what_there_is_not_is_one_line(name: str, width: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.graph(name, width)


def test_too_small_images_are_one_line() -> None:
    with pytest.raises(InputError, match="does not run at 16 pixels"):
        zoo.graph("vgg16", resolution=16)


def test_the_networks_of_classics_are_named_too() -> None:
    assert zoo.graph("resnet18") == classics.graph("resnet18")
