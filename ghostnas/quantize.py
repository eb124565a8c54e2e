"""A float .tflite as int8: weights a channel, activations a tensor, ranges from given inputs.

It is the runtime's own quantiser, of which ai-edge-litert exports no public interface; a test keeps
watch over the private one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ghostnas.graph import Array

INT8, INT32 = np.dtype(np.int8).num, np.dtype(np.int32).num


def quantize(model: bytes, samples: Iterable[Sequence[Array]]) -> bytes:
    """The int8 form of a float32 model; its inputs and outputs are int8 too.

    Args:
        samples: inputs of the model, each a list of float32 arrays of the shapes it takes (NHWC),
            from whose runs the ranges are read.
    """
    from ai_edge_litert import _pywrap_tensorflow_lite_calibration_wrapper as runtime

    calibrator = runtime.CalibrationWrapper(model, [], [])
    for index, sample in enumerate(samples):
        if not index:
            calibrator.Prepare([list(each.shape) for each in sample])
        calibrator.FeedTensor(list(sample))
    quantized: bytes = calibrator.QuantizeModel(INT8, INT8, False, INT8, INT32, False, False)
    return quantized
