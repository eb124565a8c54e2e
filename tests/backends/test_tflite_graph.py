"""Files that other converters wrote; tests/golden/converted/make.py says how."""

from collections import Counter
from pathlib import Path

import pytest

from ghostnas.backends import tflite_graph, tflite_writer
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.ir.graph import Add, Conv, Dense, GlobalPool
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency.op_signature import signatures
from ghostnas.networks import classics, zoo
from ghostnas.networks.arch import lower

CONVERTED = Path(__file__).parents[1] / "golden" / "converted"
FILES = [CONVERTED / "keras-fp32.tflite", CONVERTED / "keras-int8.tflite"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_tensorflows_converter_is_read_op_by_op(path: Path) -> None:
    graph = tflite_graph.read(path)
    assert (graph.input_shape, graph.output_shape) == ((3, 32, 32), (10,))
    ops = [node.op for node in graph.nodes]
    # Padded as keras pads for a stride of 2: one op with its padding, as XNNPACK runs it.
    assert ops[1] == Conv(
        in_channels=3, out_channels=8, kernel=3, stride=2, bias=True, activation="relu6"
    )
    depthwise = [op for op in ops if isinstance(op, Conv) and op.depthwise]
    assert [(op.kernel, op.stride) for op in depthwise] == [(3, 1), (5, 2)]
    kinds = Counter(type(op).__name__ for op in ops)
    assert kinds == {
        "Input": 1,
        "Conv": 7,
        "Activation": 3,
        "GlobalPool": 2,
        "Multiply": 1,
        "Add": 2,
        "Pad": 1,
        "AvgPool": 1,
        "Concat": 1,
        "MaxPool": 1,
        "Flatten": 1,
        "Dense": 1,
    }
    assert [op.kind for op in ops if hasattr(op, "kind")] == ["hard_swish", "sigmoid", "sigmoid"]
    # 16x16: 27 x 8, 9 x 8, 8 x 8; 4 x 8 + 8 x 4 for the gate; 4x4: 25 x 16, 16 x 16; 16 x 10
    macs = 256 * (216 + 72 + 64) + 64 + 16 * (400 + 256) + 160
    assert cost.count(graph).macs == macs


def test_a_swish_is_a_sigmoid_and_a_product_of_two_maps() -> None:
    nodes = tflite_graph.read(FILES[0]).nodes
    [at] = [
        at
        for at, node in enumerate(nodes)
        if isinstance(node.op, Add) and node.inputs[0] == node.inputs[1] - 1
    ]
    assert nodes[at].shape == (16, 4, 4)


@pytest.mark.parametrize("name", ["mobilenet_wd4", "proxylessnas_mobile", "dla46c", "vovnet27s"])
def test_what_ghostnas_writes_is_read_as_the_ops_that_it_wrote(name: str) -> None:
    graph = classics.graph(name)
    model = tflite_writer.write(graph, random_weights(graph, seed=0))
    read = tflite_graph.parse(model, "model")
    found, wanted = (
        [op for op in signatures(each) if op.op != "flatten"] for each in (read, graph)
    )
    assert found == wanted


def test_a_ghostnet_is_read_but_for_the_gates_that_its_file_has_folded() -> None:
    graph = lower(zoo.ghostnet(0.5, 64, 10))
    model = tflite_writer.write(graph, random_weights(graph, seed=0))
    read, written = signatures(tflite_graph.parse(model, "model")), signatures(graph)
    without = [op._replace(activation="") for op in written if op.op != "hard_sigmoid"]
    assert [op._replace(activation="") for op in read] == without


def test_a_half_precision_file_is_read_as_the_same_graph() -> None:
    graph = classics.graph("mobilenetv2_wd4")
    weights = random_weights(graph, seed=0)
    whole, half = (tflite_writer.write(graph, weights, half=half) for half in (False, True))
    assert tflite_graph.parse(half, "half") == tflite_graph.parse(whole, "whole")


def test_a_graph_that_is_read_ends_in_a_pool_and_a_dense_layer() -> None:
    kinds = [type(node.op) for node in tflite_graph.read(FILES[1]).nodes]
    assert kinds[-3] is GlobalPool
    assert kinds[-1] is Dense


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tflite: cannot be read"):
        tflite_graph.read(tmp_path / "none.tflite")
    with pytest.raises(InputError, match=r"^x: is no \.tflite file$"):
        tflite_graph.parse(b"PK\x03\x04zip file", "x")
    content = FILES[0].read_bytes()
    with pytest.raises(InputError, match=r"^cut: "):
        tflite_graph.parse(content[: len(content) // 20], "cut")


def test_an_op_without_a_latency_is_named() -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = FILES[0].read_bytes()
    parsed = schema.ModelT.InitFromPackedBuf(model)
    for code in parsed.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.MAX_POOL_2D:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.L2_POOL_2D
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    with pytest.raises(InputError, match=r"changed: .* no latency here: L2_POOL_2D; known are ADD"):
        tflite_graph.parse(bytes(builder.Output()), "changed")
