"""Runs .tflite models with float32 or int8 inputs and outputs; says which part XNNPACK took."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import GhostnasError

STDERR = 2
NEWS = b"INFO: "  # how LiteRT begins a line that nobody needs to act on


def load(model: bytes, *, threads: int = 1, xnnpack: bool = True) -> Any:
    """An interpreter of the model, ready to run."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with _without_news():
        interpreter = Interpreter(
            model_content=model, num_threads=threads, experimental_op_resolver_type=resolver
        )
        interpreter.allocate_tensors()
    return interpreter


def delegates(interpreter: Any) -> tuple[int, bool]:
    """In how many parts XNNPACK took the model, and whether the output comes from one."""
    taken = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    [output] = interpreter.get_output_details()
    return len(taken), any(output["index"] in op["outputs"] for op in taken)


def run(interpreter: Any, images: Array) -> Array:
    """Logits (n, classes) of `images` (n, 3, height, width), one image at a time.

    If the model takes or gives int8, values are converted by the model's own scales.
    """
    [source], [target] = interpreter.get_input_details(), interpreter.get_output_details()
    logits = []
    for image in images.astype(np.float32):
        interpreter.set_tensor(source["index"], _to(source, image.transpose(1, 2, 0))[None])
        interpreter.invoke()
        logits.append(_from(target, interpreter.get_tensor(target["index"])[0]))
    return np.stack(logits)


def run_model(model: bytes, images: Array, *, xnnpack: bool = True) -> Array:
    """Logits (n, classes) of `images` (n, 3, height, width), one image at a time.

    Raises:
        GhostnasError: with `xnnpack`, if that delegate did not take the whole graph at once.
    """
    interpreter = load(model, xnnpack=xnnpack)
    parts, _ = delegates(interpreter)
    if xnnpack and parts != 1:
        raise GhostnasError(f"XNNPACK took the .tflite model in {parts} parts, not in one")
    return run(interpreter, images)


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


@contextmanager
def _without_news() -> Iterator[None]:
    """What the runtime writes to stderr meanwhile follows afterwards, without its INFO lines.

    LiteRT says once per process that it made an XNNPACK delegate. Its Python has no setting for
    that and reads no environment variable: its lines can only be caught at the descriptor.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(STDERR)
    except (OSError, ValueError):  # a process without stderr
        yield
        return
    try:
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), STDERR)
            try:
                yield
            finally:
                os.dup2(kept, STDERR)
                said.seek(0)
                for line in said:
                    if not line.startswith(NEWS):
                        os.write(STDERR, line)
    finally:
        os.close(kept)
