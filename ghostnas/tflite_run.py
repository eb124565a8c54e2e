"""Runs .tflite models, float32 or int8 at their ends, and says which part of one XNNPACK took."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghostnas.graph import Array


def load(model: bytes, *, threads: int = 1, xnnpack: bool = True) -> Any:
    """An interpreter of the model, ready to run."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=model, num_threads=threads, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    return interpreter


def delegates(interpreter: Any) -> tuple[int, bool]:
    """In how many parts XNNPACK took the model, and whether the output comes out of one."""
    taken = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    [output] = interpreter.get_output_details()
    return len(taken), any(output["index"] in op["outputs"] for op in taken)


def run(interpreter: Any, images: Array) -> Array:
    """Logits (n, classes) of `images` (n, 3, height, width), one picture after the other.

    Where the model takes or gives int8, this goes there and back by the model's own scales.
    """
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in images.astype(np.float32):
        interpreter.set_tensor(source["index"], _to(source, image.transpose(1, 2, 0))[None])
        interpreter.invoke()
        logits.append(_from(target, interpreter.get_tensor(target["index"])[0]))
    return np.stack(logits)


def _to(tensor: Any, values: Array) -> Array:
    if tensor["dtype"] == np.float32:
        return values
    scale, zero = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    whole: Array = np.clip(np.round(values / scale) + zero, limits.min, limits.max)
    return whole.astype(tensor["dtype"])


def _from(tensor: Any, values: Array) -> Array:
    if tensor["dtype"] == np.float32:
        return values
    scale, zero = tensor["quantization"]
    return (values.astype(np.float32) - np.float32(zero)) * np.float32(scale)
