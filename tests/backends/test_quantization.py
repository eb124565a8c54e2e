import random
from dataclasses import replace

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from small import numbered

from ghostnas.backends import onnx_writer, tflite_runtime, tflite_writer
from ghostnas.backends.quantization import nhwc_samples, quantize, quantize_onnx
from ghostnas.devices import op_models
from ghostnas.ir.graph import Builder, Concat, Conv, Dense
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import lower


def interpreter_of(model: bytes) -> Interpreter:
    builtin = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=builtin)
    interpreter.allocate_tensors()
    return interpreter


def run_int8(model: bytes, images: np.ndarray) -> np.ndarray:
    """Logits of float images (n, height, width, 3), as floats."""
    interpreter = interpreter_of(model)
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in images:
        scale, zero = source["quantization"]
        values = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], values[None])
        interpreter.invoke()
        scale, zero = target["quantization"]
        output = interpreter.get_tensor(target["index"])[0].astype(float)
        logits.append((output - zero) * scale)
    return np.stack(logits)


def op_names(model: bytes) -> list[str]:
    return [op["op_name"] for op in interpreter_of(model)._get_ops_details()]


def test_the_runtime_still_has_its_private_quantiser() -> None:
    """ghostnas.quantize depends on it: look there if this fails after an upgrade."""
    from ai_edge_litert import _pywrap_tensorflow_lite_calibration_wrapper as private

    wrapper = private.CalibrationWrapper
    assert set(dir(wrapper)) >= {"Prepare", "FeedTensor", "Calibrate", "QuantizeModel"}
    kinds = ("int", "int", "bool", "int", "int", "bool", "bool")
    arguments = ", ".join(f"arg{index}: {kind}" for index, kind in enumerate(kinds))
    assert f", {arguments})" in wrapper.QuantizeModel.__doc__


def test_a_network_in_int8_agrees_with_itself_in_float() -> None:
    graph = lower(zoo.ghostnet(0.5, 64, 10))
    model = tflite_writer.write(graph, random_weights(graph, seed=0))
    images = np.random.default_rng(0).normal(size=(16, 64, 64, 3)).astype(np.float32)
    quantized = quantize(model, [[image[None]] for image in images])
    logits, expected = (
        run_int8(quantized, images),
        tflite_runtime.run_model(model, images.transpose(0, 3, 1, 2)),
    )
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(logits, expected, strict=True)]
    assert np.mean(correlations) > 0.95
    assert len(quantized) < len(model) / 2


def test_inputs_and_outputs_are_int8_and_so_are_the_weights() -> None:
    model = op_models.network_model(zoo.ghostnet(0.5, 64, 10), "int8")
    interpreter = interpreter_of(model)
    details = interpreter.get_input_details() + interpreter.get_output_details()
    assert [detail["dtype"] for detail in details] == [np.int8, np.int8]
    kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert kinds <= {np.int8, np.int32}


def test_weights_have_a_scale_for_each_channel() -> None:
    graph = Builder((3, 8, 8))
    graph.add("conv", Conv(in_channels=3, out_channels=16, kernel=3, bias=True), 0)
    built = graph.build()
    model = tflite_writer.write(built, random_weights(built, seed=0))
    quantized = quantize(model, [[np.ones((1, 8, 8, 3), np.float32)]])
    details = interpreter_of(quantized).get_tensor_details()
    assert 16 in [len(detail["quantization_parameters"]["scales"]) for detail in details]


@pytest.mark.parametrize(("factor", "rescaled"), [(1.0, False), (4.0, True)])
def test_a_concatenation_of_different_ranges_is_rescaled(factor: float, rescaled: bool) -> None:
    """XNNPACK runs that as an extra op, so it counts towards a concatenation's time."""
    graph = Builder((4, 8, 8))
    branches = [graph.add(name, Conv(in_channels=4, out_channels=4, bias=True), 0) for name in "ab"]
    graph.add("concat", Concat(), *branches)
    built = graph.build()
    weights = random_weights(built, seed=0)
    for key in ("weight", "bias"):
        weights[f"b.{key}"] = factor * weights[f"a.{key}"]
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    names = op_names(quantize(tflite_writer.write(built, weights), [[image]]))
    assert names.count("CONV_2D") == 2
    assert names.count("CONCATENATION") == 1
    assert ("QUANTIZE" in names) == rescaled


def test_the_ranges_are_those_of_all_samples() -> None:
    graph = Builder((3, 8, 8))
    graph.add("conv", Conv(in_channels=3, out_channels=16, kernel=3, bias=True), 0)
    built = graph.build()
    model = tflite_writer.write(built, random_weights(built, seed=0))
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    one, two = (
        interpreter_of(quantize(model, samples)).get_input_details()[0]["quantization"][0]
        for samples in ([[image]], [[image], [10 * image]])
    )
    assert two == pytest.approx(10 * one, rel=0.01)


def test_int8_onnx_saturates_on_no_cpu() -> None:
    """x86 without VNNI adds two products of a uint8 and an int8 in 16 bits (vpmaddubsw)."""
    graph = lower(zoo.ghostnet(0.25, 32, 10))
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    model = onnx.load_from_string(
        quantize_onnx(onnx_writer.write(graph, random_weights(graph, seed=0)), images)
    )
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    multiplied = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(multiplied) == sum(isinstance(n.op, Conv | Dense) for n in graph.nodes)
    largest = np.iinfo(np.uint8).max
    for node in multiplied:
        weight, _, zero = (constants[name] for name in producers[node.input[1]].input)
        assert weight.dtype == np.int8
        assert not zero.any()
        pairs = 2 * largest * np.abs(weight.astype(int)).max()
        assert 0.9 * np.iinfo(np.int16).max < pairs <= np.iinfo(np.int16).max


@pytest.mark.parametrize("seed", numbered(50, by_default=0))
def test_wide_networks_in_int8_follow_float_and_run_whole_in_xnnpack(seed: int) -> None:
    rng = random.Random(seed)
    searched = replace(space.load("ghostnet-wide"), classes=10)
    arch = replace(searched.decode(searched.sample(rng)), resolution=rng.choice([32, 33, 48]))
    graph = lower(arch)
    weights = random_weights(graph, seed)
    images = np.random.default_rng(seed).normal(size=(8, *graph.input_shape)).astype(np.float32)
    model = tflite_writer.write(graph, weights)
    expected = tflite_runtime.run_model(model, images)
    quantized = quantize(model, nhwc_samples(images))
    found = tflite_runtime.run_model(quantized, images)  # refuses more than one XNNPACK delegate
    builtin = run_int8(quantized, images.transpose(0, 2, 3, 1))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.995
    assert np.abs(found - builtin).max() < 0.1 * np.abs(builtin).max()
    in_onnx = onnx_writer.run(quantize_onnx(onnx_writer.write(graph, weights), images), images)
    assert np.corrcoef(in_onnx.ravel(), expected.ravel())[0, 1] > 0.995
