"""Float models as int8: weights per channel, activations per tensor, ranges from given inputs.

The runtimes' own quantisers do it. TFLite's has no public interface in ai-edge-litert; a test
watches over the private one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import flatbuffers
import numpy as np

from ghostnas.arrays import Array

INT8, INT32 = np.dtype(np.int8).num, np.dtype(np.int32).num
NO_RANGE, RANGE_OF_DEAD = 1e-6, 0.1  # the latter keeps all scales within what XNNPACK computes
BATCH = 16  # images of which onnxruntime keeps all maps


def quantize(model: bytes, samples: Iterable[Sequence[Array]]) -> bytes:
    """The int8 form of a float32 .tflite model; its inputs and outputs are int8 too.

    Args:
        samples: inputs of the model, each a list of float32 arrays of the shapes it takes (NHWC),
            from whose runs the ranges are taken.
    """
    from ai_edge_litert import _pywrap_tensorflow_lite_calibration_wrapper as runtime

    calibrator = runtime.CalibrationWrapper(model, [], [])
    for index, sample in enumerate(samples):
        if not index:
            calibrator.Prepare([list(each.shape) for each in sample])
        calibrator.FeedTensor(list(sample))
    if (widened := _widen_dead_ranges(calibrator.Calibrate())) is not None:
        calibrator = runtime.CalibrationWrapper(widened, [], [])
    quantized: bytes = calibrator.QuantizeModel(INT8, INT8, False, INT8, INT32, False, False)
    return quantized


def _widen_dead_ranges(calibrated: bytes) -> bytes | None:
    """The model with a range for maps that were 0 in all samples; None if there were none.

    Trained networks have such maps: all inner ReLUs of a squeeze-and-excitation may be dead. Their
    scale would be 0, which XNNPACK refuses.
    """
    from ai_edge_litert import schema_py_generated as schema

    parsed = schema.ModelT.InitFromPackedBuf(calibrated)
    found = [tensor.quantization for tensor in parsed.subgraphs[0].tensors]
    ranges = [each for each in found if each is not None and each.min is not None]
    dead = [each for each in ranges if each.max[0] - each.min[0] < NO_RANGE]
    if not dead:
        return None
    for each in dead:
        each.max = [each.min[0] + RANGE_OF_DEAD]
    builder = flatbuffers.Builder(len(calibrated))
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def nhwc_samples(images: Array) -> Iterator[list[Array]]:
    """Images (n, 3, height, width) as the samples of a model with that one input."""
    for image in images:
        yield [np.ascontiguousarray(image.transpose(1, 2, 0)[None], np.float32)]


def quantize_onnx(model: bytes, images: Array) -> bytes:
    """The int8 form of a float32 ONNX model in QDQ form; inputs and outputs stay float32.

    Weights are signed and activations are not: GhostNet at 224 took 2.2 times as long on x86 with
    both signed. Weights stay within -64 and 64: x86 without VNNI adds two products of a uint8
    and an int8 in 16 bits, which 2 * 255 * 64 still fits. With all 8 bits those sums saturate, and
    one small network then put another class first for 56 % of the images.

    Args:
        images: float32 (n, 3, height, width) for the model's one input.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    parsed = onnx.load_from_string(model)
    add_pre_process_metadata(parsed)  # otherwise it logs advice; shapes are known here anyway
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            parsed,
            path,
            _reader(parsed.graph.input[0].name, images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
        )
        return path.read_bytes()


def _reader(name: str, images: Array) -> object:
    """`images` in batches, as onnxruntime asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._at = 0

        def get_next(self) -> dict[str, Array] | None:
            batch = images[self._at : self._at + BATCH]
            self._at += BATCH
            return {name: batch.astype(np.float32)} if len(batch) else None

    return Reader()
