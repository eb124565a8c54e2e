"""Fills a latency table: each op as a TFLite model of its own, run on this machine."""

from __future__ import annotations

import datetime
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

import numpy as np

from ghostnas import tflite
from ghostnas.arch import lower
from ghostnas.errors import GhostnasError
from ghostnas.graph import (
    Activation,
    Add,
    Array,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Graph,
    Input,
    Multiply,
    Narrow,
    Op,
    random_weights,
)
from ghostnas.latency import OpSignature, Origin, Timing, signatures
from ghostnas.space import Space
from ghostnas.zoo import ZOO

EVICTED_BYTES = 32 << 20  # more than the last cache: in a network an op's weights are cold
WARM_UP_RUNS = 3
ZOO_WIDTHS = (0.5, 0.75, 1.0, 1.3)
HEAD_FEATURES = (16, 64, 256, 640, 1280, 1920)  # a space or a dataset may ask for any
CLASS_COUNTS = (2, 10, 50, 100, 400, 1000)


def ops_of(space: Space, networks: int, seed: int = 0) -> list[OpSignature]:
    """The signatures of the zoo and of so many random networks of a space, sorted, each once.

    Deterministic: the same space, number and seed give the same list.
    """
    rng = random.Random(seed)
    archs = [build(width, 224, 1000) for build in ZOO.values() for width in ZOO_WIDTHS]
    archs.append(space.decode({}))
    archs += [space.decode(space.sample(rng)) for _ in range(networks)]
    found = {signature for arch in archs for signature in signatures(lower(arch))}
    for features in HEAD_FEATURES:
        found.add(OpSignature("flatten", 1, 1, features, features, 0, 0, "none"))
        for classes in CLASS_COUNTS:
            found.add(OpSignature("dense", 1, 1, features, classes, 0, 0, "none"))
    return sorted(found)


def op_model(signature: OpSignature) -> bytes:
    """A .tflite of this one op, with random weights."""
    graph = op_graph(signature)
    return tflite.write(graph, random_weights(graph, seed=0))


def op_graph(signature: OpSignature) -> Graph:
    """A graph of this one op; its second input, if it takes one, is an `Input` too."""
    s = signature
    shape = (s.in_channels, s.height, s.width)
    graph = Builder((s.in_channels,) if s.op == "dense" else shape)
    second = {
        "add": shape,
        "multiply": (s.in_channels, 1, 1),
        "concat": (s.out_channels - s.in_channels, s.height, s.width),
    }
    inputs = [0]
    if s.op in second:
        other = second[s.op]
        inputs.append(graph.add("input1", Input(shape=other)))
    graph.add("op", _op(s), *inputs)
    return graph.build()


def time_ops(
    wanted: list[OpSignature], runs: int, report: Callable[[int, int], None]
) -> dict[OpSignature, Timing]:
    """Measure ops one after the other on this machine, one thread, with cold weights.

    Args:
        report: called with the number done and the number wanted.

    Raises:
        GhostnasError: XNNPACK did not take an op.
    """
    timings = {}
    for done, signature in enumerate(wanted):
        report(done, len(wanted))
        timings[signature] = _timing(list(_times_ms(signature, runs)))
    report(len(wanted), len(wanted))
    return timings


def local_origin() -> Origin:
    """The origin of a table that is measured on this machine."""
    return Origin(
        device=platform.node() or "local",
        soc=platform.processor() or "unknown",
        core=platform.machine(),
        clock_mhz=0,
        threads=1,
        runtime=f"ai-edge-litert {version('ai-edge-litert')}",
        delegate="XNNPACK",
        dtype="fp32",
        method="measured",
        op_error=0.05,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        notes=f"not pinned to a core; {os.cpu_count()} cores; clock not read",
    )


def _times_ms(signature: OpSignature, runs: int) -> Iterator[float]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=op_model(signature), num_threads=1)
    interpreter.allocate_tensors()
    if not any(op["op_name"] == "DELEGATE" for op in interpreter._get_ops_details()):
        raise GhostnasError(f"{signature}: XNNPACK did not take it; its time would mislead")
    rng = np.random.default_rng(0)
    for detail in interpreter.get_input_details():
        values = rng.normal(size=detail["shape"]).astype(np.float32)
        interpreter.set_tensor(detail["index"], values)
    evictor = np.zeros(EVICTED_BYTES, np.uint8)
    for run in range(WARM_UP_RUNS + runs):
        evictor += 1
        _touch(interpreter.get_input_details(), interpreter)
        start = time.perf_counter()
        interpreter.invoke()
        if run >= WARM_UP_RUNS:
            yield 1e3 * (time.perf_counter() - start)


def _touch(details: list[Mapping[str, object]], interpreter: object) -> None:
    """Bring the inputs back into the cache, where the op before would have left them."""
    for detail in details:
        tensor: Array = interpreter.tensor(detail["index"])()  # type: ignore[attr-defined]
        tensor.sum()


def _timing(times_ms: list[float]) -> Timing:
    p10, median, p90 = np.percentile(times_ms, [10, 50, 90])
    return Timing(float(median), float(p10), float(p90), len(times_ms))


def _op(s: OpSignature) -> Op:
    match s.op:
        case "conv" | "depthwise":
            return Conv(
                in_channels=s.in_channels,
                out_channels=s.out_channels,
                kernel=s.kernel,
                stride=s.stride,
                groups=s.in_channels if s.op == "depthwise" else 1,
                bias=True,
                activation=s.activation,  # type: ignore[arg-type]
            )
        case "dense":
            return Dense(
                in_features=s.in_channels,
                out_features=s.out_channels,
                activation=s.activation,  # type: ignore[arg-type]
            )
        case "add":
            return Add(activation=s.activation)  # type: ignore[arg-type]
        case "multiply":
            return Multiply()
        case "concat":
            return Concat()
        case "narrow":
            return Narrow(channels=s.out_channels)
        case "pool":
            return GlobalPool()
        case "flatten":
            return Flatten()
        case _:
            return Activation(kind=s.op)  # type: ignore[arg-type]
