import random
from collections import Counter

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from small import write_space

from ghostnas.devices import op_models
from ghostnas.devices.runner import Model
from ghostnas.errors import InputError
from ghostnas.latency.interpolation import kind_of
from ghostnas.latency.op_signature import OPS, OpSignature, signatures
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import lower

# One of every kind of op that a network can run.
KINDS = [
    OpSignature("conv", 9, 8, 3, 16, 3, 2, "relu"),
    OpSignature("conv", 1, 1, 24, 8, 1, 1, "none"),
    OpSignature("conv", 4, 4, 1, 8, 3, 1, "relu6"),
    OpSignature("depthwise", 8, 8, 16, 16, 5, 2, "none"),
    OpSignature("depthwise", 7, 7, 8, 24, 3, 1, "relu"),
    OpSignature("maxpool", 9, 8, 16, 16, 3, 2, "none"),
    OpSignature("strip", 8, 8, 16, 16, 5, 1, "none"),
    OpSignature("product", 8, 8, 16, 16, 0, 0, "none"),
    OpSignature("upsample", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("channelconv", 1, 1, 16, 16, 3, 1, "none"),
    OpSignature("avgpool", 9, 8, 16, 16, 3, 1, "none"),
    OpSignature("avgpool", 8, 8, 16, 16, 2, 2, "none"),
    OpSignature("pad", 8, 8, 16, 16, 3, 1, "none"),
    OpSignature("affine", 8, 8, 16, 16, 0, 0, "relu"),
    OpSignature("dense", 1, 1, 64, 10, 0, 0, "none"),
    OpSignature("dense", 1, 1, 64, 10, 0, 0, "relu"),
    OpSignature("add", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("add", 4, 4, 16, 16, 0, 0, "relu"),
    OpSignature("multiply", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("concat", 4, 4, 8, 24, 0, 0, "none"),
    OpSignature("narrow", 4, 4, 9, 8, 0, 0, "none"),
    OpSignature("pool", 7, 7, 16, 16, 0, 0, "none"),
    OpSignature("flatten", 1, 1, 16, 16, 0, 0, "none"),
    OpSignature("relu", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("relu6", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("hard_swish", 4, 4, 16, 16, 0, 0, "none"),
    OpSignature("hard_sigmoid", 1, 1, 16, 16, 0, 0, "none"),
    OpSignature("sigmoid", 1, 1, 16, 16, 0, 0, "none"),
]
# By XNNPACK, as separate ops. Windows that do not overlap are averaged by a convolution.
REFUSED_IN_INT8 = {"relu", "relu6", "hard_swish", "avgpool"}
OF_TWO = {
    "add": lambda a, b: a + b,
    "multiply": lambda a, b: a * b,
    "product": lambda a, b: a * b,
    "concat": lambda a, b: np.concatenate([a, b], axis=-1),
}
SPACE = space.load("ghostnet")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> space.Space:
    return space.load(str(write_space(tmp_path_factory.mktemp("space"))))


@pytest.fixture
def without_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_models, "ZOO_WIDTHS", ())
    monkeypatch.setattr(op_models, "NETWORKS_WALKED", 20)


def run(model: bytes, inputs: list[np.ndarray]) -> np.ndarray:
    """The output for float inputs, without XNNPACK; an int8 model's is converted to float."""
    builtin = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=builtin)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        scale, zero = detail["quantization"]
        if scale:
            values = np.clip(np.round(values / scale) + zero, -128, 127)
        interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
    interpreter.invoke()
    [detail] = interpreter.get_output_details()
    output = interpreter.get_tensor(detail["index"])
    scale, zero = detail["quantization"]
    return (output.astype(float) - zero) * scale if scale else output


def shapes(signature: OpSignature) -> list[tuple[int, ...]]:
    interpreter = Interpreter(model_content=op_models.op_model(signature))
    return [tuple(detail["shape"]) for detail in interpreter.get_input_details()]


def test_every_op_has_its_kind_here() -> None:
    assert {signature.op for signature in KINDS} == set(OPS)


@pytest.mark.parametrize("signature", KINDS, ids=str)
def test_the_graph_of_an_op_has_its_signature(signature: OpSignature) -> None:
    assert signatures(op_models.op_graph(signature)) == [signature]


def test_the_ops_of_networks_are_of_these_kinds_and_their_graphs_have_their_signatures() -> None:
    ops = op_models.ops_of(SPACE, 4000)
    assert {op.op for op in ops} <= {op.op for op in KINDS}
    assert [op for op in ops if signatures(op_models.op_graph(op)) != [op]] == []


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("signature", KINDS, ids=str)
def test_xnnpack_takes_a_whole_model_or_is_known_to_refuse_it(
    signature: OpSignature, dtype: str
) -> None:
    model = Model("op", Interpreter, op_models.op_model(signature, dtype), 1)
    apart = signature.op == "avgpool" and signature.kernel == signature.stride
    refused = dtype == "int8" and signature.op in REFUSED_IN_INT8 and not apart
    assert model.refused == ("XNNPACK did not take it" if refused else None)
    details = model.interpreter.get_input_details() + model.interpreter.get_output_details()
    assert {detail["dtype"] for detail in details} == {np.int8 if dtype == "int8" else np.float32}
    assert len(model.inputs) == (2 if signature.op in OF_TWO else 1)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("signature", [op for op in KINDS if op.op in OF_TWO], ids=str)
def test_a_model_with_two_inputs_reads_both(signature: OpSignature, dtype: str) -> None:
    """The .tflite writer once took the first input twice."""
    rng = np.random.default_rng(3)
    a, b = (rng.uniform(-0.5, 0.5, shape) for shape in shapes(signature))
    expected = OF_TWO[signature.op](a, b)
    if signature.activation == "relu":
        expected = np.maximum(expected, 0)
    output = run(op_models.op_model(signature, dtype), [a, b])
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() < (1e-5 if dtype == "fp32" else 0.1)


def test_a_concatenation_in_int8_has_to_rescale_one_input_as_in_a_network() -> None:
    concat = OpSignature("concat", 14, 14, 80, 160, 0, 0, "none")
    interpreter = Interpreter(model_content=op_models.op_model(concat, "int8"))
    scales = [detail["quantization"][0] for detail in interpreter.get_input_details()]
    assert scales[1] > 1.8 * scales[0]
    assert [op["op_name"] for op in interpreter._get_ops_details()].count("QUANTIZE") == 1


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_a_whole_network_is_a_model_that_xnnpack_takes(dtype: str) -> None:
    model = op_models.network_model(zoo.ghostnet(0.5, 64, 10), dtype)
    assert Model("network", Interpreter, model, 1).refused is None


def test_models_are_the_same_every_time() -> None:
    assert [op_models.op_model(op) for op in KINDS] == [op_models.op_model(op) for op in KINDS]


def test_ops_of_is_deterministic_and_has_each_op_once(
    small: space.Space, without_zoo: None
) -> None:
    ops = op_models.ops_of(small, 1000, seed=1)
    assert ops == op_models.ops_of(small, 1000, seed=1)
    assert len(set(ops)) == len(ops)
    assert ops != op_models.ops_of(small, 1000, seed=2)


def test_fewer_ops_are_the_first_of_more(small: space.Space) -> None:
    ops = op_models.ops_of(small, 700)
    assert len(ops) == 700
    assert op_models.ops_of(small, 400) == ops[:400]


def test_a_small_space_has_fewer_ops_than_are_asked_for(
    small: space.Space, without_zoo: None
) -> None:
    ops = op_models.ops_of(small, 100_000)
    archs = [small.decode({}), *(small.decode(small.sample(random.Random(0))) for _ in range(3))]
    assert len(ops) < 1000
    assert set(ops) >= {op for arch in archs for op in signatures(lower(arch))}


def test_a_few_ops_of_every_kind_come_first(small: space.Space, without_zoo: None) -> None:
    every = Counter(map(kind_of, op_models.ops_of(small, 100_000)))
    few = {kind: min(count, op_models.OPS_A_KIND) for kind, count in every.items()}
    first = op_models.ops_of(small, sum(few.values()))
    assert Counter(map(kind_of, first)) == few


def test_too_few_ops_for_a_few_of_every_kind_are_an_error(
    small: space.Space, without_zoo: None
) -> None:
    kinds = Counter(map(kind_of, op_models.ops_of(small, 100_000)))
    needed = sum(min(count, op_models.OPS_A_KIND) for count in kinds.values())
    with pytest.raises(InputError, match=f"{needed - 1} ops are too few.*take {needed}$"):
        op_models.ops_of(small, needed - 1)
