"""Which maps of a network are looked at, and whose weights it has."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ghostnas.errors import InputError
from ghostnas.ir import weights
from ghostnas.ir.graph import Concat, weight_shapes
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.paper import maps
from ghostnas.paper.subjects import Subject


@pytest.mark.parametrize(
    ("network", "shape", "intrinsic"),
    [
        ("vgg16", (64, 32, 32), None),
        ("ghost-vgg16", (64, 32, 32), 32),
        ("resnet56", (16, 32, 32), None),
        ("ghostnet", (16, 112, 112), 8),
    ],
)
def test_the_second_layer(network: str, shape: tuple, intrinsic: int | None) -> None:
    graph = zoo.graph(network)
    at, first = maps.second_layer(graph)
    assert graph.nodes[at].shape == shape
    assert first == intrinsic
    assert isinstance(graph.nodes[at].op, Concat) is (intrinsic is not None)


def test_the_first_residual_block_ends_after_its_activation() -> None:
    graph = zoo.graph("resnet50")
    node = graph.nodes[maps.first_residual_block(graph)]
    assert node.shape == (256, 56, 56)
    assert node.name.startswith("activation")


def test_weights_of_a_file_are_what_the_network_runs_with(tmp_path: Path) -> None:
    subject = Subject(network="resnet9", width=0.125)
    graph = zoo.graph("resnet9", 0.125)
    weights.save(random_weights(graph, 3), tmp_path / "w.safetensors")
    seen = maps.look(subject, None, tmp_path / "w.safetensors", 32, 10)
    other = maps.look(subject, None, None, 32, 10)
    assert seen.trained
    assert not other.trained
    assert not np.array_equal(seen.values[1], other.values[1])
    wider = Subject(network="resnet9", width=0.25)
    with pytest.raises(InputError, match="another network's"):
        maps.look(wider, None, tmp_path / "w.safetensors", 32, 10)


def test_torchvisions_names_of_resnet50(tmp_path: Path) -> None:
    """Shapes of its own state dict, here by its naming rule: a wrong order cannot fit them."""
    graph = zoo.graph("resnet50")
    names = maps._torchvision_names(graph)
    made = {}
    for node in graph.nodes:
        for key, shape in weight_shapes(node).items():
            made[key.replace(node.name, names.get(node.name, ""), 1)] = torch.zeros(shape)
    assert made["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert made["layer2.0.conv2.weight"].shape == (128, 128, 3, 3)
    assert made["layer2.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    assert made["layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    assert made["fc.weight"].shape == (1000, 2048)
    assert set(maps.fitted(graph, made, tmp_path)) == {
        key for node in graph.nodes for key in weight_shapes(node)
    }
