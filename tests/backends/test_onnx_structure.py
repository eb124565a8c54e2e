"""The file for Netron is the network, its nodes named by stage and block."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import ghostnas
from ghostnas.backends import onnx_writer
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower, lower_by_place


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "ghostnet.onnx"
    ghostnas.show("ghostnet", width=0.2, resolution=64, target="arm", onnx=path)
    return path


def test_nodes_are_named_by_their_place_and_say_what_the_block_costs(file: Path) -> None:
    model = onnx.load(str(file))
    onnx.checker.check_model(model, full_check=True)
    places = {node.name.split("/")[0] for node in model.graph.node if "/" in node.name}
    assert places == {"stem", *(f"stage{number}" for number in range(1, 6)), "head"}
    [node] = [each for each in model.graph.node if each.name == "stage3/block2/se/conv_reduce.raw"]
    assert node.doc_string.startswith("G-bneck (stage3/block2): ")
    assert " ms in all" in node.doc_string
    assert model.graph.name == "ghostnet 0.2x"


def test_every_map_has_its_shape(file: Path) -> None:
    model = onnx.load(str(file))
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    assert {output for node in model.graph.node for output in node.output} <= known


def test_it_computes_what_the_network_does(file: Path) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    graph = lower(zoo.ghostnet(0.2, 64))
    expected = onnx_writer.run(onnx_writer.write(graph, random_weights(graph, 0)), images)
    np.testing.assert_allclose(onnx_writer.run(file.read_bytes(), images), expected, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_places_change_names_only(name: str) -> None:
    arch = zoo.named(name)
    plain, placed = lower(arch), lower_by_place(arch)
    assert len({node.name for node in placed.nodes}) == len(plain.nodes)
    assert [node[1:] for node in placed.nodes] == [node[1:] for node in plain.nodes]
    ends = [node.name.rpartition(".")[2] for node in plain.nodes]
    assert [node.name.rpartition("/")[2] for node in placed.nodes] == ends
